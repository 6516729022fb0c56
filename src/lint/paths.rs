//! Paths at a server that nobody can read as ones that lead elsewhere.

/// What is wrong with a path, if it may leave the server's root, whoever reads it and however often it is decoded.
pub fn path_fault(path: &str) -> Option<&'static str> {
    let Some(segments) = path.strip_prefix('/') else {
        return Some("must begin with a slash, such as `/v1/audio/speech`");
    };
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Some("must not hold an empty segment");
        }
        if !is_safe_segment(segment) {
            return Some("holds a segment that is not allowed");
        }
    }
    None
}

fn is_safe_segment(segment: &str) -> bool {
    let plain = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
                    | b'%'
            )
    };
    if !segment.bytes().all(plain) {
        return false;
    }
    // What it may become when somebody decodes it, and when somebody decodes that.
    let mut decoded = segment.as_bytes().to_vec();
    for _ in 0..4 {
        let forbidden =
            decoded.iter().any(|b| matches!(b, b'/' | b'\\' | b'?' | b'#') || b.is_ascii_control());
        if forbidden || leads_up(&decoded) || has_overlong_form(&decoded) {
            return false;
        }
        let Some(next) = percent_decoded(&decoded) else { return false };
        if next == decoded {
            return true;
        }
        decoded = next;
    }
    // Encoded so often for no good reason.
    false
}

/// Whether a segment is one of dots. Some servers (Tomcat, Jetty) take what stands behind a semicolon for parameters.
fn leads_up(segment: &[u8]) -> bool {
    let name = segment.split(|b| *b == b';').next().unwrap_or_default();
    let mut visible = name.iter().filter(|b| **b != b' ').peekable();
    // What is empty before a semicolon may become an empty segment.
    let is_empty = visible.peek().is_none() && !segment.is_empty();
    is_empty || (visible.clone().count() <= 2 && visible.peek().is_some() && visible.all(|b| *b == b'.'))
}

/// Whether old decoders would read ASCII characters, such as dots and slashes, out of longer forms of UTF-8.
fn has_overlong_form(segment: &[u8]) -> bool {
    let is_overlong = |pair: &[u8]| {
        matches!(pair, [0xc0 | 0xc1 | 0xf8..=0xff, _] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f])
    };
    segment.windows(2).any(is_overlong) || matches!(segment.last(), Some(0xc0 | 0xc1))
}

/// What a part of a path is once it is decoded; `None` where a percent sign is not followed by two digits.
pub fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_paths_pass() {
        for path in [
            "/v1/audio/speech",
            "/",
            "/v1/files/file-abc123/content",
            "/api/show",
            "/a%20b",
            "/v1/",
            "/models/gpt-4o:latest",
            "/x/.../y",
            "/a;b=c/x",
            "/...;/y",
            "/%c3%b3%C4%85",
            "/%e0%a4%85",
            "/%f0%9f%98%80",
        ] {
            assert_eq!(path_fault(path), None, "{path}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "v1/models",
            "//evil.example/x",
            "/v1//x",
            "/../x",
            "/v1/..",
            "/v1/.",
            "/./x",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e",
            "/%252e%252e/x",
            "/%25252e%25252e",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "http://evil/x",
            "https://evil",
            "/x?y=1",
            "/x#y",
            "/x\r\nHost: evil",
            "/x%0d%0aHost:evil",
            "/x%00",
            "/%",
            "/%zz",
            "/ż",
            "/a b",
            "/%2",
            "/..%20",
            "/..;/x",
            "/..;a=b/x",
            "/.;/x",
            "/%2e%2e;/x",
            "/..%3bx/y",
            "/%252e%252e%253b/x",
            "/;/x",
            "/;a=b/x",
            "/%20;/x",
            "/%c0%ae%c0%ae/x",
            "/%c0%af",
            "/%C1%9C",
            "/%e0%80%af",
            "/%f0%80%80%af",
            "/%f8%80%80%80%af",
            "/%25c0%25ae",
            "/a%c0",
        ] {
            assert!(path_fault(path).is_some(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_below_the_root(path in "/[a./%2ef5cC\\\\?#:@ \r\n-]{0,16}") {
            if path_fault(&path).is_none() {
                let url = reqwest_like(&path);
                prop_assert!(url.starts_with("/base/"), "{path:?} became {url:?}");
            }
        }
    }

    /// The path as a URL parser sees it, dots resolved.
    fn reqwest_like(path: &str) -> String {
        let uri: http::Uri = format!("http://host/base{path}").parse().unwrap();
        let mut kept: Vec<String> = Vec::new();
        for segment in uri.path().split('/').skip(1) {
            let decoded = percent_decoded(segment.as_bytes()).unwrap_or_default();
            match decoded.as_slice() {
                b".." => drop(kept.pop()),
                b"." => {}
                _ => kept.push(segment.to_owned()),
            }
        }
        format!("/{}", kept.join("/")) + if kept.len() == 1 { "/" } else { "" }
    }
}

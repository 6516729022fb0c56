//! Until when a certificate is valid: the one thing about it that has to be known before callers notice.
//!
//! Follows the few nested lengths (DER) that lead to the date (RFC 5280, 4.1) and reads nothing else. Whether the certificate
//! is any good is for rustls to say.

use crate::callers::Zone;

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
/// Years of two digits.
const UTC_TIME: u8 = 0x17;
/// Years of four digits.
const GENERALIZED_TIME: u8 = 0x18;
/// Which version of the format it is, where that is stated.
const VERSION: u8 = 0xa0;

/// When a certificate ends to be valid, in milliseconds since 1970; `None` if that cannot be read.
pub(super) fn expires_ms(der: &[u8]) -> Option<i64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, behind)) = element(fields, VERSION) {
        fields = behind;
    }
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, fields) = element(fields, tag)?;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let is_time = |tag: &u8| matches!(*tag, UTC_TIME | GENERALIZED_TIME);
    let (_, behind) = element(validity, *validity.first().filter(|tag| is_time(tag))?)?;
    let tag = *behind.first()?;
    let (time, _) = element(behind, tag)?;
    moment(tag, std::str::from_utf8(time).ok()?)
}

/// The content of the element in front, which must be of this kind, and what is behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*length) {
        short @ 0..=0x7f => (short, rest),
        // So many bytes of length follow; more than four are not those of any certificate.
        long @ 0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn moment(tag: u8, text: &str) -> Option<i64> {
    let text = match tag {
        UTC_TIME => {
            let year: u8 = text.get(..2)?.parse().ok()?;
            format!("{}{text}", if year < 50 { "20" } else { "19" })
        }
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    let moment = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    Zone::default().moment_or_day(&moment).map(|(moment, _)| moment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::moment_as_text;

    fn expires(year: i32) -> Option<String> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1999, 1, 2);
        params.not_after = rcgen::date_time_ymd(year, 3, 4);
        expires_ms(params.self_signed(&key).unwrap().der()).map(moment_as_text)
    }

    #[test]
    fn the_end_is_read_of_either_form_of_years() {
        for year in [2001, 2026, 2049, 2050, 2199] {
            assert_eq!(expires(year), Some(format!("{year}-03-04T00:00:00Z")));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let der = certificate.der();
        for cut in 0..100 {
            assert_eq!(expires_ms(&der[..cut]), None);
        }
        for text in [&b""[..], b"0", b"0\x84\xff\xff\xff\xff", b"0\x80"] {
            assert_eq!(expires_ms(text), None);
        }
    }
}

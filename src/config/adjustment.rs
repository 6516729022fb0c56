//! Points for models by their names: what an operator thinks of whole families, also of models that are found later.

use regex::{Regex, RegexBuilder};

/// What one expression may take, compiled. Those that pick out names take a few kilobytes.
const MOST_BYTES: usize = 1 << 20;

/// A group of expressions, and the points of the models that they find.
#[derive(Clone, Debug)]
pub struct Adjustment {
    /// Added to a score, or taken off it.
    points: f64,
    patterns: Vec<Regex>,
}

impl PartialEq for Adjustment {
    fn eq(&self, other: &Self) -> bool {
        let texts = |it: &Self| it.patterns.iter().map(|regex| regex.as_str().to_owned()).collect::<Vec<_>>();
        self.points.total_cmp(&other.points).is_eq() && texts(self) == texts(other)
    }
}

impl Adjustment {
    /// A group. Its expressions look for their place anywhere in a name, whatever the case of its letters.
    ///
    /// # Errors
    /// Each expression that cannot be read, with the reason.
    pub fn new(points: f64, patterns: &[String]) -> Result<Self, Vec<(String, String)>> {
        let (mut read, mut unread) = (Vec::new(), Vec::new());
        for pattern in patterns {
            let built = RegexBuilder::new(pattern)
                .case_insensitive(true)
                .size_limit(MOST_BYTES)
                .dfa_size_limit(MOST_BYTES)
                .build();
            match built {
                Ok(regex) => read.push(regex),
                Err(error) => unread.push((pattern.clone(), reason(&error))),
            }
        }
        if unread.is_empty() { Ok(Self { points, patterns: read }) } else { Err(unread) }
    }

    /// What all groups give a model together: each counts once, by whichever of its names and expressions.
    pub fn sum(groups: &[Self], names: [&str; 2]) -> f64 {
        let applies = |group: &&Self| {
            group.patterns.iter().any(|pattern| names.iter().any(|name| pattern.is_match(name)))
        };
        groups.iter().filter(applies).map(|group| group.points).sum()
    }
}

/// In one line: the library draws the expression with a mark below it.
fn reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            last.trim_start_matches("error: ").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(points: f64, patterns: &[&str]) -> Adjustment {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Adjustment::new(points, &patterns).unwrap()
    }

    #[test]
    fn every_group_counts_once_by_either_name_in_any_case() {
        let groups = [
            group(30.0, &["strong", ".*strng-v2.*"]),
            group(-5.0, &["^small", "tiny$"]),
            group(-1000.0, &[]),
        ];
        for (names, points) in [
            (["org/STRONG-chat", "org/strong-chat"], 30.0),
            (["strong-strng-v2", "x"], 30.0),
            (["public", "Strong"], 30.0),
            (["small-strong", "x"], 25.0),
            (["org/small", "not-tiny-at-all"], 0.0),
            (["org/small", "org/tiny"], -5.0),
        ] {
            let sum = Adjustment::sum(&groups, names);
            assert!((sum - points).abs() < 1e-9, "{names:?}: {sum}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_in_one_line() {
        let patterns = ["good", "a(b", "(?!x)", "\\w{1000}{1000}"].map(str::to_owned);
        let unread = Adjustment::new(1.0, &patterns).unwrap_err();
        let reasons: Vec<&str> = unread.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(unread.len(), 3, "{unread:?}");
        assert!(reasons[0].contains("unclosed group") && reasons[1].contains("look-ahead"), "{reasons:?}");
        assert!(reasons[2].contains("too large"), "{reasons:?}");
        assert!(reasons.iter().all(|reason| !reason.contains('\n')));
    }
}

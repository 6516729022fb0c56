//! What a model is to read, put into one message, each piece between marks of its own.

use std::fmt::Write;

use super::super::schema::{Passages, Question};

/// Texts to write from.
pub(super) fn sources(texts: &[String]) -> String {
    let mut message = String::new();
    for text in texts {
        add(&mut message, "source", None, text);
    }
    message
}

/// Passages, and the question behind them.
pub(super) fn question(question: &Question) -> String {
    let mut message = String::new();
    match &question.texts {
        Passages::List(list) => list.iter().for_each(|text| add(&mut message, "passage", None, text)),
        Passages::Documents(documents) => {
            for (name, text) in
                documents.iter().flat_map(|(name, list)| list.iter().map(move |text| (name, text)))
            {
                add(&mut message, "passage", Some(name).filter(|_| names_documents(question)), text);
            }
        }
    }
    message.push_str("\n\n");
    message.push_str(question.question_str.trim());
    message
}

/// Whether the answer is to name documents, and there are names.
pub(super) fn names_documents(question: &Question) -> bool {
    question.doc_name_in_answer == Some(true) && matches!(question.texts, Passages::Documents(_))
}

fn add(message: &mut String, mark: &str, document: Option<&String>, text: &str) {
    if !message.is_empty() {
        message.push_str("\n\n");
    }
    let document = document.map(|name| format!(" document=\"{}\"", in_one_line(name))).unwrap_or_default();
    // Writing to a text cannot fail.
    let _ = write!(message, "<{mark}{document}>\n{}\n</{mark}>", text.trim());
}

/// A name that cannot end the mark that it stands in.
fn in_one_line(name: &str) -> String {
    let quiet = |c: char| match c {
        '"' => '\'',
        c if c.is_control() => ' ',
        c => c,
    };
    name.chars().map(quiet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(texts: Passages, names: bool) -> String {
        question(&Question {
            question_str: " Why? ".to_owned(),
            texts,
            doc_name_in_answer: Some(names),
            question_prompt: None,
        })
    }

    #[test]
    fn passages_come_before_the_question() {
        let list = || Passages::List(vec!["One.\n".to_owned(), "Two.".to_owned()]);
        let expected = "<passage>\nOne.\n</passage>\n\n<passage>\nTwo.\n</passage>\n\nWhy?";
        assert_eq!(asked(list(), false), expected);
        assert_eq!(asked(list(), true), expected);
    }

    #[test]
    fn documents_are_named_in_the_order_of_the_request() {
        let documents = || {
            let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Passages::Documents(vec![
                ("b\"\n".to_owned(), list(&["One.", "Two."])),
                ("a".to_owned(), list(&["Three."])),
            ])
        };
        assert_eq!(
            asked(documents(), true),
            "<passage document=\"b' \">\nOne.\n</passage>\n\n<passage document=\"b' \">\nTwo.\n</passage>\n\n\
             <passage document=\"a\">\nThree.\n</passage>\n\nWhy?"
        );
        assert!(!asked(documents(), false).contains("document"));
    }

    #[test]
    fn sources_stand_apart() {
        let texts = ["One.".to_owned(), "Two.".to_owned()];
        assert_eq!(sources(&texts), "<source>\nOne.\n</source>\n\n<source>\nTwo.\n</source>");
    }
}

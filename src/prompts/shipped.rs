//! The prompts that come with the program, which serve beneath those of a folder.

use super::folder::SourceFile;

macro_rules! shipped {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../resources/prompts/", $path)))),*]
    };
}

const FILES: &[(&str, &str)] = shipped![
    "en/answer-from-context-simple.prompt",
    "en/chat-conversation-simple.prompt",
    "en/full-article.prompt",
    "en/generate-questions.prompt",
    "en/news-on-sm.prompt",
    "en/simplify-text.prompt",
    "en/translate.prompt",
    "pl/answer-from-context-simple.prompt",
    "pl/chat-conversation-simple.prompt",
    "pl/full-article.prompt",
    "pl/generate-questions.prompt",
    "pl/news-on-sm.prompt",
    "pl/simplify-text.prompt",
    "pl/translate.prompt",
];

pub(super) fn files() -> Vec<SourceFile> {
    let file =
        |(path, text): &(&str, &str)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() };
    FILES.iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{Coverage, Language, PromptLibrary, folder};

    #[test]
    fn all_files_of_the_folder_are_shipped() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/prompts");
        assert_eq!(folder::read(&folder).unwrap(), files());
    }

    #[test]
    fn the_shipped_prompts_are_complete_and_up_to_date() {
        let library = PromptLibrary::shipped(&Language::parse("en").unwrap()).unwrap();

        assert_eq!(library.list().len(), 7);
        let coverage = Coverage::of(&library);
        assert!(coverage.is_complete(), "{coverage}");
    }
}

//! How much context a request needs.

/// Of a context whose request leaves the length of its answer open, so much is kept for the answer at most. More would
/// send requests to larger variants than they need.
const MOST_KEPT: u64 = 6;

/// How much context a request needs, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The prompt, as the model's template writes it.
    pub prompt_tokens: u64,
    /// The answer.
    pub answer: AnswerLength,
    /// Whether the prompt was counted, and not guessed.
    pub is_counted: bool,
    /// Whether it is to be alone at its engine, because it was not with others once.
    pub is_alone: bool,
    /// By how much the conversation will probably be longer the next time.
    pub growth_tokens: u64,
}

/// How long an answer may become, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerLength {
    /// The caller says.
    Asked(u64),
    /// The caller does not say; so much is kept.
    Open(u64),
}

impl Need {
    /// That of a request without a prompt to count.
    pub const NOTHING: Self = Self {
        prompt_tokens: 0,
        answer: AnswerLength::Open(0),
        is_counted: false,
        is_alone: false,
        growth_tokens: 0,
    };

    /// Whether a context of this size will do. In the largest there is, a long answer ends where the context does.
    pub(super) fn fits(&self, context_tokens: u64, is_largest: bool) -> bool {
        // llama-server refuses a prompt that leaves no room at all.
        self.prompt_tokens < context_tokens
            && (is_largest || self.prompt_tokens.saturating_add(self.kept(context_tokens)) <= context_tokens)
    }

    /// Whether a context of this size, in which it fits, will probably do for the next turn as well. One of which a
    /// sixth is free does: more would send conversations to larger variants than they need.
    pub(super) fn lasts(&self, context_tokens: u64) -> bool {
        let free = context_tokens.saturating_sub(self.prompt_tokens);
        let next = self.kept(context_tokens).saturating_add(self.growth_tokens);
        self.growth_tokens == 0 || free >= context_tokens / MOST_KEPT || next <= free
    }

    /// How much of a context of this size, shared with others, it may take. An answer of open length may become longer
    /// than what was kept for it when the variant was chosen, and in a shared context that would harm others.
    pub(super) fn reserved(&self, context_tokens: u64) -> u64 {
        let (AnswerLength::Asked(answer) | AnswerLength::Open(answer)) = self.answer;
        let needed = self.prompt_tokens.saturating_add(answer);
        if self.is_alone { context_tokens } else { needed.min(context_tokens) }
    }

    fn kept(&self, context_tokens: u64) -> u64 {
        match self.answer {
            AnswerLength::Asked(tokens) => tokens,
            AnswerLength::Open(tokens) => tokens.min(context_tokens / MOST_KEPT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(prompt_tokens: u64, answer: AnswerLength) -> Need {
        Need { prompt_tokens, answer, is_counted: true, is_alone: false, growth_tokens: 0 }
    }

    #[test]
    fn a_conversation_that_grows_gets_room_for_its_next_turn() {
        let grows = |prompt_tokens, growth_tokens| Need {
            growth_tokens,
            ..need(prompt_tokens, AnswerLength::Asked(10))
        };
        assert!(grows(980, 0).lasts(1000) && !grows(980, 20).lasts(1000));
        assert!(grows(960, 30).lasts(1000), "it has room for just that");
        assert!(grows(830, 5000).lasts(1000), "a good part is free");
    }

    #[test]
    fn a_prompt_that_leaves_a_sixth_free_fits() {
        assert!(need(1000, AnswerLength::Open(2048)).fits(1200, false));
        assert!(!need(1001, AnswerLength::Open(2048)).fits(1200, false));
        assert!(need(1000, AnswerLength::Open(50)).fits(1050, false));
    }

    #[test]
    fn an_answer_that_is_asked_for_has_its_room() {
        assert!(need(100, AnswerLength::Asked(900)).fits(1000, false));
        assert!(!need(100, AnswerLength::Asked(901)).fits(1000, false));
    }

    #[test]
    fn in_the_largest_context_only_the_prompt_has_to_fit() {
        assert!(need(100, AnswerLength::Asked(32_000)).fits(1000, true));
        assert!(need(999, AnswerLength::Open(2048)).fits(1000, true));
        assert!(!need(1000, AnswerLength::Open(0)).fits(1000, true));
        assert_eq!(need(100, AnswerLength::Asked(32_000)).reserved(1000), 1000);
        assert_eq!(need(100, AnswerLength::Asked(u64::MAX)).reserved(1000), 1000);
        assert!(!need(100, AnswerLength::Asked(u64::MAX)).fits(1000, false));
        assert_eq!(need(100, AnswerLength::Open(700)).reserved(1000), 800);
    }
}

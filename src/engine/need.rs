//! How much context a request needs.

use super::planner::Capacity;

/// Of a context whose request leaves the length of its answer open, so much is kept for the answer at most. More would
/// send requests to larger variants than they need.
const MOST_KEPT: u64 = 6;

/// How much context a request needs, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The prompt, as the model's template writes it: probably so much.
    pub prompt_tokens: u64,
    /// The prompt, but never more.
    pub prompt_at_most: u64,
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
        prompt_at_most: 0,
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

    /// How much of a context that is shared with others it may take: as much as it needs at most, for more than was
    /// kept would harm the others. An answer of open length gets its share of the whole, or what is kept for it if
    /// that is more, and ends there.
    pub(super) fn reserved(&self, capacity: Capacity) -> u64 {
        let Capacity { slots, context_tokens, pool_tokens, .. } = capacity;
        if self.is_alone {
            return pool_tokens;
        }
        let prompt = self.prompt_at_most.max(self.prompt_tokens);
        let needed = match self.answer {
            AnswerLength::Asked(answer) => prompt.saturating_add(answer),
            AnswerLength::Open(answer) => {
                prompt.saturating_add(answer).max(pool_tokens / slots.max(1) as u64)
            }
        };
        needed.min(context_tokens)
    }

    /// How long its answer may become in such a context; `None` if that is not for the gateway to say.
    pub(super) fn answer_limit(&self, capacity: Capacity) -> Option<u64> {
        let is_open = matches!(self.answer, AnswerLength::Open(_));
        let prompt = self.prompt_at_most.max(self.prompt_tokens);
        let limit = || self.reserved(capacity).saturating_sub(prompt).max(1);
        (is_open && capacity.is_shared && !self.is_alone).then(limit)
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
        Need {
            prompt_tokens,
            prompt_at_most: prompt_tokens,
            answer,
            is_counted: true,
            is_alone: false,
            growth_tokens: 0,
        }
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
        let shared = Capacity { slots: 4, context_tokens: 1000, pool_tokens: 1000, is_shared: true };
        assert_eq!(need(100, AnswerLength::Asked(32_000)).reserved(shared), 1000);
        assert_eq!(need(100, AnswerLength::Asked(u64::MAX)).reserved(shared), 1000);
        assert!(!need(100, AnswerLength::Asked(u64::MAX)).fits(1000, false));
        assert_eq!(need(100, AnswerLength::Open(700)).reserved(shared), 800);
        assert_eq!(need(100, AnswerLength::Open(700)).answer_limit(shared), Some(700));
        assert_eq!(need(100, AnswerLength::Open(10)).reserved(shared), 250, "its share");
        assert_eq!(need(100, AnswerLength::Open(10)).answer_limit(shared), Some(150));
        let vague = Need { prompt_at_most: 300, ..need(100, AnswerLength::Asked(10)) };
        assert_eq!((vague.reserved(shared), vague.answer_limit(shared)), (310, None));
        let alone = Need { is_alone: true, ..vague };
        assert_eq!(alone.reserved(shared), 1000);
        assert_eq!(
            need(100, AnswerLength::Open(10)).answer_limit(Capacity { is_shared: false, ..shared }),
            None
        );
    }
}

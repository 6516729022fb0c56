//! What conversations have turned out to take, so that their next turn need not be counted from the beginning.
//!
//! A conversation is known by its messages, of which only a number is kept that stands for all of them up to one. A
//! process forgets all of it with its end, and the oldest when it becomes much.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, PoisonError};

use super::estimate::{Guess, Message, Sketch};

/// So many turns are remembered of a model.
const MOST_TURNS: usize = 4096;
/// What stands behind the last message, and is not there any more in the next turn.
const PROMPTING: u64 = 16;

/// The turns of a model's conversations.
#[derive(Debug, Default)]
pub(super) struct Memory {
    hasher: RandomState,
    // A std mutex: held for a look into a map.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    turns: HashMap<u64, Turn>,
    order: VecDeque<u64>,
}

/// A turn that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) prompt_tokens: u64,
    pub(super) answer_tokens: u64,
    /// By how much it was longer than the one before, on an average.
    pub(super) growth_tokens: Option<u64>,
}

/// Where a turn is to be remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    key: u64,
    /// The turn before it, if that is known.
    pub(super) before: Option<Turn>,
}

/// What is known of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recalled {
    pub(super) guess: Guess,
    /// By how much it will probably be longer the next time.
    pub(super) growth_tokens: u64,
}

impl Memory {
    /// Looks for the longest beginning of a conversation that is known, and says where to remember the whole of it.
    pub(super) fn recall(&self, sketch: &Sketch) -> (Option<Recalled>, Mark) {
        let keys = self.keys(sketch);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let last = keys.iter().enumerate().rev().find_map(|(at, key)| Some((at, *known.turns.get(key)?)));
        let mark = Mark { key: keys.last().copied().unwrap_or_default(), before: last.map(|(_, turn)| turn) };
        (last.map(|(at, turn)| recalled(turn, sketch.messages.get(at + 1..).unwrap_or_default())), mark)
    }

    /// A turn has been answered.
    pub(super) fn remember(&self, mark: Mark, prompt_tokens: u64, answer_tokens: u64) {
        let growth = mark.before.and_then(|before| {
            let growth = prompt_tokens.checked_sub(before.prompt_tokens).filter(|growth| *growth > 0)?;
            Some(before.growth_tokens.map_or(growth, |before| before.midpoint(growth)))
        });
        let growth_tokens = growth.or_else(|| mark.before?.growth_tokens);
        let turn = Turn { prompt_tokens, answer_tokens, growth_tokens };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.turns.insert(mark.key, turn).is_none() {
            known.order.push_back(mark.key);
        }
        while known.order.len() > MOST_TURNS {
            let Some(oldest) = known.order.pop_front() else { break };
            known.turns.remove(&oldest);
        }
    }

    /// For each message a number that stands for it, for all before it, and for the tools.
    fn keys(&self, sketch: &Sketch) -> Vec<u64> {
        let mut key = self.hasher.hash_one(sketch.surroundings);
        let next = |message: &Message<'_>| {
            let mut hasher = self.hasher.build_hasher();
            hasher.write_u64(key);
            hasher.write(message.raw);
            key = hasher.finish();
            key
        };
        sketch.messages.iter().map(next).collect()
    }
}

/// A known turn with what has been said since.
fn recalled(turn: Turn, since: &[Message<'_>]) -> Recalled {
    let mut guess = Guess {
        tokens: turn.prompt_tokens,
        at_most: turn.prompt_tokens,
        at_least: turn.prompt_tokens.saturating_sub(if since.is_empty() { 0 } else { PROMPTING }),
        pictures: 0,
    };
    let mut growth = 0;
    for (at, message) in since.iter().enumerate() {
        let mut more = message.guess;
        if at == 0 && message.is_assistants && turn.answer_tokens > 0 {
            // What it thought is not always repeated to it; and this may be another answer than the one that it gave.
            more.tokens = more.tokens.min(turn.answer_tokens + 8).max(more.at_least);
        }
        growth += more.tokens;
        guess = guess.and(more);
    }
    let growth_tokens = match turn.growth_tokens {
        Some(before) if since.is_empty() => before,
        Some(before) => before.midpoint(growth),
        None => growth,
    };
    Recalled { guess, growth_tokens }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai;
    use serde_json::{Value, json};

    struct Talk(Vec<Value>);

    impl Talk {
        fn says(&mut self, role: &str, text: &str) {
            self.0.push(json!({"role": role, "content": text}));
        }

        fn with<T>(&self, look: impl Fn(&Sketch) -> T) -> T {
            let body = json!({"model": "m", "messages": self.0});
            look(&Sketch::of(&openai::chat_request(body.to_string().into(), false).unwrap()))
        }
    }

    #[test]
    fn the_next_turn_is_the_last_one_and_what_was_said_since() {
        let memory = Memory::default();
        let mut talk = Talk(Vec::new());
        talk.says("user", &"question ".repeat(500));
        let (recalled, mark) = talk.with(|sketch| memory.recall(sketch));
        assert_eq!(recalled, None);
        memory.remember(mark, 1000, 200);

        let again = talk.with(|sketch| memory.recall(sketch)).0.unwrap();
        assert_eq!((again.guess.tokens, again.guess.at_most, again.guess.at_least), (1000, 1000, 1000));

        talk.says("assistant", &"answer ".repeat(1000));
        talk.says("user", "And now?");
        let (recalled, mark) = talk.with(|sketch| memory.recall(sketch));
        let guess = recalled.unwrap().guess;
        assert!((1200..1700).contains(&guess.tokens) && guess.at_most > 7000, "{guess:?}");
        assert!(guess.at_least > 980);
        memory.remember(mark, 1210, 300);

        talk.says("assistant", "An answer.");
        talk.says("user", "More!");
        let recalled = talk.with(|sketch| memory.recall(sketch)).0.unwrap();
        assert!((100..220).contains(&recalled.growth_tokens), "{recalled:?}");
    }

    #[test]
    fn another_conversation_is_not_mistaken_for_a_known_one() {
        let memory = Memory::default();
        let mut talk = Talk(Vec::new());
        talk.says("user", "One");
        memory.remember(talk.with(|sketch| memory.recall(sketch)).1, 10, 10);
        let mut other = Talk(Vec::new());
        other.says("user", "Two");
        other.says("user", "One");
        assert_eq!(other.with(|sketch| memory.recall(sketch)).0, None);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let memory = Memory::default();
        for at in 0..MOST_TURNS as u64 + 10 {
            memory.remember(Mark { key: at, before: None }, 1, 1);
            memory.remember(Mark { key: at, before: None }, 1, 1);
        }
        let known = memory.known.lock().unwrap();
        assert_eq!((known.turns.len(), known.order.len()), (MOST_TURNS, MOST_TURNS));
        assert!(!known.turns.contains_key(&9) && known.turns.contains_key(&10));
    }
}

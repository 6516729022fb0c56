//! The language of the house: values only, no input or output, nothing asynchronous.
//!
//! The interchange between callers and providers is OpenAI's JSON, kept as bytes and read only where
//! somebody needs the meaning. Whoever speaks another dialect translates at the edge of the house
//! (`wire`), so that the common path forwards bytes.

mod completion;
mod count;
mod demands;
mod depth;
mod embedding;
mod estimate;
mod fault;
mod frame;
mod id;
mod least;
mod lenient;
mod names;
mod naming;
mod object;
mod options;
mod request;
mod session;
mod settings;
mod tally;
mod task;
mod usage;
mod usage_report;

pub use completion::{AnswerText, Completion, Fold, MAX_ANSWER_BYTES, chunks_of, read_within, text_bytes};
pub use count::{Count, CountRequest, CountSource};
pub use demands::{Abilities, Demands};
pub use depth::{MAX_JSON_DEPTH, TOO_DEEP, is_too_deep, is_too_deep_around};
pub use embedding::{EmbedRequest, Embeddings};
pub use fault::json_fault;
pub use frame::{Ends, FrameIter, Frames, Reading, Trouble, TroubleKind};
pub use id::{unique_id, unique_number};
pub use lenient::{read_lenient, repaired, without_byte_order_mark};
pub use names::{is_invisible, shortened};
pub use naming::{Doubt, Naming, nested_rival, rivals_model};
pub use object::{Change, InvalidObject, RawObject};
pub use options::{Mapped, Options, option_names};
pub use request::{ChatRequest, Places, RequestKind, answers_to_each};
pub use session::{Session, SessionPlaces, instructs, is_user};
pub use settings::changes_answers;
pub use tally::Tally;
pub use task::{RawTask, TaskKind};
pub use usage::{Missing, Usage, UsageSource};
pub use usage_report::LenientCount;

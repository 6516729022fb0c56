//! Who may call, how much, and what it cost: values, and the counting in memory. Nothing here waits for anybody.
//!
//! A [`Key`] says what its holder may do. The [`KeyRing`] knows the keys by their secrets. A request takes a [`Permit`],
//! which reserves its part of every limit that holds for it and settles it when the request has ended, however that
//! was. What it used becomes a [`UsageRecord`]. Keeping these is the business of the stores, and sharing what is counted
//! between replicas that of a [`Pool`].

mod budget;
mod gate;
mod key;
mod pattern;
mod period;
mod pool;
mod price;
mod ring;
mod scope;
mod secret;
mod usage;
mod window;

pub use budget::{Budgets, CLAIM_BELIEVED_MS, Claim, Left, Spending, Spent, Whose};
pub use gate::{Gate, Part, Permit, Refusal, Rules, now_ms};
pub use key::{Budget, Change, Key, Limits, NewKey, Predecessor};
pub use pattern::matches;
pub use period::{Period, Zone, date_of_day, moment, moment_as_text};
pub use pool::{Away, Granted, Pool, Share, Taking, Thing, Withheld};
pub use price::{Price, PriceHistory, Prices};
pub use ring::{Caller, KeyRing, Unknown};
pub use scope::{Dimension, Figures, Short, Want};
pub use secret::{Digest, Secret};
pub use usage::{Ending, Ledger, Nowhere, UsageRecord};

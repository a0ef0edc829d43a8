//! The dynamic batcher: merges the requests of many clients into batches for one device.

mod answer;
mod batcher;
mod device;
mod layout;
pub mod plan;
mod pulse;
mod queue;
mod rate;
mod run;
mod sequences;
mod share;
mod turns;
mod watchdog;
mod worker;

pub use answer::{Answer, Rows};
pub use batcher::{Batcher, MAX_IN_FLIGHT, Step};
pub use layout::{Batch, Slice};
pub use plan::{Limits, MAX_BATCHES_PASSED};
pub use queue::Entry;
pub use rate::Rate;
pub use run::execute;
pub use sequences::Sequences;
pub use share::{Class, Share, TenantId};
pub use turns::Turns;
pub use watchdog::Watch;
pub use worker::{Handle, spawn, spawn_on};

//! The locks of what requests share, from one place: `tests/interleavings` puts a scheduler's in theirs.

pub use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

//! The sources of rerankd in which threads meet, compiled once more with the locks of shuttle: a scheduler that
//! runs one thread at a time and chooses at every lock who goes next. What is not named here is rerankd's own.

pub use rerankd::{clock, engine, error, health, metrics, model, request};

#[path = "../../src/admit.rs"]
pub mod admit;
#[path = "../../src/batch/mod.rs"]
pub mod batch;
#[path = "../../src/score/mod.rs"]
pub mod score;

/// In the place of the standard library's.
pub mod sync {
    pub use shuttle::sync::{Arc, Mutex, MutexGuard, PoisonError};
}

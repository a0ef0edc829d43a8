//! The sources of rerankd in which threads meet, compiled once more with the locks of shuttle: a scheduler that
//! runs one thread at a time and chooses at every lock who goes next. What is not named here is rerankd's own.

pub use rerankd::{clock, engine, error, health, metrics, model, request};

#[path = "../../src/admit.rs"]
pub mod admit;
#[path = "../../src/batch/mod.rs"]
pub mod batch;

/// Of what is kept, the rows and the flights; vectors on a disk have no locks of ours.
#[path = "../../src/score"]
pub mod score {
    mod cache;
    mod flight;
    mod key;

    pub use cache::{Claim, Scores};
    pub use key::{Key, Scope};
}

/// In the place of the standard library's.
pub mod sync {
    pub use shuttle::sync::{Arc, Mutex, MutexGuard, PoisonError};
}

//! What was scored before, or is being scored now, is not scored again.
//!
//! Rows are kept by tenant, model and tokens; nobody learns from the time of an answer what another tenant asked.
//! Scores do not depend on batch mates, so a row from here has the bits it would have had.

mod cache;
mod flight;
mod key;
mod matrices;

pub use cache::{Claim, Scores};
pub use key::{Key, Scope};
pub use matrices::{Claim as MatrixClaim, Followed, Lookup, Matrices, Matrix, MatrixOptions};

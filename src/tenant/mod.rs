//! Tenants: who may ask, for how much, and what they have used.

mod account;
pub mod file;
mod key;
mod quota;
mod shared;
mod table;
mod watch;

pub use account::{Charge, Tenant};
pub use file::KeysError;
pub use key::{KeyHash, generate};
pub use quota::{Meter, Quota, Spent};
pub use shared::share;
pub use table::{Source, Tenants};
pub use watch::watch;

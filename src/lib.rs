//! rerankd: scores how well documents answer a query, for many clients at once.

pub mod api;
pub mod engine;
pub mod error;
pub mod model;
pub mod request;

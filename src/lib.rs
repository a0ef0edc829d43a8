//! rerankd: scores how well documents answer a query, for many clients at once.

pub mod admit;
pub mod api;
pub mod batch;
pub mod clock;
pub mod engine;
pub mod error;
pub mod health;
pub mod metrics;
pub mod model;
pub mod queue;
pub mod request;
pub mod tokenize;

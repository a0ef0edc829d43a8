//! rerankd: scores how well documents answer a query, for many clients at once.
//!
//! The path of a request, each arrow one function in one file:
//!
//! ```text
//! bytes           http::body
//!   -> tenant     tenant                whose key it is
//!   -> dialect    api::parse            a client's words -> RerankRequest
//!   -> permit     admit                 let in whole, or told when to come back
//!   -> sequences  tokenize              texts -> token ids, truncation told
//!   -> claim      score                 what is known or on its way needs no pass of its own
//!   -> entry      batch::queue          by class, fair over tenants, drops the expired and the cancelled
//!   -> plan       batch::plan           pure: what goes to the device next
//!   -> batch      batch::layout         packed token rows, nothing padded
//!   -> rows       batch::worker         the engine runs the model
//!   -> scores     rerank::fold          rows -> one score a document, or (rerank::embed) one vector a text
//!   -> dialect    api::Dialect::reply   RerankResponse -> the client's words
//! ```

pub mod admit;
pub mod api;
pub mod batch;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod error;
pub mod health;
pub mod http;
pub mod matrix_format;
pub mod metrics;
pub mod model;
pub mod request;
pub mod rerank;
pub mod score;
pub mod sync;
pub mod tenant;
pub mod tokenize;

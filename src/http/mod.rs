//! The HTTP server: connections, routes, limits, drain. Bodies are `api`'s, scores are `rerank`'s.

mod body;
mod routes;
mod server;

pub use routes::Serving;
pub use server::{Options, Server};

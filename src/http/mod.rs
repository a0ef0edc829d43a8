//! The HTTP server: connections, TLS, routes, limits, drain. Bodies are `api`'s, scores are `rerank`'s.

mod account;
mod activity;
mod address;
mod admin;
mod body;
mod connection;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod watched;

pub use activity::Timeouts;
pub use address::Address;
pub use server::{Options, Server};
pub use tls::TlsFiles;

//! The program as its users meet it: the real binary on a real port.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod accounts;
mod bad_input;
mod bad_models;
mod caching;
mod command_line;
mod connections;
mod door;
mod embedding;
mod evaluating;
#[path = "../cuda/fixtures.rs"]
mod fixtures;
mod fuzzing;
mod gpu;
mod lifecycle;
mod models;
mod precomputing;
mod program;
mod scoring;
mod support;
mod tenants;
mod together;

//! The GPU engine on the emulated driver. Nothing here needs a GPU, and nothing here ran on one.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod emulator;
mod models;
mod operations;
#[path = "../serving/support.rs"]
#[allow(dead_code, reason = "the serving tests use the rest")]
mod server;
mod serving;
mod support;

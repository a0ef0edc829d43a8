//! The GPU engine on the emulated driver. Nothing here needs a GPU, and nothing here ran on one.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod emulator;
mod fixtures;
mod late;
mod models;
mod operations;
mod sharing;
mod support;

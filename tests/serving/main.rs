//! The program as its users meet it: the real binary on a real port.

mod bad_input;
mod bad_models;
mod command_line;
mod lifecycle;
mod scoring;
mod support;

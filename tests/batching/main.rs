//! The batcher's promises, on a virtual clock and, where threads matter, on real ones.

mod fairness;
mod planner;
mod simulator;
mod support;
mod threads;
mod workers;

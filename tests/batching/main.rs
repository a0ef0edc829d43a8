//! The batcher's promises, on a virtual clock and, where threads matter, on real ones.

mod classes;
mod fairness;
mod planner;
mod simulator;
mod support;
mod tenants;
mod threads;
mod workers;

//! `rerankd selfcheck`: whether the GPUs compute what the CPU computes, and how fast they are.

use super::Failure;
use super::hardware::Hardware;
use crate::config::Device;
use crate::engine::cuda::{Cuda, Timing, probe};
use crate::engine::selfcheck::compare;
use crate::error::{DeviceError, ModelError};

/// Check what this machine's GPUs compute against the CPU, and time them
///
/// Every operation that a served model asks for runs on small data on both; a serving process does the same
/// at each start. Then products and attention are timed against the card's own
/// ceilings: a copy within its memory, and its best product.
///
/// Example:
///   rerankd selfcheck --device cuda
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// What to check; with auto it is an error too if there is no GPU
    #[arg(long, env = "RERANKD_DEVICE", default_value = "cuda")]
    device: Device,
    /// Rows of the timed batches, in units of 128; a card needs 64 or more to be busy
    #[arg(long, default_value_t = 64, value_name = "N")]
    scale: usize,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let hardware = Hardware::find(Some(args.device))?;
    if hardware.gpus().is_empty() {
        let why = hardware.no_gpu.map_or("the CPU is the reference".into(), |why| why.to_string());
        return Err(Failure::Device(format!("nothing to check: {why}")));
    }
    for device in hardware.gpus() {
        check(device, args.scale.max(1))?;
    }
    Ok(())
}

fn check(device: &probe::Device, scale: usize) -> Result<(), Failure> {
    let probe::Device { ordinal, name, compute_capability: (major, minor), memory_bytes } = device;
    println!(
        "GPU {ordinal}: {name}, compute capability {major}.{minor}, {} MiB",
        memory_bytes >> 20
    );
    let cuda = Cuda::new(device, true).map_err(failed)?;
    println!("\n{:44} {:>10} {:>10}", "operation", "error", "tolerance");
    let comparisons = compare(&cuda).map_err(failed)?;
    for comparison in &comparisons {
        println!(
            "{:44} {:10.1e} {:10.1e}{}",
            comparison.operation,
            comparison.largest_error,
            comparison.tolerance,
            if comparison.holds() { "" } else { "  WRONG" }
        );
    }
    let wrong = comparisons.iter().filter(|comparison| !comparison.holds()).count();
    if wrong > 0 {
        return Err(Failure::Device(format!("GPU {ordinal}: {wrong} operations are wrong")));
    }
    print_timings(&cuda.time(scale).map_err(failed)?);
    Ok(())
}

/// Each operation's share of the nearer ceiling.
fn print_timings(timings: &[Timing]) {
    let rate = |amount: f64, timing: &Timing| amount / timing.seconds.max(1e-9);
    let most = |of: fn(&Timing) -> f64| {
        timings.iter().map(|timing| rate(of(timing), timing)).fold(f64::MIN_POSITIVE, f64::max)
    };
    let (peak_flops, peak_bytes) = (most(|timing| timing.flops), most(|timing| timing.bytes));
    println!("\n{:44} {:>10} {:>10} {:>10} {:>8}", "operation", "us", "GFLOP/s", "GB/s", "ceiling");
    for timing in timings {
        let (flops, bytes) = (rate(timing.flops, timing), rate(timing.bytes, timing));
        let share = (flops / peak_flops).max(bytes / peak_bytes);
        println!(
            "{:44} {:10.1} {:10.1} {:10.2} {:7.0}%",
            timing.operation,
            timing.seconds * 1e6,
            flops / 1e9,
            bytes / 1e9,
            share * 100.0
        );
    }
}

fn failed(error: DeviceError) -> Failure {
    Failure::Model(ModelError::Device(error))
}

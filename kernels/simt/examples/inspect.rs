//! Says which kernels of PTX files the emulator runs, and why not the others.
//!
//! `cargo run -p simt --example inspect -- kernels/ptx/*.ptx`

use simt::{Machine, Options};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut missing = 0;
    for path in std::env::args().skip(1) {
        // Wide open: the question is what is emulated, not what this card would take.
        let options = Options { compute_capability: (9, 0), ..Options::default() };
        let mut machine = Machine::new(options);
        let loaded = std::fs::read_to_string(&path)
            .map_err(|error| error.to_string())
            .and_then(|text| machine.load(&text).map_err(|error| error.to_string()));
        match loaded {
            Err(error) => {
                missing += 1;
                println!("{path}: {error}");
            }
            Ok(module) => {
                for name in module.kernel_names() {
                    match module.kernel(name) {
                        Ok(kernel) => {
                            println!("{path}: {name}: {} instructions", kernel.code.len());
                        }
                        Err(error) => {
                            missing += 1;
                            println!("{path}: {name}: {error}");
                        }
                    }
                }
            }
        }
    }
    if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

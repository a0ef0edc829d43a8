//! The environment switches of the driver.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `SIMT_LOG` | 0 faults only, 1 launches, 2 every call | 0 |
//! | `SIMT_SEED` | order of streams, blocks, warps | 0 |
//! | `SIMT_DEVICES` | number of devices; with 0 `cuInit` finds none | 1 |
//! | `SIMT_CC` | compute capability, as 80 or 90, and its shared memory | 80 |
//! | `SIMT_DRIVER` | the driver's version, as 11020 or 12040 | 13000 |
//! | `SIMT_PTX` | newest PTX accepted, as 7.8 | what the driver's version reads |
//! | `SIMT_MEMORY` | bytes of memory of each device | 1 GiB |
//! | `SIMT_POOLS` | 0: no stream-ordered allocation | 1 |
//! | `SIMT_FAIL_ALLOC` | the n-th allocation, from 1, fails | none |
//! | `SIMT_FAIL_LAUNCH` | the n-th launch, from 1, is refused | none |
//! | `SIMT_FAULT_LAUNCH` | the n-th launch faults: told at the next wait, and ever after | none |
//! | `SIMT_HANG_LAUNCH` | the n-th launch never ends | none |
//! | `SIMT_HANG_MS` | a wait for a hanging launch ends after this time, with a fault | 600000 |
//! | `SIMT_CUBLASLT_WRONG` | 1: products of the emulated cuBLASLt are off by 1/64 | 0 |
//! | `SIMT_PERTURB` | 1: approximate instructions err as far as documented | 0 |
//! | `SIMT_CHECKS` | 0: no race detection | 1 |
//!
//! Allocations and launches are counted over all devices. A launch is one `cuLaunchKernel`, one
//! `cuGraphLaunch` or one `cublasLtMatmul`; what a capture records is not launched.

use std::str::FromStr;

use crate::machine::Options;

/// CUDA 13.0: the driver of the newest PTX the emulator is tried with.
const DRIVER_VERSION: u32 = 13_000;
/// More devices than any test needs; a wild value must not eat the host.
const MAX_DEVICES: usize = 16;

#[derive(Debug, Clone)]
pub struct Switches {
    pub log: u32,
    pub devices: usize,
    pub driver_version: u32,
    pub fail_alloc: Option<u64>,
    pub fail_launch: Option<u64>,
    pub fault_launch: Option<u64>,
    pub hang_launch: Option<u64>,
    pub hang_ms: u64,
    pub pools: bool,
    pub cublaslt_wrong: bool,
    pub options: Options,
}

impl Switches {
    /// Reads the switches through `get`, which is the environment outside tests. An unreadable value
    /// counts as unset: a library has nobody to tell.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Switches {
        fn value<T: FromStr>(text: Option<String>) -> Option<T> {
            text?.trim().parse().ok()
        }
        let number = |name: &str| value::<u64>(get(name));
        let mut options = match value::<u32>(get("SIMT_CC")) {
            Some(cc) => Options::of_card((cc / 10, cc % 10)),
            None => Options::default(),
        };
        if let Some(seed) = number("SIMT_SEED") {
            options.seed = seed;
        }
        if let Some(bytes) = number("SIMT_MEMORY") {
            options.memory_bytes = bytes;
        }
        let driver_version = value(get("SIMT_DRIVER")).unwrap_or(DRIVER_VERSION);
        options.max_ptx_version = newest_ptx(driver_version);
        let version = get("SIMT_PTX");
        if let Some((major, minor)) = version.as_deref().and_then(|text| text.split_once('.'))
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            options.max_ptx_version = (major, minor);
        }
        options.perturb_approximations = number("SIMT_PERTURB") == Some(1);
        options.detect_races = number("SIMT_CHECKS") != Some(0);
        Switches {
            log: value(get("SIMT_LOG")).unwrap_or(0),
            devices: value(get("SIMT_DEVICES")).unwrap_or(1).min(MAX_DEVICES),
            driver_version,
            fail_alloc: number("SIMT_FAIL_ALLOC"),
            fail_launch: number("SIMT_FAIL_LAUNCH"),
            fault_launch: number("SIMT_FAULT_LAUNCH"),
            hang_launch: number("SIMT_HANG_LAUNCH"),
            hang_ms: number("SIMT_HANG_MS").unwrap_or(600_000),
            pools: number("SIMT_POOLS") != Some(0),
            cublaslt_wrong: number("SIMT_CUBLASLT_WRONG") == Some(1),
            options,
        }
    }
}

/// The newest PTX a driver reads, from CUDA 11.0 on. From the PTX ISA's release notes: 7.2 came with
/// CUDA 11.2, 8.5 with 12.5 and again 12.6, 8.6 with 12.7, 9.0 with 13.0.
fn newest_ptx(driver_version: u32) -> (u32, u32) {
    let (major, minor) = (driver_version / 1000, driver_version % 1000 / 10);
    let minor = if major == 12 && minor >= 6 { minor - 1 } else { minor };
    (major.saturating_sub(4), minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_reaches_its_option() {
        let switches = Switches::read(|name| {
            let value = match name {
                "SIMT_CC" => "90",
                "SIMT_PTX" => "7.8",
                "SIMT_MEMORY" => "4096",
                "SIMT_FAIL_ALLOC" | "SIMT_DEVICES" => "3",
                "SIMT_FAULT_LAUNCH" => "4",
                "SIMT_HANG_LAUNCH" => "5",
                "SIMT_HANG_MS" => "6",
                "SIMT_POOLS" | "SIMT_CHECKS" => "0",
                _ => return None,
            };
            Some(value.to_string())
        });
        let options = &switches.options;
        assert_eq!((options.compute_capability, options.max_ptx_version), ((9, 0), (7, 8)));
        assert_eq!((options.memory_bytes, switches.fail_alloc), (4096, Some(3)));
        assert_eq!(options.max_shared_bytes, 227 * 1024);
        assert!(!switches.pools && !options.detect_races && switches.fail_launch.is_none());
        assert_eq!((switches.fault_launch, switches.hang_launch), (Some(4), Some(5)));
        assert_eq!((switches.hang_ms, switches.devices), (6, 3));
    }

    #[test]
    fn a_driver_reads_the_ptx_of_its_time() {
        let newest = [11_020, 12_000, 12_060, 12_080, 12_090, 13_000].map(newest_ptx);
        assert_eq!(newest, [(7, 2), (8, 0), (8, 5), (8, 7), (8, 8), (9, 0)]);
    }
}

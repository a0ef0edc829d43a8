//! The environment switches of the driver.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `SIMT_LOG` | 0 faults only, 1 launches, 2 every call | 0 |
//! | `SIMT_SEED` | order of streams, blocks, warps | 0 |
//! | `SIMT_CC` | compute capability, as 80 or 90 | 80 |
//! | `SIMT_PTX` | newest PTX accepted, as 7.8 | 9.9 |
//! | `SIMT_MEMORY` | bytes of device memory | 1 GiB |
//! | `SIMT_FAIL_ALLOC` | the n-th allocation, from 1, fails | none |
//! | `SIMT_FAIL_LAUNCH` | the n-th launch, from 1, fails | none |
//! | `SIMT_POOLS` | 0: no stream-ordered allocation | 1 |
//! | `SIMT_PERTURB` | 1: approximate instructions err as far as documented | 0 |
//! | `SIMT_CHECKS` | 0: no race detection | 1 |

use std::str::FromStr;

use crate::machine::Options;

#[derive(Debug, Clone)]
pub struct Switches {
    pub log: u32,
    pub fail_alloc: Option<u64>,
    pub fail_launch: Option<u64>,
    pub pools: bool,
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
        let mut options = Options::default();
        if let Some(seed) = number("SIMT_SEED") {
            options.seed = seed;
        }
        if let Some(cc) = value::<u32>(get("SIMT_CC")) {
            options.compute_capability = (cc / 10, cc % 10);
        }
        if let Some(bytes) = number("SIMT_MEMORY") {
            options.memory_bytes = bytes;
        }
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
            fail_alloc: number("SIMT_FAIL_ALLOC"),
            fail_launch: number("SIMT_FAIL_LAUNCH"),
            pools: number("SIMT_POOLS") != Some(0),
            options,
        }
    }
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
                "SIMT_FAIL_ALLOC" => "3",
                "SIMT_POOLS" | "SIMT_CHECKS" => "0",
                _ => return None,
            };
            Some(value.to_string())
        });
        let options = &switches.options;
        assert_eq!((options.compute_capability, options.max_ptx_version), ((9, 0), (7, 8)));
        assert_eq!((options.memory_bytes, switches.fail_alloc), (4096, Some(3)));
        assert!(!switches.pools && !options.detect_races && switches.fail_launch.is_none());
    }
}

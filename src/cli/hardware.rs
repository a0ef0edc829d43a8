//! What there is to compute on.

use super::Failure;
use crate::config::{Device, Machine};
use crate::engine::cuda::probe::{self, Unavailable, probe};

/// The cores this process may use, and the GPUs if they were asked for.
#[derive(Debug)]
pub(super) struct Hardware {
    threads: usize,
    gpus: Vec<probe::Device>,
    /// Why `auto` found no GPU.
    pub(super) no_gpu: Option<Unavailable>,
}

impl Hardware {
    /// Looks for what the setting asks.
    pub(super) fn find(device: Option<Device>) -> Result<Self, Failure> {
        // Affinity and cgroup limits count.
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (gpus, no_gpu) = match device.unwrap_or_default() {
            Device::Cpu => (Vec::new(), None),
            Device::Cuda => {
                let gpus =
                    probe().map_err(|why| Failure::Device(format!("--device cuda: {why}")))?;
                (gpus, None)
            }
            Device::Auto => match probe() {
                Ok(gpus) => (gpus, None),
                Err(why) => (Vec::new(), Some(why)),
            },
        };
        Ok(Self { threads, gpus, no_gpu })
    }

    pub(super) fn machine(&self) -> Machine {
        let gpus = self.gpus.iter().map(|gpu| gpu.memory_bytes as u64);
        let memory_bytes = gpus.min().unwrap_or_else(memory_bytes);
        let has_gpu = !self.gpus.is_empty();
        Machine { threads: self.threads, has_gpu, memory_bytes, is_shared: false }
    }

    /// None: compute on the CPU.
    pub(super) fn gpus(&self) -> &[probe::Device] {
        &self.gpus
    }
}

/// What this process may use of the machine's memory: by its control groups, or all of it.
fn memory_bytes() -> u64 {
    // SAFETY: asks the system for two numbers.
    let (pages, page) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let physical =
        u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(page).unwrap_or(0));
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = memory_limits(&own, |file| std::fs::read_to_string(file).ok());
    limits.into_iter().chain((physical > 0).then_some(physical)).min().unwrap_or(u64::MAX)
}

/// The limits of the control group that `own` (`/proc/self/cgroup`) names and of those around it, version 2 and 1.
fn memory_limits(own: &str, read: impl Fn(&str) -> Option<String>) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(mut path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        loop {
            path = path.trim_end_matches('/');
            // "max" is no limit.
            let limit = read(&format!("{root}{path}/{file}"));
            limits.extend(limit.and_then(|text| text.trim().parse::<u64>().ok()));
            let Some(end) = path.rfind('/') else { break };
            path = &path[..end];
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_around_the_process_limits_its_memory() {
        let read = |file: &str| match file {
            "/sys/fs/cgroup/a/b/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("1000\n".to_owned()),
            "/sys/fs/cgroup/memory.max" => Some("3000\n".to_owned()),
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => Some("500".to_owned()),
            _ => None,
        };
        assert_eq!(memory_limits("0::/a/b\n", read), [1000, 3000]);
        assert_eq!(memory_limits("4:cpu:/x\n3:memory:/x\n", read), [500]);
        assert!(memory_limits("", read).is_empty());
    }
}

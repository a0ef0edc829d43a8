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
        Machine { threads: self.threads, has_gpu: !self.gpus.is_empty() }
    }

    /// None: compute on the CPU.
    pub(super) fn gpus(&self) -> &[probe::Device] {
        &self.gpus
    }
}

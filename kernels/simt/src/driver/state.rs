//! A device's whole state, and the loop that runs its queued work.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::capture::{Captures, Graph, Mark};
use super::env::Switches;
use super::errors::Status;
use super::queue::{Command, DEFAULT_STREAM, HostPtr, KernelRef, MAX_PENDING, Queues};
use crate::fault::MemoryFault;
use crate::machine::{Machine, Module};
use crate::memory::address::{DevicePtr, MAX_ALLOCATIONS};
use crate::random::Random;

#[derive(Debug, Clone, Default)]
pub struct Event {
    /// The record that counts; None before the first.
    pub ticket: Option<u64>,
    /// Recorded inside a capture: an edge of a graph, nothing to wait for.
    pub captured: Option<Mark>,
    /// The device's clock when the record ran.
    pub at_ns: u64,
}

#[derive(Debug)]
pub struct Function {
    pub kernel: Arc<KernelRef>,
    /// What cuFuncSetAttribute allows beyond the 48 KiB that every kernel may use.
    pub max_dynamic_shared: u32,
}

/// Dynamic shared memory a kernel may use without asking.
pub const DEFAULT_DYNAMIC_SHARED: u32 = 48 * 1024;

/// Counted over all devices, for the switches that name the n-th.
static NUM_ALLOCS: AtomicU64 = AtomicU64::new(0);
static NUM_LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// A device and the primary context on it.
#[derive(Debug)]
pub struct Device {
    pub switches: Switches,
    pub machine: Machine,
    pub queues: Queues,
    random: Random,
    pub modules: HashMap<usize, Arc<Module>>,
    pub functions: HashMap<usize, Function>,
    pub events: HashMap<usize, Event>,
    pub captures: Captures,
    pub graphs: HashMap<usize, Arc<Graph>>,
    /// Bytes a pool keeps when its memory is freed: kept to be answered, nothing is reserved here.
    pub release_threshold: u64,
    /// One nanosecond a warp instruction or 16 copied bytes: an order of costs that is the same in
    /// every run, and no time.
    clock_ns: u64,
    /// A fault ends the context: every later call answers it again, as on a card.
    fault: Option<Status>,
}

impl Device {
    pub fn new(switches: &Switches, ordinal: usize) -> Device {
        let mut queues = Queues::default();
        queues.open(DEFAULT_STREAM, false);
        // Each device has its own part of the address space: foreign addresses are unknown.
        let num_ids = MAX_ALLOCATIONS / switches.devices.max(1);
        Device {
            machine: Machine::with_ids(switches.options.clone(), ordinal * num_ids, num_ids),
            random: Random::new(switches.options.seed),
            switches: switches.clone(),
            queues,
            modules: HashMap::new(),
            functions: HashMap::new(),
            events: HashMap::new(),
            captures: Captures::default(),
            graphs: HashMap::new(),
            release_threshold: 0,
            clock_ns: 0,
            fault: None,
        }
    }

    pub fn check_alive(&self) -> Result<(), Status> {
        self.fault.map_or(Ok(()), Err)
    }

    /// The context is lost, with all its work.
    pub fn end(&mut self, status: Status) -> Status {
        self.fault = Some(status);
        self.queues.clear();
        status
    }

    /// Queues work, or adds it to the graph that `stream` records. Answers the command's ticket.
    pub fn enqueue(&mut self, stream: usize, command: Command) -> Result<u64, Status> {
        if self.captures.is_capturing(stream) {
            if matches!(command, Command::Free { .. } | Command::Graph(_)) {
                return Err(self.captures.invalidate(stream, Status::CaptureUnsupported));
            }
            return self.captures.push(stream, command).map(|()| 0);
        }
        if !self.queues.is_open(stream) {
            return Err(Status::InvalidHandle);
        }
        let ticket = self.queues.push(stream, command);
        while self.queues.num_pending() > MAX_PENDING && self.run_one()? {}
        Ok(ticket)
    }

    /// Queues what the program calls a launch, or the fate the switches have for it.
    pub fn enqueue_launch(&mut self, stream: usize, command: Command) -> Result<(), Status> {
        if self.captures.is_capturing(stream) {
            return self.enqueue(stream, command).map(drop);
        }
        let number = NUM_LAUNCHES.fetch_add(1, Ordering::Relaxed) + 1;
        let is = |switch: Option<u64>| switch == Some(number);
        if is(self.switches.fail_launch) {
            return Err(Status::LaunchOutOfResources);
        }
        let command = if is(self.switches.hang_launch) {
            Command::Hang
        } else if is(self.switches.fault_launch) {
            Command::Fault(Status::LaunchFailed)
        } else {
            command
        };
        self.enqueue(stream, command).map(drop)
    }

    /// Whether `stream` may be waited for at all.
    pub fn check_waitable(&self, stream: usize) -> Result<(), Status> {
        if self.captures.is_capturing(stream) {
            return Err(Status::CaptureUnsupported);
        }
        if self.queues.is_open(stream) { Ok(()) } else { Err(Status::InvalidHandle) }
    }

    /// Whether the whole context may be waited for.
    pub fn check_no_capture(&self) -> Result<(), Status> {
        if self.captures.any() { Err(Status::CaptureUnsupported) } else { Ok(()) }
    }

    /// Runs one command that may run now; false if there is none.
    pub fn run_one(&mut self) -> Result<bool, Status> {
        let Some(command) = self.queues.take(&mut self.random) else { return Ok(false) };
        self.execute(command).map_err(|status| self.end(status))?;
        Ok(true)
    }

    fn execute(&mut self, command: Command) -> Result<(), Status> {
        let memory = |fault: MemoryFault| {
            eprintln!("simt: a copy or a product: {fault}");
            Status::of_memory(&fault)
        };
        match command {
            Command::Launch { kernel, grid, block, shared, params } => {
                let Some(lowered) = kernel.kernel() else { return Err(Status::NotFound) };
                let result = self.machine.launch_packed(lowered, grid, block, shared, &params);
                let counters = result.map_err(|fault| {
                    eprintln!("simt: {fault}");
                    Status::of_fault(&fault)
                })?;
                if self.switches.log >= 1 {
                    eprintln!("simt: {} {grid} x {block}: {counters:?}", kernel.name);
                }
                self.clock_ns += counters.instructions;
            }
            Command::Product(product) => {
                self.clock_ns += product.cost();
                product.run(&mut self.machine).map_err(memory)?;
            }
            Command::CopyIn { dst, data } => {
                self.clock_ns += data.len() as u64 / 16;
                self.machine.copy_in(dst, &data).map_err(memory)?;
            }
            Command::CopyInPinned { dst, src, bytes } => {
                self.clock_ns += bytes as u64 / 16;
                self.machine.copy_in(dst, host_bytes(src, bytes)).map_err(memory)?;
            }
            Command::CopyOut { dst, src, bytes } => {
                self.clock_ns += bytes as u64 / 16;
                let mut data = vec![0; bytes];
                self.machine.copy_out(src, &mut data).map_err(memory)?;
                // SAFETY: the program promised `bytes` writable bytes until it has waited.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), dst.0, bytes) };
            }
            Command::Copy { dst, src, bytes } => {
                self.clock_ns += bytes / 16;
                self.machine.copy(dst, src, bytes).map_err(memory)?;
            }
            Command::Fill { dst, element, count } => {
                self.machine.fill(dst, &element, count).map_err(memory)?;
            }
            Command::Free { ptr } => self.machine.free(ptr).map_err(memory)?,
            Command::Record { event } => {
                if let Some(event) = self.events.get_mut(&event) {
                    event.at_ns = self.clock_ns;
                }
            }
            // SAFETY: the program promised a function that takes this address and calls no CUDA.
            Command::Host { function, data } => unsafe { function(data.0.cast()) },
            Command::Fault(status) => return Err(status),
            Command::Wait { .. } | Command::Graph(_) | Command::Hang => {}
        }
        Ok(())
    }

    pub fn allocate(&mut self, bytes: u64) -> Result<DevicePtr, Status> {
        let number = NUM_ALLOCS.fetch_add(1, Ordering::Relaxed) + 1;
        if bytes == 0 {
            return Err(Status::InvalidValue);
        }
        if self.switches.fail_alloc == Some(number) {
            return Err(Status::OutOfMemory);
        }
        self.machine.alloc(bytes).map_err(|fault| Status::of_memory(&fault))
    }
}

/// The bytes a program passed.
pub fn host_bytes<'a>(src: HostPtr, bytes: usize) -> &'a [u8] {
    // SAFETY: the program promised `bytes` readable bytes with the call, until it has waited if they
    // are pinned; the slice does not outlive the command.
    unsafe { std::slice::from_raw_parts(src.0, bytes) }
}

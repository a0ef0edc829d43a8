//! The driver's whole state, and the loop that runs queued work.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::env::Switches;
use super::errors::Status;
use super::queue::{Command, DEFAULT_STREAM, HostPtr, KernelRef, MAX_PENDING, Queues};
use crate::fault::MemoryFault;
use crate::machine::{Machine, Module};
use crate::memory::address::DevicePtr;
use crate::random::Random;

#[derive(Debug, Clone, Copy, Default)]
pub struct Event {
    /// The record that counts; None before the first.
    pub ticket: Option<u64>,
    /// Recorded inside a capture: an edge of a graph, nothing to wait for.
    pub captured: bool,
}

#[derive(Debug)]
pub struct Function {
    pub kernel: Arc<KernelRef>,
    /// What cuFuncSetAttribute allows beyond the 48 KiB that every kernel may use.
    pub max_dynamic_shared: u32,
}

/// Dynamic shared memory a kernel may use without asking.
pub const DEFAULT_DYNAMIC_SHARED: u32 = 48 * 1024;

#[derive(Debug)]
pub struct Driver {
    pub switches: Switches,
    pub machine: Machine,
    pub queues: Queues,
    random: Random,
    pub initialized: bool,
    next_handle: usize,
    pub modules: HashMap<usize, Arc<Module>>,
    pub functions: HashMap<usize, Function>,
    pub events: HashMap<usize, Event>,
    /// Streams that record a graph instead of queueing work.
    pub captures: HashMap<usize, Vec<Command>>,
    pub graphs: HashMap<usize, Vec<Command>>,
    /// Pinned host memory by address.
    pub pinned: BTreeMap<usize, Box<[u64]>>,
    pub num_allocs: u64,
    pub num_launches: u64,
    /// A fault ends the context: every later call answers it again, as on a card.
    fault: Option<Status>,
}

impl Driver {
    pub fn from_env() -> Driver {
        let switches = Switches::read(|name| std::env::var(name).ok());
        let mut queues = Queues::default();
        queues.open(DEFAULT_STREAM, false);
        Driver {
            machine: Machine::new(switches.options.clone()),
            random: Random::new(switches.options.seed),
            switches,
            queues,
            initialized: false,
            next_handle: 0x1000,
            modules: HashMap::new(),
            functions: HashMap::new(),
            events: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            pinned: BTreeMap::new(),
            num_allocs: 0,
            num_launches: 0,
            fault: None,
        }
    }

    /// A handle never given before: a stale one is always unknown.
    pub fn fresh_handle(&mut self) -> usize {
        self.next_handle += 16;
        self.next_handle
    }

    pub fn check_alive(&self, name: &str) -> Result<(), Status> {
        if !self.initialized && name != "cuInit" {
            return Err(Status::NotInitialized);
        }
        self.fault.map_or(Ok(()), Err)
    }

    pub fn log_call(&self, name: &str, result: &Result<(), Status>) {
        if self.switches.log >= 2 {
            eprintln!("simt: {name}: {result:?}");
        }
    }

    /// Queues work, or adds it to the graph that `stream` records.
    pub fn enqueue(&mut self, stream: usize, command: Command) -> Result<u64, Status> {
        if let Some(graph) = self.captures.get_mut(&stream) {
            if matches!(command, Command::Free { .. }) {
                return Err(Status::CaptureUnsupported);
            }
            graph.push(command);
            return Ok(0);
        }
        if !self.queues.is_open(stream) {
            return Err(Status::InvalidHandle);
        }
        let ticket = self.queues.push(stream, command);
        while self.queues.num_pending() > MAX_PENDING {
            self.run_one()?;
        }
        Ok(ticket)
    }

    /// Runs work until `done` holds or nothing is left.
    pub fn run_until(&mut self, done: impl Fn(&Queues) -> bool) -> Result<(), Status> {
        while !done(&self.queues) && self.run_one()? {}
        Ok(())
    }

    pub fn synchronize(&mut self, stream: usize) -> Result<(), Status> {
        if self.captures.contains_key(&stream) {
            return Err(Status::CaptureUnsupported);
        }
        if !self.queues.is_open(stream) {
            return Err(Status::InvalidHandle);
        }
        self.run_until(|queues| queues.is_idle(stream))
    }

    pub fn synchronize_all(&mut self) -> Result<(), Status> {
        if !self.captures.is_empty() {
            return Err(Status::CaptureUnsupported);
        }
        self.run_until(|queues| queues.num_pending() == 0)
    }

    fn run_one(&mut self) -> Result<bool, Status> {
        let Some(command) = self.queues.take(&mut self.random) else { return Ok(false) };
        self.execute(command).inspect_err(|&status| {
            self.fault = Some(status);
            self.queues.clear();
        })?;
        Ok(true)
    }

    fn execute(&mut self, command: Command) -> Result<(), Status> {
        let memory = |fault: MemoryFault| {
            eprintln!("simt: copy between host and device: {fault}");
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
                Ok(())
            }
            Command::CopyIn { dst, data } => self.machine.copy_in(dst, &data).map_err(memory),
            Command::CopyInPinned { dst, src, bytes } => {
                let data = host_bytes(src, bytes);
                self.machine.copy_in(dst, data).map_err(memory)
            }
            Command::CopyOut { dst, src, bytes } => {
                let mut data = vec![0; bytes];
                self.machine.copy_out(src, &mut data).map_err(memory)?;
                // SAFETY: the program promised `bytes` writable bytes until it has waited.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), dst.0, bytes) };
                Ok(())
            }
            Command::Copy { dst, src, bytes } => self.machine.copy(dst, src, bytes).map_err(memory),
            Command::Fill { dst, element, count } => {
                self.machine.fill(dst, &element, count).map_err(memory)
            }
            Command::Free { ptr } => self.machine.free(ptr).map_err(memory),
            Command::Record | Command::Wait { .. } => Ok(()),
        }
    }

    pub fn allocate(&mut self, bytes: u64) -> Result<DevicePtr, Status> {
        self.num_allocs += 1;
        if bytes == 0 {
            return Err(Status::InvalidValue);
        }
        if self.switches.fail_alloc == Some(self.num_allocs) {
            return Err(Status::OutOfMemory);
        }
        self.machine.alloc(bytes).map_err(|fault| Status::of_memory(&fault))
    }

    /// Whether all of the host range is pinned.
    pub fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        self.pinned
            .range(..=address)
            .next_back()
            .is_some_and(|(start, data)| address + bytes <= start + data.len() * 8)
    }
}

/// The bytes a program passed.
pub fn host_bytes<'a>(src: HostPtr, bytes: usize) -> &'a [u8] {
    // SAFETY: the program promised `bytes` readable bytes with the call, until it has waited if they
    // are pinned; the slice does not outlive the command.
    unsafe { std::slice::from_raw_parts(src.0, bytes) }
}

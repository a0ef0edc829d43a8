//! The library's face: a device with memory, modules and launches.

use std::collections::HashMap;

use crate::counters::Counters;
use crate::exec::{self, Launch, MmaOrder, Settings};
use crate::fault::{Dim3, Fault, FaultKind, MemoryFault};
use crate::lower::{LowerError, lower};
use crate::memory::address::{DevicePtr, MAX_ALLOCATIONS};
use crate::memory::global::GlobalMemory;
use crate::program::Kernel;
use crate::ptx::ast::Space;
use crate::ptx::{ParseError, parse};

/// Threads of a block, on every card since sm_20.
const MAX_BLOCK_THREADS: u64 = 1024;

/// The device and how strictly it looks.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides the order of blocks and warps and the errors of approximate instructions.
    pub seed: u64,
    /// Major and minor: refuses PTX for newer cards.
    pub compute_capability: (u32, u32),
    /// The newest PTX the emulated driver reads.
    pub max_ptx_version: (u32, u32),
    pub memory_bytes: u64,
    /// Warp instructions a launch may take: more is a kernel that hangs.
    pub max_instructions: u64,
    pub max_shared_bytes: u32,
    pub detect_races: bool,
    /// Moves the results of ex2, tanh, rcp, rsqrt, ... within their documented error.
    pub perturb_approximations: bool,
    pub mma_order: MmaOrder,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 0,
            compute_capability: (8, 0),
            max_ptx_version: (9, 9),
            memory_bytes: 1 << 30,
            max_instructions: 2_000_000_000,
            // An sm_80 block may have 163 KiB, less on most other cards.
            max_shared_bytes: 163 * 1024,
            detect_races: true,
            perturb_approximations: false,
            mma_order: MmaOrder::Exact,
        }
    }
}

impl Options {
    /// A card of that compute capability, with the shared memory that the CUDA programming guide's
    /// table of technical specifications gives a block of it.
    #[must_use]
    pub fn of_card(compute_capability: (u32, u32)) -> Options {
        let kib = match compute_capability {
            (7, _) => 64,
            (8, 6 | 9) | (12, _) => 99,
            (9 | 10, _) => 227,
            _ => 163,
        };
        Options { compute_capability, max_shared_bytes: kib * 1024, ..Options::default() }
    }
}

/// Why a PTX text was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("PTX {found:?} is newer than this driver's {newest:?}")]
    Version { found: (u32, u32), newest: (u32, u32) },
    #[error("code for {target} does not run on compute capability {device:?}")]
    Target { target: String, device: (u32, u32) },
    #[error(transparent)]
    Memory(#[from] MemoryFault),
}

/// The kernels of one PTX text. A kernel with an instruction that is not emulated stands as its error:
/// the others run.
#[derive(Debug)]
pub struct Module {
    kernels: HashMap<String, Result<Kernel, LowerError>>,
    variables: HashMap<String, (DevicePtr, u64)>,
}

impl Module {
    /// Names of all kernels, sorted.
    #[must_use]
    pub fn kernel_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// # Errors
    /// What keeps the kernel from running; no such kernel.
    pub fn kernel(&self, name: &str) -> Result<&Kernel, LowerError> {
        match self.kernels.get(name) {
            Some(Ok(kernel)) => Ok(kernel),
            Some(Err(error)) => Err(error.clone()),
            None => Err(LowerError { line: 0, what: format!("no kernel {name}") }),
        }
    }

    /// Address and size of a module variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<(DevicePtr, u64)> {
        self.variables.get(name).copied()
    }
}

/// One kernel argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    U32(u32),
    I32(i32),
    F32(f32),
    U64(u64),
    Ptr(DevicePtr),
    /// A struct by value, or anything else as bytes.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::U32(value) => value.to_le_bytes().to_vec(),
            Arg::I32(value) => value.to_le_bytes().to_vec(),
            Arg::F32(value) => value.to_le_bytes().to_vec(),
            Arg::U64(value) | Arg::Ptr(DevicePtr(value)) => value.to_le_bytes().to_vec(),
            Arg::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// An emulated device.
#[derive(Debug)]
pub struct Machine {
    options: Options,
    memory: GlobalMemory,
}

impl Machine {
    #[must_use]
    pub fn new(options: Options) -> Self {
        Machine::with_ids(options, 0, MAX_ALLOCATIONS)
    }

    /// A device whose allocations have ids from `first_id` on, at most `num_ids`: devices with ranges
    /// apart do not know each other's addresses.
    #[must_use]
    pub fn with_ids(options: Options, first_id: usize, num_ids: usize) -> Self {
        let memory = GlobalMemory::with_ids(options.memory_bytes, first_id, num_ids);
        Machine { options, memory }
    }

    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.memory.free_bytes()
    }

    /// Reads a PTX text and gives its variables memory.
    ///
    /// # Errors
    /// No PTX, too new, for another card, or no memory for its variables.
    pub fn load(&mut self, ptx: &str) -> Result<Module, LoadError> {
        let ptx = parse(ptx)?;
        let newest = self.options.max_ptx_version;
        if ptx.version > newest {
            return Err(LoadError::Version { found: ptx.version, newest });
        }
        self.check_target(&ptx.target)?;
        let mut variables = HashMap::new();
        let mut addresses = HashMap::new();
        let stored = |space| matches!(space, Space::Global | Space::Const);
        for variable in ptx.variables.iter().filter(|variable| stored(variable.space)) {
            let bytes = u64::from(variable.size_bytes);
            let address = self.memory.alloc(bytes)?;
            let data = self.memory.write(address.0, bytes, 1)?;
            // A variable without a value is zero.
            data.fill(0);
            data[..variable.init.len()].copy_from_slice(&variable.init);
            variables.insert(variable.name.clone(), (address, bytes));
            addresses.insert(variable.name.clone(), address.0);
        }
        let kernels = ptx
            .entries
            .iter()
            .map(|entry| (entry.name.clone(), lower(entry, &ptx.variables, &addresses)))
            .collect();
        Ok(Module { kernels, variables })
    }

    /// `sm_80` runs on 8.0 and newer; `sm_90a` on 9.0 alone.
    fn check_target(&self, target: &str) -> Result<(), LoadError> {
        let device = self.options.compute_capability;
        let number = target.trim_start_matches("sm_");
        let exact = number.ends_with('a');
        let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let fits = digits.parse::<u32>().is_ok_and(|number| {
            let wanted = (number / 10, number % 10);
            if exact { wanted == device } else { wanted <= device }
        });
        if fits { Ok(()) } else { Err(LoadError::Target { target: target.into(), device }) }
    }

    /// # Errors
    /// The configured memory is full.
    pub fn alloc(&mut self, bytes: u64) -> Result<DevicePtr, MemoryFault> {
        self.memory.alloc(bytes)
    }

    /// # Errors
    /// Either range is not wholly inside a living allocation.
    pub fn copy(&mut self, dst: DevicePtr, src: DevicePtr, bytes: u64) -> Result<(), MemoryFault> {
        let data = self.memory.read(src.0, bytes, 1)?.to_vec();
        self.copy_in(dst, &data)
    }

    /// Fills `count` elements with the bytes of one.
    ///
    /// # Errors
    /// As `copy_in`.
    pub fn fill(&mut self, ptr: DevicePtr, element: &[u8], count: u64) -> Result<(), MemoryFault> {
        let bytes = count.saturating_mul(element.len() as u64);
        let target = self.memory.write(ptr.0, bytes, element.len() as u64)?;
        target.chunks_mut(element.len().max(1)).for_each(|chunk| chunk.copy_from_slice(element));
        Ok(())
    }

    /// # Errors
    /// Not the start of a living allocation.
    pub fn free(&mut self, ptr: DevicePtr) -> Result<(), MemoryFault> {
        self.memory.free(ptr)
    }

    /// # Errors
    /// The target is not wholly inside a living allocation.
    pub fn copy_in(&mut self, ptr: DevicePtr, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.memory.write(ptr.0, bytes.len() as u64, 1)?.copy_from_slice(bytes);
        Ok(())
    }

    /// # Errors
    /// As `copy_in`.
    pub fn copy_out(&self, ptr: DevicePtr, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        bytes.copy_from_slice(self.memory.read(ptr.0, bytes.len() as u64, 1)?);
        Ok(())
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// The first fault, with instruction and thread. Memory keeps what was written until then.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        grid: impl Into<Dim3>,
        block: impl Into<Dim3>,
        dynamic_shared_bytes: u32,
        args: &[Arg],
    ) -> Result<Counters, Fault> {
        let lowered = module.kernel(kernel).map_err(|error| {
            refuse(kernel, error.line, FaultKind::Unsupported { what: error.what })
        })?;
        let params =
            pack(lowered, args).map_err(|what| refuse(kernel, 0, FaultKind::Launch { what }))?;
        self.launch_packed(lowered, grid.into(), block.into(), dynamic_shared_bytes, &params)
    }

    /// As `launch`, with the parameter block as the kernel sees it.
    ///
    /// # Errors
    /// As `launch`.
    pub fn launch_packed(
        &mut self,
        kernel: &Kernel,
        grid: Dim3,
        block: Dim3,
        dynamic_shared_bytes: u32,
        params: &[u8],
    ) -> Result<Counters, Fault> {
        self.check_launch(kernel, grid, block, dynamic_shared_bytes)
            .map_err(|what| refuse(&kernel.name, 0, FaultKind::Launch { what }))?;
        let settings = Settings {
            seed: self.options.seed,
            max_instructions: self.options.max_instructions,
            detect_races: self.options.detect_races,
            perturb_approximations: self.options.perturb_approximations,
            mma_order: self.options.mma_order,
        };
        let launch =
            Launch { kernel, grid, block, dynamic_shared_bytes, params, settings: &settings };
        exec::run(&launch, &mut self.memory)
    }

    /// Whether a device would take the launch at all.
    ///
    /// # Errors
    /// The limit that is passed.
    pub fn check_launch(
        &self,
        kernel: &Kernel,
        grid: Dim3,
        block: Dim3,
        dynamic: u32,
    ) -> Result<(), String> {
        let threads = block.count();
        if grid.count() == 0 || threads == 0 {
            return Err(format!("grid {grid} of blocks {block} is empty"));
        }
        if grid.x > i32::MAX as u32 || grid.y > 65_535 || grid.z > 65_535 {
            return Err(format!("grid {grid} is too large"));
        }
        let most = kernel.max_threads.map_or(MAX_BLOCK_THREADS, u64::from).min(MAX_BLOCK_THREADS);
        if threads > most || block.z > 64 {
            return Err(format!("block {block} has more than {most} threads"));
        }
        if let Some([x, y, z]) = kernel.required_threads
            && block != Dim3::from((x, y, z))
        {
            return Err(format!("block {block} is not the required ({x}, {y}, {z})"));
        }
        let shared = u64::from(kernel.shared_bytes) + u64::from(dynamic);
        let limit = self.options.max_shared_bytes;
        if shared > u64::from(limit) {
            return Err(format!("{shared} bytes of shared memory, {limit} at most"));
        }
        Ok(())
    }
}

fn refuse(kernel: &str, line: u32, kind: FaultKind) -> Fault {
    let nowhere = Dim3 { x: 0, y: 0, z: 0 };
    Fault {
        kernel: kernel.to_string(),
        line,
        instruction: String::new(),
        block: nowhere,
        thread: nowhere,
        kind,
    }
}

/// The parameter block: each argument at its offset, of exactly its size.
fn pack(kernel: &Kernel, args: &[Arg]) -> Result<Vec<u8>, String> {
    if args.len() != kernel.params.len() {
        return Err(format!("{} arguments for {} parameters", args.len(), kernel.params.len()));
    }
    let mut params = vec![0; kernel.param_bytes as usize];
    for (index, (arg, param)) in args.iter().zip(&kernel.params).enumerate() {
        let bytes = arg.bytes();
        if bytes.len() != param.bytes as usize {
            let (is, wanted) = (bytes.len(), param.bytes);
            return Err(format!("argument {index} has {is} bytes, the parameter {wanted}"));
        }
        let at = param.offset as usize;
        params[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    Ok(params)
}

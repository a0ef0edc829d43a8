//! A PTX emulator: runs CUDA kernels where there is no GPU, and reports what a GPU would corrupt
//! silently.
//!
//! ```
//! use simt::{Arg, Machine, Options};
//!
//! let mut machine = Machine::new(Options::default());
//! let module = machine.load(
//!     ".version 7.8 .target sm_80 .address_size 64
//!      .entry seven(.param .u64 out) {
//!          .reg .b64 p;
//!          ld.param.u64 p, [out];
//!          st.global.u32 [p], 7;
//!          ret;
//!      }",
//! )?;
//! let out = machine.alloc(4)?;
//! let counters = machine.launch(&module, "seven", 1, 1, 0, &[Arg::Ptr(out)])?;
//! let mut bytes = [0; 4];
//! machine.copy_out(out, &mut bytes)?;
//! assert_eq!((u32::from_le_bytes(bytes), counters.instructions), (7, 3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it checks: bounds, alignment and life of every access; races on shared memory between warps and
//! between the lanes of one; barriers and warp-wide instructions met by some lanes only; cp.async and
//! wgmma used before their wait, or without their fences. What it cannot see: time, occupancy, caches,
//! the memory model between blocks.

pub mod alu;
pub mod counters;
pub mod driver;
mod exec;
pub mod fault;
pub mod lower;
pub mod machine;
pub mod memory;
pub mod program;
pub mod ptx;
pub mod random;

pub use counters::Counters;
pub use exec::MmaOrder;
pub use fault::{Dim3, Fault, FaultKind, MemoryFault, RaceKind};
pub use machine::{Arg, LoadError, Machine, Module, Options};
pub use memory::address::DevicePtr;

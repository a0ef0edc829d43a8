//! A device with the project's kernels: typed buffers in, launches, counters out.

use simt::{Counters, DevicePtr, Dim3, Machine, MmaOrder, Options};
use std::path::PathBuf;

/// How the emulated device computes what hardware leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Exact sums inside an mma, correctly rounded approximations: the same bits for the same work.
    Plain,
    /// Sums one after another, and ex2, rcp and the like moved within their documented error.
    Rough,
}

pub struct Gpu {
    machine: Machine,
}

/// An allocation and its size in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    ptr: DevicePtr,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
pub enum Arg {
    Ptr(Buffer),
    Null,
    I32(i32),
    I64(i64),
    F32(f32),
}

impl Gpu {
    /// A card of sm_80 behind the oldest driver that knows its instructions.
    pub fn new(mode: Mode) -> Self {
        Self::of_card(mode, (8, 0), (7, 0))
    }

    /// The same of sm_90, with wgmma.
    pub fn sm90(mode: Mode) -> Self {
        Self::of_card(mode, (9, 0), (8, 0))
    }

    fn of_card(mode: Mode, compute_capability: (u32, u32), max_ptx_version: (u32, u32)) -> Self {
        let rough = mode == Mode::Rough;
        let options = Options {
            seed: 20_261_123,
            max_ptx_version,
            perturb_approximations: rough,
            mma_order: if rough { MmaOrder::Sequential } else { MmaOrder::Exact },
            ..Options::of_card(compute_capability)
        };
        Self { machine: Machine::new(options) }
    }

    /// Halves from floats that are halves already.
    pub fn f16(&mut self, values: &[f32]) -> Buffer {
        let bytes: Vec<u8> =
            values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
        self.upload(&bytes)
    }

    pub fn f16_zeros(&mut self, count: usize) -> Buffer {
        self.f16(&vec![0.0; count])
    }

    pub fn f32(&mut self, values: &[f32]) -> Buffer {
        self.upload(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn u32(&mut self, values: &[u32]) -> Buffer {
        self.upload(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn i8(&mut self, values: &[i8]) -> Buffer {
        self.upload(&values.iter().map(|x| x.cast_unsigned()).collect::<Vec<_>>())
    }

    fn upload(&mut self, bytes: &[u8]) -> Buffer {
        let ptr = self.machine.alloc(bytes.len().max(1) as u64).expect("a GiB is enough");
        self.machine.copy_in(ptr, bytes).expect("it fits");
        Buffer { ptr, bytes: bytes.len() }
    }

    fn download(&self, buffer: Buffer) -> Vec<u8> {
        let mut bytes = vec![0; buffer.bytes];
        self.machine.copy_out(buffer.ptr, &mut bytes).expect("it is alive");
        bytes
    }

    pub fn read_f16(&self, buffer: Buffer) -> Vec<f32> {
        let bytes = self.download(buffer);
        bytes.chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }

    pub fn read_f32(&self, buffer: Buffer) -> Vec<f32> {
        let bytes = self.download(buffer);
        bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub fn read_u32(&self, buffer: Buffer) -> Vec<u32> {
        let bytes = self.download(buffer);
        bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// Runs a kernel of whose shared memory every access goes through in one pass. Another compiler may
    /// cut its accesses differently.
    #[track_caller]
    pub fn launch_without_conflicts(
        &mut self,
        kernel: &str,
        grid: impl Into<Dim3>,
        block: u32,
        smem_bytes: u32,
        args: &[Arg],
    ) {
        let counters = self.launch(kernel, grid, block, smem_bytes, args);
        let foreign = std::env::var_os("KERNELS_PTX").is_some();
        if !foreign || std::env::var_os("KERNELS_PTX_IS_OURS").is_some() {
            let conflicts = counters.shared_bank_conflicts + counters.ldmatrix_bank_conflicts;
            assert_eq!(conflicts, 0, "{kernel}: bank conflicts");
        }
    }

    /// Runs a kernel from `kernels/ptx`, or from the folder that KERNELS_PTX names: another compiler's.
    #[track_caller]
    pub fn launch(
        &mut self,
        kernel: &str,
        grid: impl Into<Dim3>,
        block: u32,
        smem_bytes: u32,
        args: &[Arg],
    ) -> Counters {
        let folder = std::env::var_os("KERNELS_PTX").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../ptx")),
            PathBuf::from,
        );
        let path = folder.join(format!("{kernel}.ptx"));
        let ptx = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let module =
            self.machine.load(&ptx).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let args: Vec<simt::Arg> = args.iter().map(|arg| arg.lower()).collect();
        match self.machine.launch(&module, kernel, grid, block, smem_bytes, &args) {
            Ok(counters) => counters,
            Err(fault) => panic!("{fault}"),
        }
    }
}

impl Arg {
    fn lower(self) -> simt::Arg {
        match self {
            Arg::Ptr(buffer) => simt::Arg::Ptr(buffer.ptr),
            Arg::Null => simt::Arg::U64(0),
            Arg::I32(value) => simt::Arg::I32(value),
            Arg::I64(value) => simt::Arg::U64(value as u64),
            Arg::F32(value) => simt::Arg::F32(value),
        }
    }
}

/// Halves spread evenly over `-scale..scale`, the same for the same seed.
pub fn random(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1u32 << 24) as f32;
        half::f16::from_f32((unit * 2.0 - 1.0) * scale).to_f32()
    };
    next();
    (0..count).map(|_| next()).collect()
}

/// Rows and width: at 40 columns every number of rows at which a warp, a tile or a block ends or begins, and a
/// few rows at each of `widths`.
pub fn shapes(widths: &[usize]) -> Vec<(usize, usize)> {
    let edges = [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 511, 512];
    edges.map(|rows| (rows, 40)).into_iter().chain(widths.iter().map(|width| (5, *width))).collect()
}

pub fn cu_seqlens(lens: &[usize]) -> Vec<u32> {
    let ends = lens.iter().scan(0, |end, len| {
        *end += *len as u32;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

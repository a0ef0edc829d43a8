//! What every test's program begins with: a context, streams and a kernel.

use std::sync::Arc;

use cudarc::driver::sys::{CUevent_flags, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

/// `values[i] = values[i] * factor + 1` for i < count, through dynamic shared memory.
pub const SCALE: &str = "
.version 7.0 .target sm_80 .address_size 64
.extern .shared .align 16 .b8 staged[];
.visible .entry scale(.param .u64 ptr, .param .u32 count, .param .u32 factor) {
    .reg .b64 p, o; .reg .b32 i, n, v, f, s; .reg .pred out;
    ld.param.u64 p, [ptr]; ld.param.u32 n, [count]; ld.param.u32 f, [factor];
    mov.u32 i, %tid.x; setp.ge.u32 out, i, n; @out ret;
    mul.wide.u32 o, i, 4; add.s64 p, p, o; cvt.u32.u64 s, o; mov.u32 v, staged; add.s32 s, s, v;
    ld.global.u32 v, [p]; mad.lo.s32 v, v, f, 1;
    st.shared.u32 [s], v; ld.shared.u32 v, [s]; st.global.u32 [p], v; ret;
}";

pub struct Program {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub scale: CudaFunction,
}

pub const COUNT: usize = 48;
const SHARED: u32 = 4 * COUNT as u32;

impl Program {
    /// On device `ordinal`, ordering its streams by hand as a program that captures graphs has to.
    pub fn start(ordinal: usize) -> Result<Program, DriverError> {
        let context = CudaContext::new(ordinal)?;
        // SAFETY: the tests order their streams with events of their own.
        unsafe { context.disable_event_tracking() };
        let scale = context.load_module(Ptx::from_src(SCALE))?.load_function("scale")?;
        let stream = context.new_stream()?;
        Ok(Program { context, stream, scale })
    }

    /// The numbers from 0, copied by the program's stream.
    pub fn numbers(&self) -> Result<CudaSlice<u32>, DriverError> {
        self.stream.clone_htod(&(0..COUNT as u32).collect::<Vec<_>>())
    }

    pub fn scale(
        &self,
        stream: &CudaStream,
        values: &mut CudaSlice<u32>,
        factor: u32,
    ) -> Result<(), DriverError> {
        let count = values.len() as u32;
        self.scale_counted(stream, values, count, factor)
    }

    /// As `scale`, with a count that may be a lie.
    pub fn scale_counted(
        &self,
        stream: &CudaStream,
        values: &mut CudaSlice<u32>,
        count: u32,
        factor: u32,
    ) -> Result<(), DriverError> {
        let shape = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (64, 1, 1),
            shared_mem_bytes: SHARED.max(4 * count),
        };
        // SAFETY: the kernel's parameters; a count beyond the slice is a fault of the emulator.
        unsafe {
            stream
                .launch_builder(&self.scale)
                .arg(values)
                .arg(&count)
                .arg(&factor)
                .launch(shape)
                .map(drop)
        }
    }

    pub fn read(&self, values: &CudaSlice<u32>) -> Result<Vec<u32>, DriverError> {
        self.stream.clone_dtoh(values)
    }
}

pub fn timed() -> Option<CUevent_flags> {
    Some(CUevent_flags::CU_EVENT_DEFAULT)
}

/// What `scale` makes of the numbers from 0 under one factor after the other.
pub fn scaled(factors: &[u32]) -> Vec<u32> {
    let one = |value| factors.iter().fold(value, |value, factor| value * factor + 1);
    (0..COUNT as u32).map(one).collect()
}

#[track_caller]
pub fn fails<T>(result: Result<T, DriverError>, with: CUresult) {
    let found = result.err().map(|DriverError(found)| found);
    assert_eq!(found, Some(with));
}

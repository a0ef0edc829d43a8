//! Weights in narrow numbers, packed for the tiles.

use super::STEP_BYTES;
use crate::engine::cpu::buffer::Buffer;
use crate::engine::{Dtype, LinearInit};
use half::bf16;

/// `[num_panels][steps * STEP_DWORDS][panel]` dwords; columns and k padded with zeros. Each column has its
/// own scale, in which its largest weight is 127: bf16 holds whole numbers to 256 exactly, so weights stored
/// as int8 by row lose nothing in either precision.
#[derive(Debug)]
pub(in crate::engine::cpu) struct Panels {
    pub(in crate::engine::cpu) steps: usize,
    pub(in crate::engine::cpu) panels: Buffer<u8>,
    /// What one stands for in each column.
    pub(in crate::engine::cpu) scales: Buffer,
    /// Int8: of a column's codes; else empty.
    pub(in crate::engine::cpu) sums: Buffer,
}

/// Bytes of a row of `k` numbers, in whole steps.
fn steps_of(k: usize, dtype: Dtype) -> usize {
    let bytes = if dtype == Dtype::Int8 { k } else { 2 * k };
    bytes.div_ceil(STEP_BYTES)
}

impl Panels {
    pub(in crate::engine::cpu) fn pack(init: &LinearInit<'_>, dtype: Dtype, panel: usize) -> Self {
        let LinearInit { weight, n, k, .. } = *init;
        let (steps, num_panels) = (steps_of(k, dtype), n.div_ceil(panel));
        let mut packed = Self {
            steps,
            panels: Buffer::zeroed_weights(num_panels * steps * STEP_BYTES * panel),
            scales: Buffer::zeroed(num_panels * panel),
            sums: Buffer::zeroed(if dtype == Dtype::Int8 { num_panels * panel } else { 0 }),
        };
        let panel_bytes = steps * STEP_BYTES * panel;
        // One panel's weights, its place, and the scales and sums of its columns.
        let mut sums = packed.sums.chunks_mut(panel);
        let jobs: Vec<_> = weight
            .chunks(panel * k)
            .zip(packed.panels.chunks_mut(panel_bytes))
            .zip(packed.scales.chunks_mut(panel))
            .map(|((weight, out), scales)| (weight, out, scales, sums.next()))
            .collect();
        on_all_cores(jobs, |(weight, out, scales, sums)| {
            pack_panel((weight, k), panel, out, scales, sums);
        });
        packed
    }
}

/// Below this a thread's start costs more than it saves.
const JOBS_A_THREAD: usize = 4;

/// Runs each job once, in contiguous shares on as many threads as the process has cores.
fn on_all_cores<T: Send>(mut jobs: Vec<T>, run: impl Fn(T) + Sync) {
    let num_cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = jobs.len().div_ceil(num_cores).max(JOBS_A_THREAD);
    std::thread::scope(|scope| {
        while jobs.len() > share {
            let share = jobs.split_off(jobs.len() - share);
            scope.spawn(|| share.into_iter().for_each(&run));
        }
        jobs.into_iter().for_each(&run);
    });
}

/// Packs up to `panel` rows of `k` weights, each a column of the panel: as int8 if it has sums, else as bf16.
fn pack_panel(
    (weight, k): (&[f32], usize),
    panel: usize,
    out: &mut [u8],
    scales: &mut [f32],
    mut sums: Option<&mut [f32]>,
) {
    let mut bytes = vec![0; out.len() / panel];
    for (column, row) in weight.chunks_exact(k).enumerate() {
        let largest = row.iter().fold(0f32, |max, x| max.max(x.abs()));
        let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        scales[column] = largest / 127.0;
        match &mut sums {
            Some(sums) => sums[column] = codes(row, inverse, &mut bytes),
            None => {
                for (x, bytes) in row.iter().zip(bytes.chunks_exact_mut(2)) {
                    bytes.copy_from_slice(&bf16::from_f32(x * inverse).to_bits().to_le_bytes());
                }
            }
        }
        let lane = column * 4;
        for (dword, line) in bytes.chunks_exact(4).zip(out.chunks_exact_mut(4 * panel)) {
            line[lane..lane + 4].copy_from_slice(dword);
        }
    }
}

/// Codes of one output's weights, symmetric around zero; returns their sum.
fn codes(row: &[f32], inverse: f32, codes: &mut [u8]) -> f32 {
    // Between 2^23 and 2^24 floats are whole numbers: adding 1.5 * 2^23 rounds, ties to even, without a call.
    const WHOLE: f32 = 12_582_912.0;
    let mut sum = 0;
    for (x, code) in row.iter().zip(codes) {
        let rounded = (x * inverse + WHOLE).to_bits().wrapping_sub(WHOLE.to_bits()) as i8;
        *code = rounded as u8;
        sum += i32::from(rounded);
    }
    sum as f32
}

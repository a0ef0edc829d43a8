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
            panels: Buffer::zeroed(num_panels * steps * STEP_BYTES * panel),
            scales: Buffer::zeroed(num_panels * panel),
            sums: Buffer::zeroed(if dtype == Dtype::Int8 { num_panels * panel } else { 0 }),
        };
        let panel_bytes = steps * STEP_BYTES * panel;
        let mut bytes = vec![0; steps * STEP_BYTES];
        for (column, row) in weight.chunks_exact(k).enumerate() {
            let largest = row.iter().fold(0f32, |max, x| max.max(x.abs()));
            let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
            packed.scales[column] = largest / 127.0;
            if dtype == Dtype::Int8 {
                packed.sums[column] = codes(row, inverse, &mut bytes);
            } else {
                for (x, bytes) in row.iter().zip(bytes.chunks_exact_mut(2)) {
                    bytes.copy_from_slice(&bf16::from_f32(x * inverse).to_bits().to_le_bytes());
                }
            }
            let panels = &mut packed.panels[column / panel * panel_bytes..][..panel_bytes];
            let lane = column % panel * 4;
            for (dword, line) in bytes.chunks_exact(4).zip(panels.chunks_exact_mut(4 * panel)) {
                line[lane..lane + 4].copy_from_slice(dword);
            }
        }
        packed
    }
}

/// Codes of one output's weights, symmetric around zero; returns their sum.
fn codes(row: &[f32], inverse: f32, codes: &mut [u8]) -> f32 {
    let mut sum = 0;
    for (x, code) in row.iter().zip(codes) {
        let rounded = (x * inverse).round_ties_even() as i8;
        *code = rounded as u8;
        sum += i32::from(rounded);
    }
    sum as f32
}

//! Weights in narrow numbers, packed for the tiles.

use super::{Numbers, STEP_BYTES, words};
use crate::engine::LinearInit;
use crate::engine::cpu::buffer::Buffer;
use half::bf16;

/// The largest weight of a column of bytes or of bf16.
const LARGEST: f32 = 127.0;

/// `[num_panels][steps * STEP_DWORDS][panel]` dwords; columns and k padded with zeros. Each column has its
/// own scale, in which its largest weight is 127 or a multiple: bf16 holds whole numbers to 256 exactly, so weights stored
/// as int8 by row lose nothing in any precision.
#[derive(Debug)]
pub(in crate::engine::cpu) struct Panels {
    pub(in crate::engine::cpu) numbers: Numbers,
    pub(in crate::engine::cpu) steps: usize,
    pub(in crate::engine::cpu) panels: Buffer<u8>,
    /// What one stands for in each column.
    pub(in crate::engine::cpu) scales: Buffer,
    /// Of a column's bytes; else empty.
    pub(in crate::engine::cpu) sums: Buffer,
    /// What a column's sums begin at, of words; else empty.
    pub(in crate::engine::cpu) starts: Buffer<i32>,
}

impl Panels {
    pub(in crate::engine::cpu) fn pack(
        init: &LinearInit<'_>,
        numbers: Numbers,
        panel: usize,
    ) -> Self {
        let LinearInit { weight, n, k, .. } = *init;
        let steps = (k * numbers.size()).div_ceil(STEP_BYTES);
        let num_panels = n.div_ceil(panel);
        let columns_of = |kind| if numbers == kind { num_panels * panel } else { 0 };
        let mut packed = Self {
            numbers,
            steps,
            panels: Buffer::zeroed_weights(num_panels * steps * STEP_BYTES * panel),
            scales: Buffer::zeroed(num_panels * panel),
            sums: Buffer::zeroed(columns_of(Numbers::Bytes)),
            starts: Buffer::zeroed(columns_of(Numbers::Words)),
        };
        let panel_bytes = steps * STEP_BYTES * panel;
        // One panel's weights, its place, and what is known of its columns.
        let mut sums = packed.sums.chunks_mut(panel);
        let mut starts = packed.starts.chunks_mut(panel);
        let jobs: Vec<_> = weight
            .chunks(panel * k)
            .zip(packed.panels.chunks_mut(panel_bytes))
            .zip(packed.scales.chunks_mut(panel))
            .map(|((weight, out), scales)| {
                let columns = Columns { scales, sums: sums.next(), starts: starts.next() };
                (weight, out, columns)
            })
            .collect();
        on_all_cores(jobs, |(weight, out, columns)| {
            pack_panel((weight, k), panel, out, columns);
        });
        packed
    }
}

/// What is known of the columns of a panel: sums only of bytes, starts only of words.
struct Columns<'a> {
    scales: &'a mut [f32],
    sums: Option<&'a mut [f32]>,
    starts: Option<&'a mut [i32]>,
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

/// Packs up to `panel` rows of `k` weights, each a column of the panel.
fn pack_panel(
    (weight, k): (&[f32], usize),
    panel: usize,
    out: &mut [u8],
    Columns { scales, mut sums, mut starts }: Columns<'_>,
) {
    let mut bytes = vec![0; out.len() / panel];
    let mut words = vec![0; if starts.is_some() { bytes.len() / 2 } else { 0 }];
    for (column, row) in weight.chunks_exact(k).enumerate() {
        let scale = match starts {
            Some(_) => words::scale_of_weights(row),
            None => row.iter().fold(0f32, |max, x| max.max(x.abs())) / LARGEST,
        };
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        scales[column] = scale;
        if let Some(sums) = &mut sums {
            let codes = rounded(row, inverse);
            sums[column] = codes.clone().sum::<i32>() as f32;
            codes.zip(&mut bytes).for_each(|(code, byte)| *byte = code as u8);
        } else if let Some(starts) = &mut starts {
            rounded(row, inverse).zip(&mut words).for_each(|(code, word)| *word = code as i16);
            starts[column] = words::start_of(&words);
            for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        } else {
            for (x, bytes) in row.iter().zip(bytes.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&bf16::from_f32(x * inverse).to_bits().to_le_bytes());
            }
        }
        let lane = column * 4;
        for (dword, line) in bytes.chunks_exact(4).zip(out.chunks_exact_mut(4 * panel)) {
            line[lane..lane + 4].copy_from_slice(dword);
        }
    }
}

/// Each weight in units of its column's scale, ties to even.
fn rounded(row: &[f32], inverse: f32) -> impl Iterator<Item = i32> + Clone {
    // Between 2^23 and 2^24 floats are whole numbers: adding 1.5 * 2^23 rounds without a call.
    const WHOLE: f32 = 12_582_912.0;
    row.iter().map(move |x| (x * inverse + WHOLE).to_bits().wrapping_sub(WHOLE.to_bits()) as i32)
}

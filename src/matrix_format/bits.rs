//! Two bits a number: how far it is from the document's mean of that column, in the column's own deviation.

use half::f16;

use super::{halves, read_halves, sum_in_halves};

/// What a 2-bit code stands for: the levels that lose least of a normal distribution (Joel Max, "Quantizing for
/// minimum distortion", 1960), and the bound between the small and the large one.
pub(crate) const LEVELS: [f32; 4] = [-1.510, -0.4528, 0.4528, 1.510];
const BOUND: f32 = 0.9816;
pub(crate) const CODES_PER_BYTE: usize = 4;
/// In which the squares of a row are summed: a multiple of those of any instruction set.
const LANES: usize = 16;
/// What the codes of each byte stand for, so that a byte is read by one look.
static LEVELS_OF: [[f32; CODES_PER_BYTE]; 256] = {
    let mut table = [[0.0; CODES_PER_BYTE]; 256];
    let mut i = 0;
    while i < 256 * CODES_PER_BYTE {
        let (byte, place) = (i / CODES_PER_BYTE, i % CODES_PER_BYTE);
        table[byte][place] = LEVELS[byte >> (place * 2) & 3];
        i += 1;
    }
    table
};

pub(super) fn encode(vectors: &[f32], dim: usize) -> Vec<u8> {
    let num_rows = (vectors.len() / dim) as f32;
    if vectors.is_empty() {
        return Vec::new();
    }
    let column = |d: usize| vectors.iter().skip(d).step_by(dim);
    let mean: Vec<f32> = (0..dim).map(|d| column(d).sum::<f32>() / num_rows).collect();
    // As they will be read.
    let mean: Vec<f32> = mean.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
    let deviation =
        |d: usize| (column(d).map(|x| (x - mean[d]).powi(2)).sum::<f32>() / num_rows).sqrt();
    let deviations: Vec<f32> = (0..dim).map(|d| f16::from_f32(deviation(d)).to_f32()).collect();
    let mut bytes = halves(&mean);
    bytes.extend(halves(&deviations));
    for row in vectors.chunks_exact(dim) {
        let mut packed = vec![0u8; dim.div_ceil(CODES_PER_BYTE)];
        for (d, x) in row.iter().enumerate() {
            let residual = x - mean[d];
            let code = match (residual >= 0.0, residual.abs() > BOUND * deviations[d]) {
                (false, true) => 0,
                (false, false) => 1,
                (true, false) => 2,
                (true, true) => 3,
            };
            packed[d / CODES_PER_BYTE] |= code << (d % CODES_PER_BYTE * 2);
        }
        bytes.extend(packed);
    }
    bytes
}

/// Vectors come back with length one, which they had. The bytes are as many as an encoding's.
pub(super) fn decode(bytes: &[u8], dim: usize, out: &mut Vec<f32>) {
    let row_bytes = dim.div_ceil(CODES_PER_BYTE);
    if bytes.is_empty() {
        return;
    }
    let (head, rows) = bytes.split_at(4 * dim);
    let mut columns = Vec::with_capacity(2 * dim);
    read_halves(head, &mut columns);
    let (mean, deviations) = columns.split_at(dim);
    for packed in rows.chunks_exact(row_bytes) {
        let begin = out.len();
        out.resize(begin + dim, 0.0);
        let row = &mut out[begin..];
        // Arrays of four: of slices the compiler makes no vectors. What they leave of the columns is less than a byte's.
        let (to, rest) = row.as_chunks_mut::<CODES_PER_BYTE>();
        let (of_mean, rest_of_mean) = mean.as_chunks::<CODES_PER_BYTE>();
        let (of_deviations, rest_of_deviations) = deviations.as_chunks::<CODES_PER_BYTE>();
        let columns = to.iter_mut().zip(of_mean.iter().zip(of_deviations));
        for ((to, (mean, deviations)), byte) in columns.zip(packed) {
            let levels = &LEVELS_OF[usize::from(*byte)];
            *to = std::array::from_fn(|i| mean[i] + deviations[i] * levels[i]);
        }
        let levels = &LEVELS_OF[usize::from(packed[row_bytes - 1])];
        let columns = rest_of_mean.iter().zip(rest_of_deviations).zip(levels);
        for (to, ((mean, deviation), level)) in rest.iter_mut().zip(columns) {
            *to = mean + deviation * level;
        }
        let scale = to_length_one(squares(row));
        row.iter_mut().for_each(|x| *x *= scale);
    }
}

/// What makes a vector's length one, if it has any.
#[inline(always)]
pub(crate) fn to_length_one(squares: f32) -> f32 {
    let length = squares.sqrt();
    if length > 0.0 { 1.0 / length } else { 1.0 }
}

/// The sum of the squares in lanes: one after another they would take most of the reading.
#[inline(always)]
fn squares(row: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (parts, rest) = row.as_chunks::<LANES>();
    for part in parts {
        lanes.iter_mut().zip(part).for_each(|(lane, x)| *lane += x * x);
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += x * x);
    sum_in_halves(&mut lanes)
}

//! How the vectors of a document are written down: exactly, or in fewer bytes.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// A format of document matrices. All but f32 lose something; the bounds are for vectors of length one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 4 bytes a number, exact.
    F32,
    /// 2 bytes a number: each within 2^-11 of its own.
    F16,
    /// A byte a number and a scale a vector: each within 1/254 of the vector's largest.
    Int8,
    /// 2 bits a number: how far it is from the document's mean of that column, in the column's own deviation. The
    /// mean and the deviations are kept with the document, so its bytes depend on nothing else.
    Bits2,
}

/// What a 2-bit code stands for: the levels that lose least of a normal distribution (Joel Max, "Quantizing for
/// minimum distortion", 1960), and the bound between the small and the large one.
const LEVELS: [f32; 4] = [-1.510, -0.4528, 0.4528, 1.510];
const BOUND: f32 = 0.9816;
const CODES_PER_BYTE: usize = 4;
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

/// 2^112
const POW2_112: f32 = f32::from_bits((127 + 112) << 23);

impl Format {
    /// As the settings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Bits2 => "bits2",
        }
    }

    /// Writes down `[num_vectors, dim]`.
    pub fn encode(self, vectors: &[f32], dim: usize) -> Vec<u8> {
        match self {
            Self::F32 => vectors.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F16 => halves(vectors),
            Self::Int8 => {
                let mut bytes = Vec::with_capacity(vectors.len() / dim * (dim + 4));
                for row in vectors.chunks_exact(dim) {
                    let largest = row.iter().fold(0f32, |max, x| max.max(x.abs()));
                    let scale = largest / 127.0;
                    bytes.extend(scale.to_le_bytes());
                    let code = |x: &f32| if scale > 0.0 { (x / scale).round() as i8 } else { 0 };
                    bytes.extend(row.iter().map(|x| code(x) as u8));
                }
                bytes
            }
            Self::Bits2 => encode_bits(vectors, dim),
        }
    }

    /// Appends what was written down to `out`; of bytes that no [`Self::encode`] gave for this `dim`, nothing.
    /// Returns whether they were whole.
    pub fn decode(self, bytes: &[u8], dim: usize, out: &mut Vec<f32>) -> bool {
        let begin = out.len();
        match self {
            Self::F32 if bytes.len().is_multiple_of(4 * dim) => {
                let float = |x: &[u8]| f32::from_le_bytes([x[0], x[1], x[2], x[3]]);
                out.extend(bytes.chunks_exact(4).map(float));
            }
            Self::F16 if bytes.len().is_multiple_of(2 * dim) => read_halves(bytes, out),
            Self::Int8 if bytes.len().is_multiple_of(dim + 4) => {
                for row in bytes.chunks_exact(dim + 4) {
                    let (scale, codes) = row.split_at(4);
                    let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
                    out.extend(codes.iter().map(|code| f32::from(*code as i8) * scale));
                }
            }
            Self::Bits2 => return decode_bits(bytes, dim, out),
            _ => return false,
        }
        // Stored bytes are checked by their store; this is against a value that would poison a ranking. By bits and
        // to the end: a sum, or a way out, would take one number after another.
        let is_odd = |x: &f32| x.to_bits() & f32::INFINITY.to_bits() == f32::INFINITY.to_bits();
        let is_whole = !out[begin..].iter().fold(false, |any, x| any | is_odd(x));
        if !is_whole {
            out.truncate(begin);
        }
        is_whole
    }
}

fn halves(values: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

/// Appends the halves to `out`. In whole numbers, which the compiler makes vectors of: the library's conversion is a
/// call for every eight.
fn read_halves(bytes: &[u8], out: &mut Vec<f32>) {
    // Pairs as arrays: of slices of two the compiler makes no vectors.
    let (halves, _) = bytes.as_chunks::<2>();
    out.extend(halves.iter().map(|bytes| {
        let half = u32::from(u16::from_le_bytes(*bytes));
        // The exponents' biases differ by 112; a product with a power of two is exact, of subnormal halves too.
        let magnitude = f32::from_bits((half & 0x7fff) << 13) * POW2_112;
        // Infinity and what is no number have all bits of the exponent, and keep them.
        let odd = if half & 0x7c00 == 0x7c00 { f32::INFINITY.to_bits() } else { 0 };
        f32::from_bits(magnitude.to_bits() | odd | (half & 0x8000) << 16)
    }));
}

fn encode_bits(vectors: &[f32], dim: usize) -> Vec<u8> {
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

/// Vectors come back with length one, which they had.
fn decode_bits(bytes: &[u8], dim: usize, out: &mut Vec<f32>) -> bool {
    let row_bytes = dim.div_ceil(CODES_PER_BYTE);
    if bytes.is_empty() {
        return true;
    }
    let Some((head, rows)) = bytes.split_at_checked(4 * dim) else { return false };
    if !rows.len().is_multiple_of(row_bytes) {
        return false;
    }
    let mut columns = Vec::with_capacity(2 * dim);
    read_halves(head, &mut columns);
    if columns.iter().any(|x| !x.is_finite()) {
        return false;
    }
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
        let length = squares(row).sqrt();
        if length > 0.0 {
            let scale = 1.0 / length;
            row.iter_mut().for_each(|x| *x *= scale);
        }
    }
    true
}

/// The sum of the squares, in lanes: one after another they would take most of the reading.
fn squares(row: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut lanes = [0f32; LANES];
    let (parts, rest) = row.as_chunks::<LANES>();
    for part in parts {
        lanes.iter_mut().zip(part).for_each(|(lane, x)| *lane += x * x);
    }
    let rest = rest.iter().map(|x| x * x);
    lanes.into_iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 128;
    const FORMATS: [Format; 4] = [Format::F32, Format::F16, Format::Int8, Format::Bits2];

    /// Vectors of length one about a common direction, as the tokens of one document are.
    fn vectors(num: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut next = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 16_777_216.0 - 0.5
        };
        let common: Vec<f32> = (0..DIM).map(|_| next()).collect();
        let mut all = Vec::new();
        for _ in 0..num {
            let row: Vec<f32> = common.iter().map(|x| x + next()).collect();
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            all.extend(row.iter().map(|x| x / length));
        }
        all
    }

    fn round_trip(format: Format, vectors: &[f32]) -> Vec<f32> {
        let mut out = vec![9.0];
        assert!(format.decode(&format.encode(vectors, DIM), DIM, &mut out));
        assert_eq!(out.remove(0), 9.0, "decoding appends");
        out
    }

    #[test]
    fn each_format_keeps_its_bound() {
        let vectors = vectors(180);
        let largest = |row: &[f32]| row.iter().fold(0f32, |max, x| max.max(x.abs()));
        for (format, bound) in
            [(Format::F32, 0.0), (Format::F16, 1.0 / 2048.0), (Format::Int8, 1.0 / 254.0 + 1e-6)]
        {
            let got = round_trip(format, &vectors);
            assert_eq!(got.len(), vectors.len());
            for (got, row) in got.chunks_exact(DIM).zip(vectors.chunks_exact(DIM)) {
                let worst = got.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(worst <= bound * largest(row), "{format:?}: {worst}");
            }
        }
    }

    #[test]
    fn every_half_is_read_as_what_it_is() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = Vec::new();
        read_halves(&all, &mut out);
        for (bits, got) in (0..=u16::MAX).zip(&out) {
            let expected = f16::from_bits(bits).to_f32();
            let same = got.to_bits() == expected.to_bits();
            assert!(same || !(got.is_finite() || expected.is_finite()), "{bits:x}: {got}");
        }
    }

    #[test]
    fn two_bits_keep_the_direction() {
        let vectors = vectors(180);
        let got = round_trip(Format::Bits2, &vectors);
        let cosines = got.chunks_exact(DIM).zip(vectors.chunks_exact(DIM));
        let cosines = cosines.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>());
        let least = cosines.fold(1f32, f32::min);
        assert!(least > 0.95, "{least}");
    }

    /// The definition, a column at a time.
    #[test]
    fn two_bits_stand_for_a_level_of_their_column() {
        for dim in [1, 3, 4, 6, 128, 130] {
            let vectors: Vec<f32> = (0..5 * dim).map(|i| (i * 37 % 23) as f32 - 11.0).collect();
            let bytes = Format::Bits2.encode(&vectors, dim);
            let mut got = Vec::new();
            assert!(Format::Bits2.decode(&bytes, dim, &mut got), "{dim}");
            let mut columns = Vec::new();
            let (head, rows) = bytes.split_at(4 * dim);
            read_halves(head, &mut columns);
            for (got, packed) in got.chunks_exact(dim).zip(rows.chunks_exact(dim.div_ceil(4))) {
                let code = |d: usize| usize::from(packed[d / 4] >> (d % 4 * 2) & 3);
                let raw = |d: usize| columns[d] + columns[dim + d] * LEVELS[code(d)];
                let length = (0..dim).map(|d| raw(d) * raw(d)).sum::<f32>().sqrt();
                for (d, got) in got.iter().enumerate() {
                    let expected = raw(d) / length.max(f32::MIN_POSITIVE);
                    assert!((got - expected).abs() < 1e-6, "{dim}, {d}: {got}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn sizes_are_what_the_names_say() {
        let vectors = vectors(180);
        let sizes = FORMATS.map(|format| format.encode(&vectors, DIM).len());
        assert_eq!(sizes, [180 * 512, 180 * 256, 180 * 132, 512 + 180 * 32]);
        assert_eq!(FORMATS.map(|format| round_trip(format, &[]).len()), [0; 4]);
    }

    #[test]
    fn what_no_encoding_gave_is_refused_and_nothing_is_left() {
        for format in FORMATS {
            let mut out = Vec::new();
            let whole = format.encode(&vectors(3), DIM);
            assert!(!format.decode(&whole[..whole.len() - 1], DIM, &mut out), "{format:?}");
            assert!(out.is_empty());
        }
        let mut out = Vec::new();
        let nan = f16::NAN.to_le_bytes().repeat(DIM);
        assert!(!Format::F16.decode(&nan, DIM, &mut out) && out.is_empty());
    }
}

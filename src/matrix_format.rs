//! How the vectors of a document are written down: exactly, or in fewer bytes.
//!
//! A store keeps such bytes, and a device compares them as they are. [`Format::decode`] is what they mean: every
//! kernel reads the same numbers, bit by bit.

mod bits;

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

pub(crate) use bits::{CODES_PER_BYTE, LEVELS, to_length_one};

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
            Self::Bits2 => bits::encode(vectors, dim),
        }
    }

    /// Bytes before the first vector of a document that has any.
    pub(crate) fn head_bytes(self, dim: usize) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Int8 => 0,
            // The mean of each column, and the deviations.
            Self::Bits2 => 2 * 2 * dim,
        }
    }

    /// Bytes of each vector.
    pub(crate) fn row_bytes(self, dim: usize) -> usize {
        match self {
            Self::F32 => 4 * dim,
            Self::F16 => 2 * dim,
            Self::Int8 => SCALE_BYTES + dim,
            Self::Bits2 => dim.div_ceil(CODES_PER_BYTE),
        }
    }

    /// The vectors in so many bytes; none if no [`Self::encode`] gives so many for this `dim`.
    pub fn num_vectors(self, num_bytes: usize, dim: usize) -> Option<usize> {
        let row_bytes = self.row_bytes(dim);
        match num_bytes.checked_sub(self.head_bytes(dim)) {
            _ if num_bytes == 0 => Some(0),
            Some(rows) if rows.is_multiple_of(row_bytes) => Some(rows / row_bytes),
            _ => None,
        }
    }

    /// Appends what was written down to `out`; of bytes that no [`Self::encode`] gave for this `dim`, or that stand for
    /// a number which is infinite or none, nothing. Returns whether they were whole.
    pub fn decode(self, bytes: &[u8], dim: usize, out: &mut Vec<f32>) -> bool {
        if self.num_vectors(bytes.len(), dim).is_none() {
            return false;
        }
        let begin = out.len();
        match self {
            Self::F32 => {
                let (floats, _) = bytes.as_chunks::<4>();
                out.extend(floats.iter().map(|float| f32::from_le_bytes(*float)));
            }
            Self::F16 => read_halves(bytes, out),
            Self::Int8 => {
                for row in bytes.chunks_exact(SCALE_BYTES + dim) {
                    let (scale, codes) = row.split_at(SCALE_BYTES);
                    let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
                    out.extend(codes.iter().map(|code| f32::from(*code as i8) * scale));
                }
            }
            Self::Bits2 => bits::decode(bytes, dim, out),
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

/// In front of the codes of a vector in int8: what one of them stands for.
pub(crate) const SCALE_BYTES: usize = 4;

fn halves(values: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

/// Appends the halves to `out`.
fn read_halves(bytes: &[u8], out: &mut Vec<f32>) {
    // Pairs as arrays: of slices of two the compiler makes no vectors.
    let (halves, _) = bytes.as_chunks::<2>();
    out.extend(halves.iter().map(|bytes| widen_half(u16::from_le_bytes(*bytes))));
}

/// The half of these bits. In whole numbers, which the compiler makes vectors of: the library's conversion is a call for
/// every eight.
#[inline(always)]
pub(crate) fn widen_half(half: u16) -> f32 {
    let half = u32::from(half);
    // The exponents' biases differ by 112; a product with a power of two is exact, of subnormal halves too.
    let magnitude = f32::from_bits((half & 0x7fff) << 13) * POW2_112;
    // Infinity and what is no number have all bits of the exponent, and keep them.
    let odd = if half & 0x7c00 == 0x7c00 { f32::INFINITY.to_bits() } else { 0 };
    f32::from_bits(magnitude.to_bits() | odd | (half & 0x8000) << 16)
}

/// The sum of as many lanes as a power of two: of each with that half of them further on, and so on.
#[inline(always)]
pub(crate) fn sum_in_halves(lanes: &mut [f32]) -> f32 {
    let mut half = lanes.len() / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
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
        // The head of two bits, and a vector.
        let nan = [nan.repeat(2), vec![0; DIM / 4]].concat();
        assert!(!Format::Bits2.decode(&nan, DIM, &mut out) && out.is_empty());
    }
}

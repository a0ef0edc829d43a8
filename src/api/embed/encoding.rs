//! A vector as numbers of a few kinds, or as text.
//!
//! What is counted in eighths of a byte or in bytes is made of the vector's own components, by no calibration: a
//! vector of length one has components in [-1, 1], which int8 holds in steps of 1/127.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, Serializer};

use crate::api::rank::finite;
use crate::error::Error;

/// How components are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Float,
    /// The little-endian bytes of the f32s.
    Base64,
    /// -127 to 127, for -1 to 1.
    Int8,
    /// The same, 128 more.
    Uint8,
    /// A bit for each component, set where it is positive, eight to a byte, the first the highest; as Cohere writes
    /// them, 128 less.
    Binary,
    /// The bytes as they are.
    Ubinary,
}

impl Encoding {
    pub(super) const ALL: [Self; 6] =
        [Self::Float, Self::Base64, Self::Int8, Self::Uint8, Self::Binary, Self::Ubinary];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Base64 => "base64",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Binary => "binary",
            Self::Ubinary => "ubinary",
        }
    }

    /// # Errors
    /// A word that names none; `field` is where it stood.
    pub(super) fn named(word: &str, field: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(word));
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(field, format!("{field} must be one of {names}, not '{word}'"))
        })
    }
}

/// One vector on its way into JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoded<'a> {
    pub(super) vector: &'a [f32],
    pub(super) encoding: Encoding,
}

impl Serialize for Encoded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.vector.iter();
        match self.encoding {
            Encoding::Float => serializer.collect_seq(values.map(|value| finite(*value))),
            Encoding::Base64 => serializer.serialize_str(&base64(self.vector)),
            Encoding::Int8 => serializer.collect_seq(values.map(|value| int8(*value))),
            Encoding::Uint8 => {
                serializer.collect_seq(values.map(|value| i16::from(int8(*value)) + 128))
            }
            Encoding::Binary => serializer
                .collect_seq(self.vector.chunks(8).map(|eight| i16::from(byte(eight)) - 128)),
            Encoding::Ubinary => serializer.collect_seq(self.vector.chunks(8).map(byte)),
        }
    }
}

fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| finite(*value).to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

fn int8(value: f32) -> i8 {
    (value * 127.0).round().clamp(-127.0, 127.0) as i8
}

/// The signs of up to eight components; those that are missing count as not positive.
fn byte(components: &[f32]) -> u8 {
    let bit = |(place, value): (usize, &f32)| u8::from(*value > 0.0) << (7 - place);
    components.iter().enumerate().map(bit).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: [f32; 9] = [1.0, -1.0, 0.5, 0.0, -0.25, 0.004, 0.003, f32::MIN_POSITIVE, 7.0];

    fn json(encoding: Encoding) -> String {
        serde_json::to_string(&Encoded { vector: &VECTOR, encoding }).unwrap()
    }

    #[test]
    fn int8_counts_in_127ths_and_stays_in_bounds() {
        assert_eq!(json(Encoding::Int8), "[127,-127,64,0,-32,1,0,0,127]");
        assert_eq!(json(Encoding::Uint8), "[255,1,192,128,96,129,128,128,255]");
    }

    #[test]
    fn signs_are_packed_from_the_highest_bit() {
        // 1 0 1 0 0 1 1 1, and a rest of one.
        assert_eq!(json(Encoding::Ubinary), "[167,128]");
        assert_eq!(json(Encoding::Binary), "[39,0]");
    }

    #[test]
    fn base64_holds_the_bits_of_the_floats() {
        let text: String = serde_json::from_str(&json(Encoding::Base64)).unwrap();
        let bytes = STANDARD.decode(text).unwrap();
        let floats: Vec<f32> = serde_json::from_str(&json(Encoding::Float)).unwrap();
        let bits = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!(bits.eq(floats.iter().copied()) && floats == VECTOR);
    }

    #[test]
    fn a_word_that_names_no_encoding_hears_of_all() {
        assert_eq!(Encoding::named("Float", "x"), Ok(Encoding::Float));
        let error = Encoding::named("f8", "encoding_format").unwrap_err().to_string();
        assert!(error.contains("encoding_format") && error.contains("ubinary"), "{error}");
    }
}

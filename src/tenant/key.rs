//! Keys: made of chance alone, kept as hashes, compared in constant time.
//!
//! A key has 256 random bits, so one SHA-256 hides it: nothing can be guessed from its hash, and a slow
//! hash would only add its cost to every request.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What tools that look for leaked secrets can recognise.
const PREFIX: &str = "rrk_";

/// Hex digits of a hash that name its key to people: two of 10,000 keys are alike with odds of 1 to 5 million.
const ID_DIGITS: usize = 12;

/// The SHA-256 of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hex digits.
    pub fn parse(hex: &str) -> Option<Self> {
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The name of the key for those who may not see it.
    pub fn id(&self) -> String {
        let mut id = self.hex();
        id.truncate(ID_DIGITS);
        id
    }

    /// Takes the same time wherever the two differ.
    pub(super) fn is(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// Hashes of keys that people chose could be guessed from, so none gets into a log.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

/// A new key.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{PREFIX}{}", hex(&bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

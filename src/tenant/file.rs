//! The keys file: tenants, and the hashes of their keys.
//!
//! ```toml
//! [[tenants]]
//! name = "search"
//! weight = 3                     # tokens against other tenants of its class, 1 to 100; 1 if left out
//! class = "high"                 # high, normal or low; normal if left out
//! requests_per_second = 50.0     # no limit if left out, here and below
//! tokens_per_second = 200000.0
//! max_concurrent_requests = 64
//! models = ["default"]           # all if left out
//! admin = false                  # may see the usage of all tenants, and change the models
//!
//! [[keys]]
//! tenant = "search"
//! sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//! ```

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::KeyHash;
use crate::batch::Class;

/// Tenants and keys of one file. A request compares its key with all of them, in about 30 ns each.
const MAX_KEYS: usize = 10_000;

/// A file of [`MAX_KEYS`] tenants and keys has about 2 MB; it is read every second.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// A name is a label of metrics and a part of Redis keys.
const MAX_NAME_BYTES: usize = 64;

/// Beyond this the tokens of the others would come too seldom to call it a share.
const MAX_WEIGHT: u32 = 100;

/// Why a keys file cannot be used: the line, where there is one, and what is wrong in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeysError(pub(super) String);

/// One `[[tenants]]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantEntry {
    #[serde(deserialize_with = "name")]
    pub name: String,
    #[serde(default = "one", deserialize_with = "weight")]
    pub weight: u32,
    #[serde(default)]
    pub class: Class,
    #[serde(default, deserialize_with = "rate")]
    pub requests_per_second: Option<f64>,
    #[serde(default, deserialize_with = "rate")]
    pub tokens_per_second: Option<f64>,
    pub max_concurrent_requests: Option<NonZeroUsize>,
    pub models: Option<Vec<String>>,
    #[serde(default)]
    pub admin: bool,
}

/// One `[[keys]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    pub tenant: String,
    #[serde(deserialize_with = "hash")]
    pub sha256: KeyHash,
}

/// A whole file, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KeysFile {
    pub tenants: Vec<TenantEntry>,
    pub keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    tenants: Vec<Spanned<TenantEntry>>,
    #[serde(default)]
    keys: Vec<Spanned<KeyEntry>>,
}

impl KeysFile {
    /// # Errors
    /// The first line that is wrong, and how.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let raw: Raw = toml::from_str(text).map_err(|e| {
            let start = e.span().map_or(0, |span| span.start);
            KeysError(format!("line {}: {}", line(text, start), e.message()))
        })?;
        let at = |start: usize, message: String| {
            Err(KeysError(format!("line {}: {message}", line(text, start))))
        };
        if raw.keys.len().max(raw.tenants.len()) > MAX_KEYS {
            return Err(KeysError(format!("more than {MAX_KEYS} tenants or keys")));
        }
        let mut names = HashSet::new();
        for tenant in &raw.tenants {
            if !names.insert(tenant.get_ref().name.as_str()) {
                let message = format!("tenant '{}' is there twice", tenant.get_ref().name);
                return at(tenant.span().start, message);
            }
        }
        let mut hashes = HashSet::new();
        for key in &raw.keys {
            let KeyEntry { tenant, sha256 } = key.get_ref();
            if !names.contains(tenant.as_str()) {
                return at(key.span().start, format!("no tenant is called '{tenant}'"));
            }
            if !hashes.insert(sha256.hex()) {
                return at(key.span().start, format!("key {} is there twice", sha256.id()));
            }
        }
        Ok(Self {
            tenants: raw.tenants.into_iter().map(Spanned::into_inner).collect(),
            keys: raw.keys.into_iter().map(Spanned::into_inner).collect(),
        })
    }
}

/// The text of a keys file.
///
/// # Errors
/// It cannot be read, or is larger than any honest one.
pub(super) fn read(path: &Path) -> Result<String, KeysError> {
    let tell = |e: std::io::Error| KeysError(e.to_string());
    if std::fs::metadata(path).map_err(tell)?.len() > MAX_FILE_BYTES {
        return Err(KeysError(format!("has more than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read_to_string(path).map_err(tell)
}

fn line(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|&byte| byte == b'\n').count()
}

/// Whether a name can be a metric's label and a part of other systems' keys.
pub fn is_name(name: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(fit)
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if is_name(&name) {
        return Ok(name);
    }
    let rule = format!("a name has 1 to {MAX_NAME_BYTES} letters, digits or - _ . @");
    Err(de::Error::custom(format!("'{name}' is no name: {rule}")))
}

fn one() -> u32 {
    1
}

fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let weight = i64::deserialize(deserializer)?;
    let fits = u32::try_from(weight).ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
    fits.ok_or_else(|| de::Error::custom(format!("weight {weight} is not from 1 to {MAX_WEIGHT}")))
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let rate = f64::deserialize(deserializer)?;
    if rate.is_finite() && rate > 0.0 {
        return Ok(Some(rate));
    }
    Err(de::Error::custom(format!(
        "{rate} is no rate: it must be above 0; leave it out for no limit"
    )))
}

fn hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyHash, D::Error> {
    let hex = String::deserialize(deserializer)?;
    KeyHash::parse(&hex).ok_or_else(|| {
        de::Error::custom("sha256 must have 64 hex digits; `rerankd keys new` writes them")
    })
}

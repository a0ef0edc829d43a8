//! Tensors out of safetensors files: one file or shards, F32, F16, BF16 or I8 with a scale per row, as f32.
//!
//! The bytes are not trusted: every way in which a file can lie is an error that names the file and the tensor.

use super::source::{Blob, ModelFiles};
use crate::engine::table::{Stored, Table};
use crate::error::ModelError;
use half::slice::HalfFloatSliceExt;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Room for two million tensors; a longer header is a damaged length.
const MAX_HEADER_BYTES: u64 = 100 << 20;

/// The tensors of a model, by name.
#[derive(Debug, Default)]
pub struct Weights {
    files: Vec<File>,
    /// Name to file index.
    tensors: HashMap<String, (usize, Entry)>,
    /// Numbers handed out, of weights that are made up.
    made_up: Option<AtomicUsize>,
}

#[derive(Debug)]
struct File {
    name: String,
    bytes: Blob,
}

/// Where a tensor lies in its file.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// In the whole file, header included.
    bytes: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Dtype {
    F32,
    F16,
    Bf16,
    I8,
    /// A type no weight of ours has (`position_ids` is I64); an error only if it is asked for.
    Other,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// A missing file, or one whose header does not describe its own bytes.
    pub fn open(files: &ModelFiles) -> Result<Self, ModelError> {
        let mut weights = Self::default();
        if let Some(bytes) = files.read(SINGLE)? {
            weights.add(SINGLE, bytes)?;
            return Ok(weights);
        }
        let Some(index) = files.read(INDEX)? else {
            weights.add(SINGLE, files.require(SINGLE)?)?;
            return Ok(weights);
        };
        let index: RawIndex = serde_json::from_slice(&index)
            .map_err(|error| ModelError::invalid(INDEX, "weight_map", error.to_string()))?;
        let mut shards: Vec<&String> = index.weight_map.values().collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            let Some(bytes) = files.read(shard)? else {
                let message = format!("names the shard '{shard}', which does not exist");
                return Err(ModelError::invalid(INDEX, "weight_map", message));
            };
            weights.add(shard, bytes)?;
        }
        for (tensor, shard) in &index.weight_map {
            if !weights.contains(tensor) {
                return Err(ModelError::invalid(
                    shard,
                    tensor,
                    format!("missing, although {INDEX} says it is here"),
                ));
            }
        }
        Ok(weights)
    }

    /// Opens one file by itself.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_file(files: &ModelFiles, name: &str) -> Result<Self, ModelError> {
        let mut weights = Self::default();
        weights.add(name, files.require(name)?)?;
        Ok(weights)
    }

    fn add(&mut self, name: &str, bytes: Blob) -> Result<(), ModelError> {
        let file_idx = self.files.len();
        for (tensor, entry) in parse_header(name, &bytes)? {
            if self.tensors.insert(tensor.clone(), (file_idx, entry)).is_some() {
                return Err(ModelError::invalid(name, tensor, "is in two files"));
            }
        }
        self.files.push(File { name: name.to_owned(), bytes });
        Ok(())
    }

    /// Any tensor that is asked for, of numbers that look random: to see that a model of some sizes runs, and how fast,
    /// without a download.
    pub fn made_up() -> Self {
        Self { made_up: Some(AtomicUsize::new(0)), ..Self::default() }
    }

    /// Of weights that are made up: the numbers handed out so far.
    pub fn num_parameters(&self) -> usize {
        self.made_up.as_ref().map_or(0, |made_up| made_up.load(Ordering::Relaxed))
    }

    /// Names, shapes and bytes as stored, in no order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize], usize)> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, (_, entry))| (name.as_str(), &entry.shape[..], entry.bytes.len()))
    }

    pub fn contains(&self, tensor: &str) -> bool {
        self.made_up.is_some() || self.tensors.contains_key(tensor)
    }

    /// The tensor as f32.
    ///
    /// # Errors
    /// It is missing, has another shape or a type without code, or holds a value that is not finite.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        if let Some(made_up) = &self.made_up {
            let len = shape.iter().product();
            made_up.fetch_add(len, Ordering::Relaxed);
            return Ok(make_up(name, len));
        }
        let (file, entry) = self.find(name, shape)?;
        let bytes = &file.bytes[entry.bytes.clone()];
        let values = match entry.dtype {
            Dtype::F32 => from_f32(bytes),
            Dtype::F16 => from_f16(bytes),
            Dtype::Bf16 => from_bf16(bytes),
            Dtype::I8 => from_i8(bytes, &self.scale(name, shape)?),
            Dtype::Other => return Err(no_code(file, name)),
        };
        check_finite(file, name, 0, &values)?;
        Ok(values)
    }

    /// The rows of a matrix, as they are stored.
    ///
    /// # Errors
    /// As for [`Self::tensor`].
    pub fn table(&self, name: &str, [rows, columns]: [usize; 2]) -> Result<Table, ModelError> {
        let shape = [rows, columns];
        if self.made_up.is_some() {
            return Ok(Table::of(&self.tensor(name, &shape)?, columns));
        }
        let (file, entry) = self.find(name, &shape)?;
        let stored = match entry.dtype {
            Dtype::F32 => Stored::F32,
            Dtype::F16 => Stored::F16,
            Dtype::Bf16 => Stored::Bf16,
            Dtype::I8 => Stored::Int8(self.scale(name, &shape)?),
            Dtype::Other => return Err(no_code(file, name)),
        };
        // A copy: the file may be replaced while the model is served.
        let table = Table::new(file.bytes[entry.bytes.clone()].to_vec(), stored, columns);
        // Bytes with factors, which were checked, are finite.
        if entry.dtype != Dtype::I8 {
            let mut row = vec![0.0; columns];
            for i in 0..rows {
                table.read(i, &mut row);
                check_finite(file, name, i * columns, &row)?;
            }
        }
        Ok(table)
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<(&File, &Entry), ModelError> {
        let Some((file_idx, entry)) = self.tensors.get(name) else {
            let file = self.files.first().map_or(SINGLE, |file| &file.name);
            return Err(ModelError::invalid(file, name, "no such tensor"));
        };
        let file = &self.files[*file_idx];
        if entry.shape != shape {
            let have = &entry.shape;
            let message = format!("has the shape {have:?}, but config.json asks for {shape:?}");
            return Err(ModelError::invalid(&file.name, name, message));
        }
        Ok((file, entry))
    }

    /// `<name>.scale`: one factor for each row of an I8 tensor.
    fn scale(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let scale = format!("{name}.scale");
        if let Some((file_idx, entry)) = self.tensors.get(&scale)
            && entry.dtype != Dtype::F32
        {
            let file = &self.files[*file_idx].name;
            return Err(ModelError::invalid(file, scale, "the scale of an I8 tensor must be F32"));
        }
        self.tensor(&scale, &shape[..shape.len().min(1)])
    }
}

fn no_code(file: &File, name: &str) -> ModelError {
    let message = "its type has no code here; F32, F16, BF16 and I8 with a scale have";
    ModelError::unsupported(&file.name, name, message)
}

/// `first` is the index of the first of these values in the tensor.
fn check_finite(file: &File, name: &str, first: usize, values: &[f32]) -> Result<(), ModelError> {
    // Any NaN or infinity makes the sum of zero times the values NaN.
    if values.iter().map(|x| x * 0.0).sum::<f32>() == 0.0 {
        return Ok(());
    }
    let at = values.iter().position(|x| !x.is_finite()).unwrap_or(0);
    let message = format!("element {} is {}, not a finite number", first + at, values[at]);
    Err(ModelError::invalid(&file.name, name, message))
}

/// Numbers below 0.05, those of a name always the same (xorshift).
fn make_up(name: &str, len: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(0x9E37_79B9u32, |hash, byte| {
        hash.rotate_left(5).wrapping_mul(0x0100_0193) ^ u32::from(byte)
    }) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state as f32 / u32::MAX as f32 - 0.5) * 0.1
    };
    (0..len).map(next).collect()
}

fn from_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn from_f16(bytes: &[u8]) -> Vec<f32> {
    let halves: Vec<half::f16> =
        bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]])).collect();
    let mut values = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut values);
    values
}

fn from_bf16(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
}

fn from_i8(bytes: &[u8], scale: &[f32]) -> Vec<f32> {
    let mut values = Vec::with_capacity(bytes.len());
    let columns = bytes.len().checked_div(scale.len()).unwrap_or(0).max(1);
    for (row, scale) in bytes.chunks_exact(columns).zip(scale) {
        values.extend(row.iter().map(|b| f32::from(b.cast_signed()) * scale));
    }
    values
}

/// Eight bytes of header length, a JSON object of tensors, their bytes.
fn parse_header(file: &str, bytes: &[u8]) -> Result<BTreeMap<String, Entry>, ModelError> {
    let invalid = |part: &str, message: String| ModelError::invalid(file, part, message);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(invalid("header", format!("the file has {} bytes, too few", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        let have = rest.len();
        let message = format!("claims {length} bytes of header, the file has {have} more");
        return Err(invalid("header", message));
    }
    let (header, data) = rest.split_at(length as usize);
    let mut raw: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header)
        .map_err(|error| invalid("header", format!("is no JSON object: {error}")))?;
    raw.remove("__metadata__");

    let data_start = bytes.len() - data.len();
    let mut entries = BTreeMap::new();
    for (name, value) in raw {
        let entry = parse_entry(value, data.len(), data_start)
            .map_err(|message| invalid(&name, message))?;
        entries.insert(name, entry);
    }
    find_overlap(&entries)
        .map_or(Ok(entries), |(a, b)| Err(invalid(&b, format!("its bytes overlap those of '{a}'"))))
}

fn parse_entry(
    value: serde_json::Value,
    data_len: usize,
    data_start: usize,
) -> Result<Entry, String> {
    let raw: RawEntry = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let (begin, end) = raw.data_offsets;
    if begin > end || end > data_len {
        return Err(format!(
            "claims the bytes {begin} to {end}, but the file has {data_len} bytes of tensors"
        ));
    }
    let (dtype, size) = match raw.dtype.as_str() {
        "F32" => (Dtype::F32, 4),
        "F16" => (Dtype::F16, 2),
        "BF16" => (Dtype::Bf16, 2),
        "I8" => (Dtype::I8, 1),
        _ => (Dtype::Other, 0),
    };
    let expected = raw.shape.iter().try_fold(size, |product: usize, dim| product.checked_mul(*dim));
    if dtype != Dtype::Other && expected != Some(end - begin) {
        let (shape, have) = (&raw.shape, end - begin);
        return Err(format!("the shape {shape:?} of {} does not fill {have} bytes", raw.dtype));
    }
    Ok(Entry { dtype, shape: raw.shape, bytes: data_start + begin..data_start + end })
}

/// Two tensors that share bytes.
fn find_overlap(entries: &BTreeMap<String, Entry>) -> Option<(String, String)> {
    let mut ranges: Vec<_> = entries.iter().filter(|(_, e)| !e.bytes.is_empty()).collect();
    ranges.sort_unstable_by_key(|(_, entry)| entry.bytes.start);
    let pair = ranges.windows(2).find(|pair| pair[0].1.bytes.end > pair[1].1.bytes.start)?;
    Some((pair[0].0.clone(), pair[1].0.clone()))
}

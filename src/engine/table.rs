//! A table of rows as a checkpoint stores them: a row is widened when a token asks for it. Of a model with many words the
//! table is the largest part, and is read a few rows at a time.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// How the numbers of a table are stored.
#[derive(Debug)]
pub enum Stored {
    F32,
    F16,
    Bf16,
    /// Bytes with a factor for each row.
    Int8(Vec<f32>),
}

/// `[num_rows, columns]` numbers.
#[derive(Debug)]
pub struct Table {
    /// Little-endian.
    bytes: Vec<u8>,
    stored: Stored,
    columns: usize,
    factor: f32,
}

impl Table {
    /// # Panics
    /// If the bytes are not whole rows, or not as many as there are factors.
    pub fn new(bytes: Vec<u8>, stored: Stored, columns: usize) -> Self {
        let table = Self { bytes, stored, columns, factor: 1.0 };
        let row_bytes = table.row_bytes();
        assert!(row_bytes > 0 && table.bytes.len().is_multiple_of(row_bytes), "whole rows");
        if let Stored::Int8(factors) = &table.stored {
            assert_eq!(factors.len(), table.num_rows(), "a factor for each row");
        }
        table
    }

    /// # Panics
    /// If the numbers are not whole rows.
    pub fn of(numbers: &[f32], columns: usize) -> Self {
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self::new(bytes, Stored::F32, columns)
    }

    /// The same with every number multiplied by `factor`.
    #[must_use]
    pub fn scaled(self, factor: f32) -> Self {
        Self { factor: self.factor * factor, ..self }
    }

    pub fn num_rows(&self) -> usize {
        self.bytes.len() / self.row_bytes()
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    fn row_bytes(&self) -> usize {
        self.columns
            * match self.stored {
                Stored::F32 => 4,
                Stored::F16 | Stored::Bf16 => 2,
                Stored::Int8(_) => 1,
            }
    }

    /// Writes row `i`, which is as wide as `out`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn read(&self, i: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "a whole row");
        let row_bytes = self.row_bytes();
        let row = &self.bytes[i * row_bytes..][..row_bytes];
        match &self.stored {
            Stored::F32 => {
                let numbers = row.as_chunks::<4>().0;
                out.iter_mut().zip(numbers).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
            }
            Stored::F16 => widen_f16(row, out),
            Stored::Bf16 => {
                let numbers = row.as_chunks::<2>().0;
                out.iter_mut()
                    .zip(numbers)
                    .for_each(|(x, b)| *x = bf16::from_le_bytes(*b).to_f32());
            }
            Stored::Int8(factors) => {
                let factor = factors[i];
                out.iter_mut().zip(row).for_each(|(x, b)| *x = f32::from(b.cast_signed()) * factor);
            }
        }
        if self.factor.to_bits() != 1f32.to_bits() {
            out.iter_mut().for_each(|x| *x *= self.factor);
        }
    }

    /// All rows.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.num_rows() * self.columns];
        for (i, row) in numbers.chunks_exact_mut(self.columns).enumerate() {
            self.read(i, row);
        }
        numbers
    }
}

/// In pieces, for which the CPU has instructions.
fn widen_f16(row: &[u8], out: &mut [f32]) {
    const PIECE: usize = 64;
    let mut halves = [f16::ZERO; PIECE];
    for (out, row) in out.chunks_mut(PIECE).zip(row.chunks(2 * PIECE)) {
        let halves = &mut halves[..out.len()];
        halves.iter_mut().zip(row.as_chunks().0).for_each(|(x, b)| *x = f16::from_le_bytes(*b));
        halves.convert_to_f32_slice(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_is_stored_whatever_its_kind() {
        let numbers: Vec<f32> = (0..300u16).map(|i| f32::from(i) / 4.0 - 37.0).collect();
        let columns = 100;
        let f16s = numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let bf16s = numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        let int8s: Vec<u8> = (0..300u16).map(|i| (i % 251) as u8).collect();
        let coded = |i: usize| f32::from(int8s[i].cast_signed()) * [0.5, 2.0, 0.25][i / columns];
        let tables = [
            (Table::of(&numbers, columns), numbers.clone()),
            (Table::new(f16s, Stored::F16, columns), numbers.clone()),
            (
                Table::new(bf16s, Stored::Bf16, columns),
                numbers.iter().map(|x| bf16::from_f32(*x).to_f32()).collect(),
            ),
            (
                Table::new(int8s.clone(), Stored::Int8(vec![0.5, 2.0, 0.25]), columns),
                (0..300).map(coded).collect(),
            ),
        ];
        for (table, expected) in tables {
            assert_eq!(table.num_rows(), 3);
            assert_eq!(table.to_vec(), expected, "{:?}", table.stored);
            let doubled: Vec<f32> = expected.iter().map(|x| 2.0 * x).collect();
            assert_eq!(table.scaled(2.0).to_vec(), doubled);
        }
    }
}

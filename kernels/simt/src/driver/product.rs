//! The product behind the emulated cuBLASLt: d = alpha op(a) op(b) + beta c + bias, column-major.

use half::f16;

use crate::fault::MemoryFault;
use crate::machine::Machine;
use crate::memory::address::DevicePtr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    Half,
    Float,
}

impl Element {
    fn bytes(self) -> usize {
        if self == Element::Half { 2 } else { 4 }
    }

    fn read(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Element::Half, &[a, b, ..]) => f16::from_le_bytes([a, b]).to_f32(),
            (Element::Float, &[a, b, c, d, ..]) => f32::from_le_bytes([a, b, c, d]),
            _ => f32::NAN,
        }
    }

    fn write(self, value: f32) -> Vec<u8> {
        match self {
            Element::Half => f16::from_f32(value).to_le_bytes().to_vec(),
            Element::Float => value.to_le_bytes().to_vec(),
        }
    }
}

/// Columns of `rows` elements, `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    pub element: Element,
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
    pub ptr: DevicePtr,
}

impl Matrix {
    /// All columns, without what stands between them.
    fn load(&self, machine: &Machine) -> Result<Vec<f32>, MemoryFault> {
        let size = self.element.bytes();
        let mut bytes = vec![0; ((self.columns - 1) * self.stride + self.rows) * size];
        machine.copy_out(self.ptr, &mut bytes)?;
        let column = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks(size).take(self.rows).map(|value| self.element.read(value)).collect()
        };
        Ok(bytes.chunks(self.stride * size).flat_map(column).collect())
    }

    fn store(&self, machine: &mut Machine, values: &[f32]) -> Result<(), MemoryFault> {
        let size = self.element.bytes();
        for (index, column) in values.chunks(self.rows).enumerate() {
            let bytes: Vec<u8> = column.iter().flat_map(|&x| self.element.write(x)).collect();
            machine.copy_in(self.ptr.offset((index * self.stride * size) as u64), &bytes)?;
        }
        Ok(())
    }

    fn shape(&self, transposed: bool) -> (usize, usize) {
        if transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
}

#[derive(Debug)]
pub struct Product {
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
    pub d: Matrix,
    pub transposed: [bool; 2],
    pub alpha: f32,
    pub beta: f32,
    /// One for each row of d, of d's type.
    pub bias: Option<DevicePtr>,
    /// Memory that the product spoils.
    pub workspace: Option<(DevicePtr, u64)>,
    /// Results are off by one part in 64.
    pub wrong: bool,
}

/// Up to this many columns the sums go over k in two halves: like the real library, whose kernel and
/// so whose bits depend on the size.
const SPLIT_COLUMNS: usize = 64;
const WRONG_FACTOR: f32 = 1.0 + 1.0 / 64.0;

impl Product {
    /// Whether the four shapes are those of one product.
    pub fn fits(&self) -> bool {
        let (m, k) = self.a.shape(self.transposed[0]);
        let (depth, n) = self.b.shape(self.transposed[1]);
        k == depth && self.c.shape(false) == (m, n) && self.d.shape(false) == (m, n)
    }

    /// Whether the factors are halves and c is as d.
    pub fn is_of_halves(&self) -> bool {
        let half = |matrix: &Matrix| matrix.element == Element::Half;
        half(&self.a) && half(&self.b) && self.c.element == self.d.element
    }

    /// Steps of the device's clock: fewer than the warp instructions of the project's own tiles, which
    /// multiply some 700 pairs with each.
    pub fn cost(&self) -> u64 {
        let (m, k) = self.a.shape(self.transposed[0]);
        (m * k * self.d.columns) as u64 / 2048
    }

    /// # Errors
    /// An address beyond an allocation.
    pub fn run(&self, machine: &mut Machine) -> Result<(), MemoryFault> {
        let (a, b) = (self.a.load(machine)?, self.b.load(machine)?);
        let mut d = if self.beta == 0.0 { Vec::new() } else { self.c.load(machine)? };
        d.resize(self.d.rows * self.d.columns, 0.0);
        let bias = match self.bias {
            None => vec![0.0; self.d.rows],
            Some(ptr) => {
                let column = Matrix { columns: 1, stride: self.d.rows, ptr, ..self.d };
                column.load(machine)?
            }
        };
        if let Some((ptr, bytes)) = self.workspace {
            machine.fill(ptr, &[crate::memory::POISON], bytes)?;
        }
        let (m, k) = self.a.shape(self.transposed[0]);
        let at = |matrix: &Matrix, transposed: bool, row: usize, column: usize| {
            if transposed { row * matrix.rows + column } else { column * matrix.rows + row }
        };
        let half = if self.d.columns <= SPLIT_COLUMNS { k.div_ceil(2) } else { k };
        for (index, value) in d.iter_mut().enumerate() {
            let (row, column) = (index % m, index / m);
            let sum = |range: std::ops::Range<usize>| {
                range.fold(0.0f32, |sum, i| {
                    let left = a[at(&self.a, self.transposed[0], row, i)];
                    sum + left * b[at(&self.b, self.transposed[1], i, column)]
                })
            };
            let sum = sum(0..half) + sum(half..k);
            let sum = if self.wrong { sum * WRONG_FACTOR } else { sum };
            let kept = if self.beta == 0.0 { 0.0 } else { self.beta * *value };
            *value = self.alpha * sum + kept + bias[row];
        }
        self.d.store(machine, &d)
    }
}

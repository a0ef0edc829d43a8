//! wgmma: asynchronous products of a warpgroup.
//!
//! A product is computed at the wait that covers it, the latest moment hardware may take; whoever
//! touches its registers or overwrites its tiles in between is found. Each warp makes its own 16 of the
//! 64 rows, reading all of B: the four need no meeting here, only the same instructions.
//!
//! Tiles come by descriptors. In units of 16 bytes (8 elements) they are, from the PTX ISA's canonical
//! layouts: K-major, 8 rows a swizzle width apart, the next 8 a stride further, the second half of k
//! next to the first (or a leading offset away without swizzle); MN-major, 8 k's a swizzle width apart,
//! the next 8 a stride further, columns beyond the width a leading offset away.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::warp::Warp;
use super::{Context, LaneFault, MmaOrder};
use crate::fault::FaultKind;
use crate::program::{Slot, WARP_LANES, Wgmma, WgmmaA};
use crate::ptx::ast::Type;

const K: usize = 16;
/// Rows of a warp, and of its warpgroup.
const WARP_M: usize = 16;
const MAX_N: usize = 256;
const WARPS: u8 = 4;
/// Elements of the 16 bytes that stay together in every layout.
const UNIT: usize = 8;

/// A tile in shared memory: `count` rows (of A) or columns (of B), 16 deep.
#[derive(Debug, Clone, Copy)]
struct Tile {
    start: u32,
    leading: u32,
    stride: u32,
    /// 16 without swizzle, or 32, 64, 128.
    width: u32,
    transposed: bool,
}

impl Tile {
    fn read(descriptor: u64, transposed: bool) -> Result<Tile, FaultKind> {
        let field = |low: u32| (descriptor >> low & 0x3fff) as u32 * 16;
        let width = [16, 128, 64, 32][(descriptor >> 62) as usize];
        // Tiles that begin inside a swizzle pattern's 8 rows.
        if descriptor >> 49 & 7 != 0 {
            return Err(FaultKind::Unsupported { what: "a base offset of a descriptor".into() });
        }
        Ok(Tile { start: field(0), leading: field(16), stride: field(32), width, transposed })
    }

    /// Where the unit of 8 elements is that holds element `k` of row `mn`.
    fn unit(&self, mn: usize, k: usize) -> u32 {
        let (mn, k) = (mn as u32, k as u32);
        let flat = self.width == 16;
        let offset = if self.transposed {
            let columns = self.width / 2;
            let (across, down) =
                if flat { (self.stride, self.leading) } else { (self.leading, self.stride) };
            mn / columns * across + mn % columns / 8 * 16 + k / 8 * down + k % 8 * self.width
        } else {
            let next = if flat { self.leading } else { 16 };
            mn / 8 * self.stride + mn % 8 * self.width + k / 8 * next
        };
        let address = self.start + offset;
        // The three (two, one) bits above the 128-byte line select the place of a unit in its line.
        address ^ (address >> 7 & (self.width / 16 - 1)) << 4
    }

    /// All units of rows `first..first + count`, in the order in which `fill` takes them.
    fn units(&self, first: usize, count: usize) -> Vec<u32> {
        if self.transposed {
            let unit = |at: usize| self.unit(first + at / K * UNIT, at % K);
            (0..count / UNIT * K).map(unit).collect()
        } else {
            let unit = |at: usize| self.unit(first + at / 2, at % 2 * UNIT);
            (0..count * 2).map(unit).collect()
        }
    }

    /// Puts the eight elements of unit `at` of `units` to their places.
    fn fill(&self, at: usize, values: &[f32], mut put: impl FnMut(usize, usize, f32)) {
        for (element, &value) in values.iter().enumerate() {
            if self.transposed {
                put(at / K * UNIT + element, at % K, value);
            } else {
                put(at / 2, at % 2 * UNIT + element, value);
            }
        }
    }
}

/// A product under way.
#[derive(Debug)]
struct Product {
    pc: u32,
    /// The group it will belong to, counted from the kernel's start.
    group: u32,
    accumulate: bool,
    a: Option<(Tile, Vec<u32>)>,
    b: (Tile, Vec<u32>),
}

impl Product {
    fn units(&self) -> impl Iterator<Item = u32> {
        self.a.iter().flat_map(|(_, units)| units).chain(&self.b.1).copied()
    }
}

/// A warp's share of its warpgroup's products.
#[derive(Debug, Default)]
pub struct Products {
    pending: Vec<Product>,
    committed: u32,
    /// A bit for each slot: touched behind the last fence, or all before the first.
    touched: Option<Vec<u64>>,
    /// Slots that products under way own.
    owned: Vec<u64>,
    /// What the warp has executed, for the warpgroup's other three to equal.
    pub history: u64,
}

fn bit(slot: Slot) -> (usize, u64) {
    (slot as usize / 64, 1 << (slot % 64))
}

fn registers(wgmma: &Wgmma) -> impl Iterator<Item = Slot> {
    let a: &[Slot] = match &wgmma.a {
        WgmmaA::Registers(registers) => registers,
        WgmmaA::Shared { .. } => &[],
    };
    wgmma.d.iter().chain(a).copied()
}

impl Products {
    /// An instruction beside wgmma touches `slot`; false if a product under way owns it.
    pub fn touch(&mut self, slot: Slot) -> bool {
        let (word, bit) = bit(slot);
        if let Some(touched) = &mut self.touched {
            touched[word] |= bit;
        }
        self.owned.get(word).is_none_or(|owned| owned & bit == 0)
    }

    pub fn fence(&mut self, num_slots: u32) {
        self.touched = Some(vec![0; num_slots as usize / 64 + 1]);
    }

    pub fn commit(&mut self) {
        self.committed += 1;
    }

    fn is_touched(&self, slot: Slot) -> bool {
        let (word, bit) = bit(slot);
        self.touched.as_ref().is_none_or(|touched| touched[word] & bit != 0)
    }

    /// Notes that the warp executes the wgmma instruction at `pc`.
    pub fn note(&mut self, pc: u32) {
        self.history = crate::random::mix(self.history ^ u64::from(pc + 1));
    }
}

/// A value that all lanes must agree on.
fn uniform(warp: &Warp, slot: Slot) -> Result<u64, FaultKind> {
    let lanes = &warp.slots[slot as usize];
    if lanes.iter().any(|value| value != &lanes[0]) {
        let what = "lanes differ in a descriptor or in scale-d".to_string();
        return Err(FaultKind::Wgmma { what });
    }
    Ok(lanes[0])
}

pub fn issue(
    warp: &mut Warp,
    context: &mut Context<'_>,
    wgmma: &Wgmma,
    pc: u32,
) -> Result<(), LaneFault> {
    context.counters.wgmma += 1;
    if context.launch.settings.detect_races
        && registers(wgmma).any(|slot| warp.products.is_touched(slot))
    {
        return Err(FaultKind::MissingWgmmaFence.into());
    }
    let first = usize::from(warp.id % WARPS) * WARP_M;
    let a = match &wgmma.a {
        WgmmaA::Registers(_) => None,
        WgmmaA::Shared { descriptor, transposed } => {
            let tile = Tile::read(uniform(warp, *descriptor)?, *transposed)?;
            Some((tile, tile.units(first, WARP_M)))
        }
    };
    let tile = Tile::read(uniform(warp, wgmma.b)?, wgmma.b_transposed)?;
    let accumulate = uniform(warp, wgmma.accumulate)? & 1 == 1;
    let b = (tile, tile.units(0, wgmma.n));
    let product = Product { pc, group: warp.products.committed, accumulate, a, b };
    let access = context.access(warp.id, None);
    for unit in product.units() {
        context.shared.start_async_read(access, unit)?;
    }
    warp.products.owned.resize(warp.slots.len() / 64 + 1, 0);
    for slot in registers(wgmma) {
        let (word, bit) = bit(slot);
        warp.products.owned[word] |= bit;
    }
    warp.products.pending.push(product);
    Ok(())
}

/// Completes all but the last `pending_groups` groups.
pub fn wait(warp: &mut Warp, context: &mut Context<'_>, pending_groups: u32) {
    let committed = warp.products.committed;
    let pending = std::mem::take(&mut warp.products.pending);
    let (done, left): (Vec<Product>, Vec<Product>) = pending
        .into_iter()
        .partition(|product| product.group.saturating_add(pending_groups) < committed);
    warp.products.owned.fill(0);
    for product in &done {
        if let Some(wgmma) = context.launch.kernel.wgmma(product.pc) {
            multiply(warp, context, wgmma, product);
        }
        product.units().for_each(|unit| context.shared.finish_async_read(warp.id, unit));
    }
    for product in &left {
        // What the finished ones have given back and these still need.
        product.units().for_each(|unit| context.shared.keep_async_read(warp.id, unit));
        for slot in context.launch.kernel.wgmma(product.pc).into_iter().flat_map(registers) {
            let (word, bit) = bit(slot);
            warp.products.owned[word] |= bit;
        }
    }
    warp.products.pending = left;
}

/// Eight elements of shared memory.
fn eight(context: &Context<'_>, ty: Type, unit: u32) -> [f32; UNIT] {
    let data = context.shared.async_data(unit);
    let bits: [u16; UNIT] =
        std::array::from_fn(|at| u16::from_le_bytes([data[2 * at], data[2 * at + 1]]));
    widen(ty, bits)
}

fn widen<const COUNT: usize>(ty: Type, bits: [u16; COUNT]) -> [f32; COUNT] {
    let mut values = [0.0; COUNT];
    match ty {
        Type::F16 => bits.map(f16::from_bits).convert_to_f32_slice(&mut values),
        _ => bits.map(bf16::from_bits).convert_to_f32_slice(&mut values),
    }
    values
}

/// A's fragment in registers: as of `mma.m16n8k16`.
fn fragment(warp: &Warp, ty: Type, registers: &[Slot]) -> [[f32; K]; WARP_M] {
    let mut a = [[0.0; K]; WARP_M];
    for (index, &slot) in registers.iter().enumerate() {
        for (lane, &value) in warp.slots[slot as usize].iter().enumerate() {
            let pair = widen(ty, [value as u16, (value >> 16) as u16]);
            let (row, k) = (lane / 4 + 8 * (index % 2), 2 * (lane % 4) + 8 * (index / 2));
            a[row][k..k + 2].copy_from_slice(&pair);
        }
    }
    a
}

fn multiply(warp: &mut Warp, context: &Context<'_>, wgmma: &Wgmma, product: &Product) {
    let mut a = [[0.0; K]; WARP_M];
    match (&wgmma.a, &product.a) {
        (WgmmaA::Registers(registers), _) => a = fragment(warp, wgmma.ty, registers),
        (_, Some((tile, units))) => {
            for (at, &unit) in units.iter().enumerate() {
                let values = eight(context, wgmma.ty, unit);
                tile.fill(at, &values, |row, k, value| a[row][k] = value);
            }
        }
        _ => {}
    }
    // By k first, so that the product runs along n.
    let mut b = vec![[0.0f32; MAX_N]; K];
    let (tile, units) = &product.b;
    for (at, &unit) in units.iter().enumerate() {
        let values = eight(context, wgmma.ty, unit);
        tile.fill(at, &values, |column, k, value| b[k][column] = value);
    }
    if wgmma.negate_a != wgmma.negate_b {
        a.iter_mut().flatten().for_each(|value| *value = -*value);
    }
    for (row, a) in a.iter().enumerate() {
        // Lane 4 (row % 8) + t holds columns 2t and 2t + 1 of every eight, in two of four registers.
        let place = |column: usize| {
            let register = column / 8 * 4 + row / 8 * 2 + column % 2;
            (wgmma.d[register] as usize, row % 8 * 4 + column % 8 / 2)
        };
        let mut sums = [0.0f32; MAX_N];
        if product.accumulate {
            for (column, sum) in sums.iter_mut().enumerate().take(wgmma.n) {
                let (slot, lane) = place(column);
                *sum = f32::from_bits(warp.slots[slot][lane] as u32);
            }
        }
        add(&mut sums[..wgmma.n], a, &b, context.launch.settings.mma_order);
        for (column, sum) in sums.iter().enumerate().take(wgmma.n) {
            let (slot, lane) = place(column);
            warp.slots[slot][lane % WARP_LANES] = u64::from(sum.to_bits());
        }
    }
}

fn add(sums: &mut [f32], a: &[f32; K], b: &[[f32; MAX_N]], order: MmaOrder) {
    match order {
        MmaOrder::Sequential => {
            for (&a, b) in a.iter().zip(b) {
                // The product of two 11-bit numbers is exact: this rounds once, at the addition.
                sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
            }
        }
        MmaOrder::Exact => {
            let mut exact = [0.0f64; MAX_N];
            exact.iter_mut().zip(&*sums).for_each(|(exact, &sum)| *exact = f64::from(sum));
            for (&a, b) in a.iter().zip(b) {
                let row = exact.iter_mut().zip(b).take(sums.len());
                row.for_each(|(sum, b)| *sum += f64::from(a * b));
            }
            sums.iter_mut().zip(exact).for_each(|(sum, exact)| *sum = exact as f32);
        }
    }
}

/// The four warps of a warpgroup have to execute the same wgmma instructions.
pub fn check_warpgroups(warps: &[Warp]) -> Result<(), (usize, FaultKind)> {
    for (group, warps) in warps.chunks(usize::from(WARPS)).enumerate() {
        let first = warps[0].products.history;
        let differs = warps.iter().any(|warp| warp.products.history != first);
        let short = first != 0 && warps.len() < usize::from(WARPS);
        if differs || short {
            let what = "the four warps of a warpgroup do not execute the same".to_string();
            return Err((group * usize::from(WARPS), FaultKind::Wgmma { what }));
        }
    }
    Ok(())
}

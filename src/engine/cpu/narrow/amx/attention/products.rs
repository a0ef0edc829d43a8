//! The products of two blocks, made step by step while the softmax of a third is taken: the tile unit and the vector
//! units work side by side, and what one writes has left for the cache when the other reads it.

use super::stages::{load, settle};
use super::state::State;
use super::tiles::{exchange, load_rows, multiply};
use super::work::{Block, Work};
use crate::engine::cpu::narrow::amx::{STEP_BYTES, TILE_BYTES, TILE_ROWS, store_sums};
use crate::engine::cpu::narrow::attention::{AttentionArgs, BLOCK};

/// First the values of `mix` by their weights, then the scores of `score`.
pub(super) struct Products<'a> {
    args: &'a AttentionArgs,
    work: &'a Work,
    mix: Option<Block>,
    score: Option<Block>,
    /// Of `mix`: the next columns.
    column: usize,
    /// Of `mix`, then of `score`: the next keys.
    key: usize,
    sums: Sums,
}

/// What the tile registers hold.
#[derive(Clone, Copy)]
struct Sums {
    to: *mut f32,
    stride: usize,
    /// They are these columns of a block's context.
    context: Option<(Block, usize)>,
}

impl<'a> Products<'a> {
    pub(super) fn new(args: &'a AttentionArgs, work: &'a Work) -> Self {
        // What is in the registers at first is stored where no one reads it.
        let sums = Sums { to: work.tile, stride: BLOCK, context: None };
        Self { args, work, mix: None, score: None, column: 0, key: 0, sums }
    }

    /// How many steps these two blocks are.
    pub(super) fn begin(&mut self, mix: Option<Block>, score: Option<Block>) -> usize {
        (self.mix, self.score, self.column) = (mix, score, 0);
        self.key = mix.or(score).map_or(0, |block| block.begin);
        let steps = |block: Block| (block.end - block.begin) / BLOCK;
        mix.map_or(0, steps) * (self.work.sizes.dim / BLOCK) + score.map_or(0, steps)
    }

    /// The next step.
    ///
    /// # Safety
    /// As for [`super::attention`]; the thread holds `Tiles`, weights of `mix` and packed keys of `score` are written,
    /// and a step is left.
    #[inline(always)]
    pub(super) unsafe fn step(&mut self, state: &State) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.mix, self.score) {
                (Some(block), _) => self.mix(block, state),
                (None, Some(block)) => self.score(block, state),
                (None, None) => unreachable!("a step is left"),
            }
        }
    }

    #[inline(always)]
    unsafe fn mix(&mut self, block: Block, state: &State) {
        let work = self.work;
        let (dim, weights_stride) = (work.sizes.dim, work.sizes.weights_stride());
        let (key, column) = (self.key, self.column);
        // SAFETY: offsets stay inside the workspace.
        unsafe {
            let weights = work.weights(block.slot).add(key - block.begin).cast::<u8>();
            let tile = key / BLOCK * (dim / TILE_ROWS) + column / TILE_ROWS;
            let values = work.values(block).add(tile * TILE_BYTES).cast_const();
            let columns = [values, values.add(TILE_BYTES)];
            load_rows(weights, 2 * weights_stride);
            if key == block.begin {
                let context = Some((block, column));
                self.exchange(columns, Sums { to: work.tile, stride: BLOCK, context }, state);
            } else {
                multiply(columns);
            }
        }
        self.key += BLOCK;
        if self.key == block.end {
            (self.key, self.column) = (block.begin, column + BLOCK);
        }
        if self.column == dim {
            self.mix = None;
            self.key = self.score.map_or(0, |block| block.begin);
        }
    }

    #[inline(always)]
    unsafe fn score(&mut self, block: Block, state: &State) {
        let (args, work) = (self.args, self.work);
        let steps = work.sizes.dim / BLOCK;
        let stride = work.sizes.scores_stride();
        // SAFETY: offsets stay inside the workspace, and inside a block of queries.
        unsafe {
            let query = args.qkv.add(block.first * args.qkv_stride + block.head * args.head_dim);
            let keys = work.keys().add(self.key / TILE_ROWS * steps * TILE_BYTES);
            for step in 0..steps {
                let keys = keys.add(step * TILE_BYTES).cast_const();
                let columns = [keys, keys.add(steps * TILE_BYTES)];
                load_rows(query.cast::<u8>().add(step * STEP_BYTES), 2 * args.qkv_stride);
                if step == 0 {
                    let to = work.scores(block.slot).add(self.key - block.begin);
                    self.exchange(columns, Sums { to, stride, context: None }, state);
                } else {
                    multiply(columns);
                }
            }
        }
        self.key += BLOCK;
        if self.key == block.end {
            self.score = None;
        }
    }

    /// The first products of new sums; those before them are stored meanwhile.
    #[inline(always)]
    unsafe fn exchange(&mut self, columns: [*const u8; 2], next: Sums, state: &State) {
        // SAFETY: the caller's promise; the sums' place is theirs.
        unsafe {
            exchange(columns, self.sums.to, 4 * self.sums.stride);
            self.finish(state);
        }
        self.sums = next;
    }

    /// Stores what is left in the registers.
    ///
    /// # Safety
    /// As for [`Self::step`].
    #[inline(always)]
    pub(super) unsafe fn flush(&mut self, state: &State) {
        // SAFETY: the sums' place is theirs.
        unsafe {
            store_sums(self.sums.to.cast(), 4 * self.sums.stride);
            self.finish(state);
        }
        self.sums.context = None;
    }

    /// Adds what was stored to the context of the keys before, and writes it out after the last.
    #[inline(always)]
    unsafe fn finish(&self, state: &State) {
        let Some((block, column)) = self.sums.context else { return };
        let of = (self.work, state);
        for row in 0..block.rows {
            // SAFETY: a row of the tile, and of the block.
            unsafe {
                let sums = load(self.work.tile.add(row * BLOCK));
                settle(self.args, (block, row), column, sums, of);
            }
        }
    }
}

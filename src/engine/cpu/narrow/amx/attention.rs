//! Attention whose products are those of tiles.
//!
//! Three blocks of queries are under way at a time, one in each stage: the tile unit makes products of two while the
//! vector units take the softmax of the third.

mod products;
mod softmax;
mod stages;
mod state;
mod tiles;
mod work;

use super::Tiles;
use crate::engine::cpu::narrow::attention::pack::fetch;
use crate::engine::cpu::narrow::attention::{Attention, AttentionArgs};
use products::Products;
use softmax::weigh;
use stages::pack;
use state::{Part, ROWS, State};
use work::{Block, Sizes, Work, work_bytes};

pub(super) const ATTENTION: Attention = Attention { kernel: attention, work_bytes };

/// # Safety
/// AMX and AVX-512 with BF16 and DQ are available; `args` describes valid memory and nothing overlaps.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn attention(args: &AttentionArgs) {
    let sizes = Sizes::new(args.len, args.head_dim);
    let mut state = State::default();
    // SAFETY: the caller's promise; blocks are made of heads, queries and keys that are there.
    unsafe {
        let work = Work::new(args.work, sizes);
        let pack = |block: Block| pack(args, block, &work);
        let tiles = Tiles::configure();
        let mut products = Products::new(args, &work);
        let (mut before, mut current) = (None, Some(Block::first(args, sizes.chunk)));
        current.into_iter().for_each(&pack);
        for _ in 0..products.begin(None, current) {
            products.step(&state);
        }
        products.flush(&state);
        while let Some(block) = current {
            let next = block.next(args);
            next.into_iter().for_each(&pack);
            let mut steps = products.begin(before, next);
            let groups = block.rows.div_ceil(ROWS);
            for i in 0..groups {
                let scores = Part { start: work.scores(block.slot), stride: sizes.scores_stride() };
                let weights =
                    Part { start: work.weights(block.slot), stride: sizes.weights_stride() };
                let of_group = (scores.from(i * ROWS), weights.from(i * ROWS));
                weigh(args, block, i * ROWS, of_group, &mut state);
                if let Some(next) = next.filter(Block::has_first_keys) {
                    let first = next.first + i * ROWS;
                    fetch(args, next.head + 1, first..first + ROWS);
                }
                // Shared out over the groups but the last, whose time it takes to store what the next block reads.
                let due = steps.div_ceil(groups.saturating_sub(i + 1).max(1));
                steps -= due;
                for _ in 0..due {
                    products.step(&state);
                }
                if due > 0 && steps == 0 {
                    products.flush(&state);
                }
            }
            (before, current) = (Some(block), next);
        }
        for _ in 0..products.begin(before, None) {
            products.step(&state);
        }
        products.flush(&state);
        drop(tiles);
    }
}

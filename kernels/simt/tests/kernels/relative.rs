//! Attention whose scores count distances.

use crate::attention::{attend, items, products};
use crate::gpu::{Arg, Gpu, Mode, cu_seqlens, random};
use crate::tolerance::{Expected, assert_f16};

const MAX_LENGTH: usize = 300;

#[derive(Debug, Clone, Copy)]
struct Case {
    head_dim: usize,
    num_heads: usize,
    num_buckets: usize,
    first_only: bool,
    /// Rows at a sequence's end that are no keys, as far as it has more.
    num_asking: usize,
}

impl Case {
    fn new(head_dim: usize) -> Self {
        Self { head_dim, num_heads: 2, num_buckets: 29, first_only: false, num_asking: 0 }
    }

    fn width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    fn num_keys(&self, len: usize) -> usize {
        len.saturating_sub(self.num_asking).max(1).min(len)
    }

    /// Of a query's position less the key's: neighbours have buckets far apart, so that no other will do.
    fn bucket(&self, distance: isize) -> usize {
        (distance * 7).rem_euclid(self.num_buckets as isize) as usize
    }

    /// Slices, keys and values, and two rings of three groups.
    fn smem_bytes(&self) -> u32 {
        (4 * 16 * 40 * 4 + 8 * 32 * self.head_dim * 2) as u32
    }
}

/// Numbers as a model makes them: scores in base 2 of a few units.
struct Inputs {
    qkv: Vec<f32>,
    keys: Vec<f32>,
    queries: Vec<f32>,
}

impl Inputs {
    fn new(case: &Case, num_tokens: usize) -> Self {
        let heads = 3 * case.num_heads;
        let qkv = random(5, num_tokens * heads * case.head_dim, 2.0);
        let scaled = qkv.chunks(case.head_dim).enumerate().flat_map(|(chunk, values)| {
            let scale = if chunk % heads < case.num_heads { 0.25 } else { 1.0 };
            values.iter().map(move |x| x * scale)
        });
        let len = case.num_heads * case.num_buckets * case.head_dim;
        Self { qkv: scaled.collect(), keys: random(6, len, 2.0), queries: random(7, len, 0.5) }
    }
}

fn run(mode: Mode, case: &Case, lens: &[usize], inputs: &Inputs) -> Vec<f32> {
    let mut gpu = Gpu::new(mode);
    let (cu, items) = (cu_seqlens(lens), items(case.first_only, lens));
    let out_rows = if case.first_only { lens.len() } else { cu[lens.len()] as usize };
    let key_lens: Vec<u32> = lens.iter().map(|len| case.num_keys(*len) as u32).collect();
    let farthest = MAX_LENGTH as isize - 1;
    let buckets: Vec<u32> = (-farthest..=farthest).map(|d| case.bucket(d) as u32).collect();
    let out = gpu.f16(&vec![f32::NAN; out_rows * case.width()]);
    let args = [
        Arg::Ptr(gpu.f16(&inputs.qkv)),
        Arg::Ptr(gpu.u32(&cu)),
        Arg::Ptr(gpu.u32(&items)),
        Arg::Ptr(out),
        Arg::I32(case.num_heads as i32),
        Arg::I32(3 * case.width() as i32),
        Arg::I32(case.width() as i32),
        Arg::I32(i32::from(case.first_only)),
        Arg::Ptr(gpu.u32(&key_lens)),
        Arg::Ptr(gpu.f16(&inputs.keys)),
        Arg::Ptr(gpu.f16(&inputs.queries)),
        Arg::Ptr(gpu.u32(&buckets)),
        Arg::I32(case.num_buckets as i32),
        Arg::I32(MAX_LENGTH as i32),
    ];
    let grid = (items.len() / 2 * case.num_heads) as u32;
    let kernel = format!("relative_attention_f16_d{}_sm80", case.head_dim);
    // Not without conflicts: diagonals meet a bank twice.
    gpu.launch(&kernel, grid, 128, case.smem_bytes(), &args);
    gpu.read_f16(out)
}

fn expected(case: &Case, lens: &[usize], inputs: &Inputs) -> Vec<Expected> {
    let (cu, dim) = (cu_seqlens(lens), case.head_dim);
    let mut expected = Vec::new();
    for (sequence, &len) in lens.iter().enumerate() {
        let part = |token: usize, head: usize| {
            let row = &inputs.qkv[(cu[sequence] as usize + token) * 3 * case.width()..];
            &row[head * dim..][..dim]
        };
        for token in 0..if case.first_only { len.min(1) } else { len } {
            for head in 0..case.num_heads {
                let query = part(token, head);
                let vector = |vectors: &'_ [f32], key: usize| {
                    let bucket = case.bucket(token as isize - key as isize);
                    vectors[(head * case.num_buckets + bucket) * dim..][..dim].to_vec()
                };
                let score = |at: usize| {
                    let key = part(at, case.num_heads + head);
                    let (far_key, far_query) =
                        (vector(&inputs.keys, at), vector(&inputs.queries, at));
                    let terms = products(query, key).chain(products(query, &far_key));
                    Expected::sum(terms.chain(products(key, &far_query)))
                };
                let keys = 0..case.num_keys(len);
                let scores: Vec<_> = keys.clone().map(score).collect();
                let seen: Vec<_> = keys.map(|key| part(key, 2 * case.num_heads + head)).collect();
                expected.extend(attend(dim, &scores, &seen));
            }
        }
    }
    expected
}

#[track_caller]
fn check(case: Case, lens: &[usize]) {
    let inputs = Inputs::new(&case, lens.iter().sum());
    let out = run(Mode::Rough, &case, lens, &inputs);
    assert_f16(&format!("{case:?}"), &out, &expected(&case, lens, &inputs));
}

#[test]
fn every_distance_has_its_vector_at_every_edge_length() {
    for head_dim in [32, 64] {
        check(Case::new(head_dim), &[0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 2]);
    }
}

#[test]
fn rings_turn_through_many_tiles() {
    for head_dim in [32, 64] {
        check(Case { num_heads: 1, ..Case::new(head_dim) }, &[3, MAX_LENGTH]);
    }
}

#[test]
fn rows_that_are_no_keys_ask_and_first_tokens_alone_may() {
    check(Case { num_asking: 20, ..Case::new(32) }, &[70, 5, 33]);
    for head_dim in [32, 64] {
        check(Case { first_only: true, ..Case::new(head_dim) }, &[70, 1, 100]);
    }
}

#[test]
fn scores_that_count_distances_do_not_depend_on_batch_mates() {
    let (lens, case) = ([7, 97, 1, 64], Case::new(64));
    let mut inputs = Inputs::new(&case, lens.iter().sum());
    let together = run(Mode::Plain, &case, &lens, &inputs);
    let (cu, qkv) = (cu_seqlens(&lens), inputs.qkv.clone());
    for (i, len) in lens.into_iter().enumerate() {
        let rows = |width: usize| cu[i] as usize * width..cu[i + 1] as usize * width;
        inputs.qkv = qkv[rows(3 * case.width())].to_vec();
        let alone = run(Mode::Plain, &case, &[len], &inputs);
        assert_eq!(alone, together[rows(case.width())], "sequence {i}");
        let first = Case { first_only: true, ..case };
        let first = run(Mode::Plain, &first, &[len], &inputs);
        assert_eq!(first, alone[..case.width()], "the first token of sequence {i}");
    }
}

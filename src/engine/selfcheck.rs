//! Whether a device computes what the CPU computes: every operation on small data, before anything is served.
//!
//! A driver, a card or a compiler that breaks a kernel must be met here, in under a second, and not in a ranking.

use super::cpu::Cpu;
use super::cuda::{Cuda, Sharing};
use super::packed::Packed;
use super::table::Table;
use super::{
    AttentionKind, Backend, CausalInit, Dtype, EmbeddingsInit, Epilogue, Gate, LinearInit, MaxSim,
    MaxSimError, NormInit, NormKind, Pooling, Queries, RelativeInit, RopeInit, Window,
};
use crate::error::DeviceError;
use crate::matrix_format::Format;

/// Lengths on both sides of the tiles' edges, and a sequence of one token.
const LENS: [usize; 5] = [1, 17, 64, 65, 5];
const VOCAB_SIZE: usize = 50;
/// The head sizes of most models, each with a number of heads that fills no tile evenly.
const HEADS: [(usize, usize); 4] = [(32, 3), (64, 1), (96, 1), (128, 1)];
/// Attention of other kernels than theirs, by head size.
const FORMS: [(Form, usize); 6] = [
    (Form::Products, 256),
    (Form::Capped, 32),
    (Form::Capped, 128),
    (Form::Capped, 256),
    (Form::Relative, 32),
    (Form::Relative, 64),
];
/// Of sequences that share it.
const PREFIX_LEN: usize = 20;
/// Low enough to matter.
const CAP: f32 = 5.0;
/// Of distances: near ones have their own, the others share the outer two.
const NUM_BUCKETS: usize = 41;
/// Widths of vectors: one of each kernel, and one that is padded.
const VECTORS: [usize; 4] = [64, 72, 96, 128];
/// What they are kept in: halves, which a device takes as they are, and what it has decoded for it.
const MATRICES: [Format; 2] = [Format::F16, Format::Int8];
/// A chain of three operations keeps f16 rows within three half units in the last place of the largest value;
/// four times that.
const TOLERANCE: f32 = 12.0 / 2048.0;

/// What a score is made of.
#[derive(Debug, Clone, Copy)]
enum Form {
    Products,
    /// Of the products, capped.
    Capped,
    /// The products, and those with vectors for distances.
    Relative,
}

/// One operation on both engines.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub operation: String,
    /// Of the largest value.
    pub largest_error: f32,
    pub tolerance: f32,
}

impl Comparison {
    pub fn holds(&self) -> bool {
        // Asked this way round, a NaN fails too.
        self.largest_error <= self.tolerance
    }
}

/// The values an operation gave.
struct Values {
    operation: String,
    values: Vec<f32>,
}

/// Runs every operation on both engines.
///
/// # Errors
/// The device fails.
pub fn compare(cuda: &Cuda) -> Result<Vec<Comparison>, DeviceError> {
    let mut batch = Packed::with_capacity(LENS.iter().sum(), LENS.len());
    for (i, len) in LENS.iter().enumerate() {
        let id = |t: usize| ((t * 7 + i * 3) % VOCAB_SIZE) as u32;
        batch.push(&(0..*len).map(id).collect::<Vec<_>>(), len / 2);
    }
    let on_device = cuda.batch(&batch, None)?;
    let (cpu, shape) = (Cpu::new(Dtype::F32), Shape::of(&batch));
    let mut comparisons = Vec::new();
    for heads in HEADS {
        let expected = run(&cpu, &batch, shape, heads)?;
        let got = run(cuda, &on_device, shape, heads)?;
        comparisons.extend(expected.into_iter().zip(&got).map(|(e, g)| e.against(g)));
    }
    let expected = run_forms(&cpu, &batch, shape)?;
    let got = run_forms(cuda, &on_device, shape)?;
    comparisons.extend(expected.into_iter().zip(&got).map(|(e, g)| e.against(g)));
    let batch = alike();
    let on_device = cuda.batch(&batch, Sharing::of(&batch).as_ref())?;
    let shape = Shape::of(&batch);
    comparisons
        .push(run_shared(&cpu, &batch, shape)?.against(&run_shared(cuda, &on_device, shape)?));
    for (dim, format) in VECTORS.into_iter().flat_map(|dim| MATRICES.map(|format| (dim, format))) {
        let Some(comparer) = cuda.comparer(dim)? else { continue };
        let expected = max_sim(&cpu, dim, format)?;
        comparisons.push(expected.against(&max_sim(&comparer, dim, format)?));
    }
    Ok(comparisons)
}

/// The sums of documents of all lengths, and of one without vectors, with a query of 33 vectors.
fn max_sim(device: &dyn MaxSim, dim: usize, format: Format) -> Result<Values, DeviceError> {
    let value = |i: usize| ((i * 37 + i / 5) % 29) as f32 / 29.0 - 0.5;
    let vectors = |begin: usize, num: usize| (begin..begin + num * dim).map(value);
    let query: Vec<f32> = vectors(3, 33).collect();
    let document =
        |(i, len): (usize, usize)| format.encode(&vectors(i * 11, len).collect::<Vec<_>>(), dim);
    let kept: Vec<Vec<u8>> = LENS.into_iter().chain([0]).enumerate().map(document).collect();
    let kept: Vec<&[u8]> = kept.iter().map(Vec::as_slice).collect();
    let values = device.max_sim(&query, dim, format, &kept).map_err(|error| match error {
        MaxSimError::Device(fault) => fault,
        MaxSimError::NotKept => DeviceError::new(error.to_string()),
    })?;
    Ok(Values { operation: format!("max_sim of {dim}, {}", format.name()), values })
}

/// Compares, and tells the first operation that differs.
///
/// # Errors
/// The device fails, or computes something else than the CPU.
pub fn check(cuda: &Cuda) -> Result<(), DeviceError> {
    match compare(cuda)?.into_iter().find(|comparison| !comparison.holds()) {
        None => Ok(()),
        Some(Comparison { operation, largest_error, tolerance }) => Err(DeviceError::new(format!(
            "self-check: {operation} differs from the CPU by {largest_error} of its largest \
                 value (tolerance {tolerance}); run `rerankd selfcheck --device cuda`"
        ))),
    }
}

impl Values {
    fn against(self, got: &Self) -> Comparison {
        let largest = self.values.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
        let differences = self.values.iter().zip(&got.values).map(|(a, b)| (a - b).abs());
        // f32::max would drop a NaN.
        let worst = differences.fold(0.0, |max, d| if d > max || d.is_nan() { d } else { max });
        Comparison {
            operation: self.operation,
            largest_error: worst / largest,
            tolerance: TOLERANCE,
        }
    }
}

/// Rows of a result that mean something; a device may have more.
#[derive(Debug, Clone, Copy)]
struct Shape {
    num_tokens: usize,
    num_sequences: usize,
}

impl Shape {
    fn of(batch: &Packed) -> Self {
        Self { num_tokens: batch.num_tokens(), num_sequences: batch.num_sequences() }
    }
}

/// Results so far, and where they are computed.
struct Kept<'a, B: Backend> {
    b: &'a B,
    results: Vec<Values>,
}

impl<B: Backend> Kept<'_, B> {
    fn keep(
        &mut self,
        operation: &str,
        rows: &B::Rows,
        num_rows: usize,
        width: usize,
    ) -> Result<(), DeviceError> {
        let mut values = vec![0.0; num_rows * width];
        self.b.read(rows, &mut values)?;
        self.results.push(Values { operation: format!("{operation}, width {width}"), values });
        Ok(())
    }
}

/// One layer's operations, each with its result.
fn run<B: Backend>(
    b: &B,
    batch: &B::Batch,
    shape: Shape,
    (head_dim, num_heads): (usize, usize),
) -> Result<Vec<Values>, DeviceError> {
    let width = head_dim * num_heads;
    // A device rounds the batch up to one of its sizes.
    let max_rows = 2 * shape.num_tokens;
    let rows = |width| b.rows(max_rows, width);
    let mut kept = Kept { b, results: Vec::new() };
    let norm = norm(b, width)?;
    let mut hidden = rows(width)?;
    b.embed_norm(batch, &embeddings(b, width)?, &norm, &mut hidden);
    kept.keep("embedding and norm", &hidden, shape.num_tokens, width)?;

    let mut wide = rows(2 * width)?;
    let up = linear(b, 2 * width, width, 3)?;
    for epilogue in [
        Epilogue::Bias,
        Epilogue::BiasGelu,
        Epilogue::BiasGeluTanh,
        Epilogue::BiasRelu,
        Epilogue::BiasTanh,
    ] {
        b.linear(&hidden, &up, epilogue, &mut wide);
        kept.keep(&format!("linear, {epilogue:?}"), &wide, shape.num_tokens, 2 * width)?;
    }

    let (mut qkv, mut context) = (rows(3 * width)?, rows(width)?);
    let mut scratch = b.scratch(LENS.into_iter().max().unwrap_or(1), head_dim)?;
    b.linear(&hidden, &linear(b, 3 * width, width, 4)?, Epilogue::Bias, &mut qkv);
    for queries in [Queries::First, Queries::All] {
        let kind = AttentionKind::full(queries, num_heads);
        b.attention(&qkv, batch, &kind, &mut scratch, &mut context);
        let num_rows = match queries {
            Queries::First => shape.num_sequences,
            Queries::All => shape.num_tokens,
        };
        let operation = format!("attention, heads of {head_dim}, {queries:?}");
        kept.keep(&operation, &context, num_rows, width)?;
    }
    run_rotary(&mut kept, batch, shape, (head_dim, num_heads), &hidden)?;
    b.residual_norm(&mut hidden, &context, &norm);
    kept.keep("residual and norm", &hidden, shape.num_tokens, width)?;

    let mut pooled = rows(width)?;
    for pooling in [Pooling::Cls, Pooling::Mean, Pooling::Last] {
        b.pool(&hidden, batch, pooling, &mut pooled);
        kept.keep(&format!("pooling, {pooling:?}"), &pooled, shape.num_sequences, width)?;
    }
    b.normalize(&mut pooled);
    kept.keep("normalize", &pooled, shape.num_sequences, width)?;
    let mut logits = b.logits(max_rows, 2)?;
    b.classify(&pooled, &linear(b, 2, width, 5)?, &mut logits);
    kept.keep("classify", &logits, shape.num_sequences, 2)?;
    Ok(kept.results)
}

/// The operations of models with rotary positions and gates, each with its result.
fn run_rotary<B: Backend>(
    kept: &mut Kept<'_, B>,
    batch: &B::Batch,
    shape: Shape,
    (head_dim, num_heads): (usize, usize),
    x: &B::Rows,
) -> Result<(), DeviceError> {
    let (b, width) = (kept.b, head_dim * num_heads);
    let rows = |width| b.rows(2 * shape.num_tokens, width);
    let (mut qkv, mut context) = (rows(3 * width)?, rows(width)?);
    let mut scratch = b.scratch(LENS.into_iter().max().unwrap_or(1), head_dim)?;
    let frequencies: Vec<f64> = (0..head_dim / 2).map(|i| 0.9 / (1 + i) as f64).collect();
    let rope = RopeInit { inverse_frequencies: &frequencies, max_positions: LENS.iter().sum() };
    let head_norm = |seed| {
        let gamma: Vec<f32> = values(seed, head_dim).into_iter().map(|x| x + 1.0).collect();
        let init = NormInit { kind: NormKind::Rms, gamma: &gamma, beta: &[], eps: 1e-6 };
        b.prepare_norm(&init)
    };
    for window in [Window::CAUSAL, Window::around(16)] {
        let kind = AttentionKind { window, ..AttentionKind::full(Queries::All, num_heads) };
        b.linear(x, &linear(b, 3 * width, width, 4)?, Epilogue::Bias, &mut qkv);
        b.head_norm(&mut qkv, &head_norm(10)?, &head_norm(11)?, &kind);
        b.rotate(&mut qkv, batch, &b.prepare_rope(&rope)?, &kind);
        b.attention(&qkv, batch, &kind, &mut scratch, &mut context);
        let operation = format!("rotary attention, heads of {head_dim}, {window:?}");
        kept.keep(&operation, &context, shape.num_tokens, width)?;
    }
    let mut sum = rows(width)?;
    b.embed(batch, &embeddings(b, width)?, &mut sum);
    kept.keep("embedding", &sum, shape.num_tokens, width)?;
    b.linear(x, &linear(b, width, width, 6)?, Epilogue::Bias, &mut sum);
    let mut normed = rows(width)?;
    b.norm(&sum, &norm(b, width)?, &mut normed);
    kept.keep("norm", &normed, shape.num_tokens, width)?;
    for kind in [NormKind::Layer, NormKind::Rms] {
        let gamma = values(9, width);
        let norm = b.prepare_norm(&NormInit { kind, gamma: &gamma, beta: &[], eps: 1e-5 })?;
        let mut normed = rows(width)?;
        b.pre_norm(&mut sum, Some(&context), &norm, &mut normed);
        kept.keep(&format!("norm before a layer, {kind:?}"), &normed, shape.num_tokens, width)?;
    }
    let mut wide = rows(2 * width)?;
    b.linear(x, &linear(b, 2 * width, width, 3)?, Epilogue::Bias, &mut wide);
    for gate in [Gate::Gelu, Gate::GeluTanh, Gate::Silu, Gate::Relu] {
        let mut gated = rows(width)?;
        b.gated_activation(&wide, gate, &mut gated);
        kept.keep(&format!("gated activation, {gate:?}"), &gated, shape.num_tokens, width)?;
    }
    Ok(())
}

/// Attention of each of [`FORMS`], over rows that no other operation touched.
fn run_forms<B: Backend>(
    b: &B,
    batch: &B::Batch,
    shape: Shape,
) -> Result<Vec<Values>, DeviceError> {
    const NUM_HEADS: usize = 2;
    let longest = LENS.into_iter().max().unwrap_or(1);
    let mut kept = Kept { b, results: Vec::new() };
    for (form, head_dim) in FORMS {
        let width = NUM_HEADS * head_dim;
        let rows = |width| b.rows(2 * shape.num_tokens, width);
        let (mut qkv, mut out) = (rows(3 * width)?, rows(width)?);
        b.embed(batch, &embeddings(b, 3 * width)?, &mut qkv);
        let mut kind = AttentionKind::full(Queries::All, NUM_HEADS);
        match form {
            Form::Products => {
                b.attention(&qkv, batch, &kind, &mut b.scratch(longest, head_dim)?, &mut out);
            }
            Form::Capped => {
                (kind.softcap, kind.window) = (Some(CAP), Window::CAUSAL);
                let (max_tokens, max_length) = (2 * shape.num_tokens, longest);
                let init = CausalInit { kind, head_dim, max_tokens, max_length };
                let mut scratch = b.causal_scratch(&init)?;
                b.attention(&qkv, batch, &kind, &mut scratch, &mut out);
            }
            Form::Relative => {
                let relative = relative(b, (NUM_HEADS, head_dim), longest)?;
                let mut scratch = b.relative_scratch(longest, &relative)?;
                b.relative_attention(&qkv, batch, &kind, &relative, &mut scratch, &mut out);
            }
        }
        let operation = format!("attention, {form:?}, heads of {head_dim}");
        kept.keep(&operation, &out, shape.num_tokens, width)?;
    }
    Ok(kept.results)
}

/// Sequences that begin alike.
fn alike() -> Packed {
    let mut batch = Packed::with_capacity(0, LENS.len());
    for (i, len) in LENS.iter().enumerate() {
        let ids = (0..PREFIX_LEN + len).map(|t| (t + t / PREFIX_LEN * i) % VOCAB_SIZE);
        batch.push(&ids.map(|id| id as u32).collect::<Vec<_>>(), PREFIX_LEN);
    }
    batch
}

/// What each sequence of [`alike`] ends with after causal attention.
fn run_shared<B: Backend>(b: &B, batch: &B::Batch, shape: Shape) -> Result<Values, DeviceError> {
    let (head_dim, max_tokens) = (HEADS[0].0, 2 * shape.num_tokens);
    let max_length = PREFIX_LEN + LENS.into_iter().max().unwrap_or(1);
    let kind = AttentionKind { window: Window::CAUSAL, ..AttentionKind::full(Queries::All, 1) };
    let width = kind.num_heads * head_dim;
    let rows = |width| b.rows(max_tokens, width);
    let (mut qkv, mut out, mut last) = (rows(3 * width)?, rows(width)?, rows(width)?);
    let init = CausalInit { kind, head_dim, max_tokens, max_length };
    let mut scratch = b.causal_scratch(&init)?;
    b.embed(batch, &embeddings(b, 3 * width)?, &mut qkv);
    b.attention(&qkv, batch, &kind, &mut scratch, &mut out);
    b.pool(&out, batch, Pooling::Last, &mut last);
    let mut values = vec![0.0; shape.num_sequences * width];
    b.read(&last, &mut values)?;
    Ok(Values { operation: "attention after a shared prefix".to_owned(), values })
}

/// Vectors for distances.
fn relative<B: Backend>(
    b: &B,
    (num_heads, head_dim): (usize, usize),
    max_length: usize,
) -> Result<B::Relative, DeviceError> {
    let farthest = max_length as isize - 1;
    let last = NUM_BUCKETS as isize - 1;
    let bucket = |distance: isize| (distance + last / 2).clamp(0, last) as u32;
    let buckets: Vec<_> = (-farthest..=farthest).map(bucket).collect();
    let len = num_heads * NUM_BUCKETS * head_dim;
    let (keys, queries) = (&values(12, len)[..], &values(13, len)[..]);
    b.prepare_relative(&RelativeInit { keys, queries, num_heads, head_dim, buckets: &buckets })
}

/// Values in [-1, 1) that depend on nothing but `seed`.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

fn linear<B: Backend>(b: &B, n: usize, k: usize, seed: u64) -> Result<B::Linear, DeviceError> {
    let scale = 1.0 / (k as f32).sqrt();
    let weight: Vec<f32> = values(seed, n * k).into_iter().map(|x| x * scale).collect();
    b.prepare_linear(&LinearInit { weight: &weight, bias: &values(seed + 1, n), n, k })
}

fn norm<B: Backend>(b: &B, width: usize) -> Result<B::Norm, DeviceError> {
    let (gamma, beta) = (values(1, width), values(2, width));
    b.prepare_norm(&NormInit { kind: NormKind::Layer, gamma: &gamma, beta: &beta, eps: 1e-12 })
}

fn embeddings<B: Backend>(b: &B, width: usize) -> Result<B::Embeddings, DeviceError> {
    b.prepare_embeddings(EmbeddingsInit {
        words: Table::of(&values(6, VOCAB_SIZE * width), width),
        types: values(7, 2 * width),
        positions: values(8, LENS.iter().sum::<usize>() * width),
        hidden_size: width,
    })
}

//! Late interaction gives what its definition says, from the bytes that a store keeps, in every format and by every
//! instruction set; and bytes that no store kept give nothing.

use rerankd::engine::cpu::{Cpu, Isa};
use rerankd::engine::{Dtype, MaxSim, MaxSimError};
use rerankd::matrix_format::Format;

use crate::values::values;

const FORMATS: [Format; 4] = [Format::F32, Format::F16, Format::Int8, Format::Bits2];

/// All kernels there are: in f32, and in bf16 where documents are compared so.
fn kernels() -> impl Iterator<Item = Cpu> {
    let of = |dtype| Isa::distinct(dtype).filter_map(move |isa| Cpu::with_isa(isa, dtype));
    of(Dtype::F32).chain(of(Dtype::Bf16).filter(Cpu::compares_bf16))
}

fn slices<T>(all: &[Vec<T>]) -> Vec<&[T]> {
    all.iter().map(Vec::as_slice).collect()
}

fn sums(cpu: &Cpu, query: &[f32], dim: usize, format: Format, kept: &[Vec<u8>]) -> Vec<f32> {
    cpu.max_sim(query, dim, format, &slices(kept)).expect("whole documents")
}

fn bits(sums: &[f32]) -> Vec<u32> {
    sums.iter().map(|sum| sum.to_bits()).collect()
}

/// Documents of these lengths. Some of their numbers are so small that a half of them is subnormal, some are zero.
fn documents(lens: &[usize], dim: usize) -> Vec<Vec<f32>> {
    let number = |(i, x): (usize, f32)| match i % 17 {
        3 => x * 1e-6,
        9 => 0.0,
        _ => x,
    };
    let document = |len: &usize| values(*len as u64 + 9, len * dim).into_iter().enumerate();
    lens.iter().map(|len| document(len).map(number).collect()).collect()
}

/// The definition, in f64.
fn max_sim(query: &[f32], document: &[f32], dim: usize) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let best = |q: &[f32]| {
        document.chunks_exact(dim).map(|d| product(q, d)).fold(f64::NEG_INFINITY, f64::max)
    };
    if document.is_empty() { 0.0 } else { query.chunks_exact(dim).map(best).sum() }
}

#[test]
fn late_interaction_is_its_definition_on_every_instruction_set() {
    // On both sides of the edges of tiles, panels, steps and blocks; similarities may all be negative.
    for (dim, num_queries) in [(8, 1), (24, 14), (96, 33), (128, 32), (130, 65)] {
        let query = values(5, num_queries * dim);
        let lens = [0, 1, 11, 12, 13, 14, 0, 15, 24, 31, 32, 33, 1030, 180, 64];
        let documents = documents(&lens, dim);
        let kept: Vec<_> = documents.iter().map(|x| Format::F32.encode(x, dim)).collect();
        for cpu in kernels() {
            // What a narrow product sees.
            let see = |values: &[f32]| -> Vec<f32> {
                let narrow = |x: &f32| half::bf16::from_f32(*x).to_f32();
                let is_narrow = cpu.dtype() == Dtype::Bf16;
                values.iter().map(|x| if is_narrow { narrow(x) } else { *x }).collect()
            };
            let got = sums(&cpu, &query, dim, Format::F32, &kept);
            for (got, document) in got.iter().zip(&documents) {
                let expected = max_sim(&see(&query), &see(document), dim) as f32;
                let is_close = (got - expected).abs() <= 2e-6 * (dim * num_queries) as f32;
                assert!(is_close, "{cpu:?}, {dim}, {}: {got}, not {expected}", document.len());
            }
        }
    }
}

#[test]
fn documents_are_compared_as_what_their_bytes_decode_to_whoever_is_beside_them() {
    for dim in [1, 3, 16, 24, 96, 128, 130, 384] {
        let documents = documents(&[0, 1, 12, 25, 13, 14, 24, 15, 33, 180], dim);
        let query = values(5, 70 * dim);
        for format in FORMATS {
            let kept: Vec<_> = documents.iter().map(|x| format.encode(x, dim)).collect();
            let exactly = |kept: &Vec<u8>| {
                let mut decoded = Vec::new();
                assert!(format.decode(kept, dim, &mut decoded), "{format:?}, {dim}");
                Format::F32.encode(&decoded, dim)
            };
            let exact: Vec<_> = kept.iter().map(exactly).collect();
            for (cpu, num) in kernels().flat_map(|cpu| [1, 31, 32, 33, 70].map(|num| (cpu, num))) {
                let (query, case) = (&query[..num * dim], format!("{cpu:?}, {format:?}, {dim}"));
                let got = bits(&sums(&cpu, query, dim, format, &kept));
                let decoded = bits(&sums(&cpu, query, dim, Format::F32, &exact));
                assert_eq!(got, decoded, "{case}, a query of {num}");
                for (kept, got) in kept.iter().zip(&got).filter(|_| num == 33) {
                    let alone = sums(&cpu, query, dim, format, std::slice::from_ref(kept));
                    assert_eq!(bits(&alone), [*got], "{case}, alone");
                }
            }
        }
    }
}

/// A similarity is one chain over the columns, and a sum of them is made lane by lane.
#[test]
fn a_sum_in_f32_has_one_order_on_every_instruction_set() {
    let (dim, num) = (130, 37);
    let (query, document) = (values(5, num * dim), values(6, 29 * dim));
    let kept = [Format::F32.encode(&document, dim)];
    let expected = |is_fused: bool| {
        let product = |a: &[f32], b: &[f32]| {
            let numbers = a.iter().zip(b);
            let fused = |sum: f32, (a, b): (&f32, &f32)| a.mul_add(*b, sum);
            let rounded = |sum: f32, (a, b): (&f32, &f32)| sum + a * b;
            if is_fused { numbers.fold(0.0, fused) } else { numbers.fold(0.0, rounded) }
        };
        let mut lanes = [0f32; 16];
        for (i, query) in query.chunks_exact(dim).enumerate() {
            let products = document.chunks_exact(dim).map(|row| product(row, query));
            lanes[i % 16] += products.fold(f32::NEG_INFINITY, f32::max);
        }
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|i| lanes[i] += lanes[i + half]);
        }
        lanes[0]
    };
    for cpu in kernels().filter(|cpu| cpu.dtype() == Dtype::F32) {
        let got = sums(&cpu, &query, dim, Format::F32, &kept);
        assert_eq!(got, [expected(cpu.isa() != Isa::Portable)], "{cpu:?}");
    }
}

#[test]
fn a_number_that_is_infinite_or_none_is_refused_wherever_it_is() {
    const DIM: usize = 40;
    let halves = [half::f16::NAN, half::f16::INFINITY, half::f16::NEG_INFINITY];
    let singles = halves.map(f32::from);
    let document = values(6, 50 * DIM);
    // Queries of none, of zeros, of numbers.
    let queries = [vec![], vec![0.0; DIM], values(5, 33 * DIM)];
    let beside = |format: Format, len: usize| format.encode(&values(7, len * DIM), DIM);
    for format in FORMATS {
        let whole = format.encode(&document, DIM);
        // Where numbers are: all of a vector, its scale, or all of a document's columns.
        let places: Vec<usize> = match format {
            Format::F32 => [0, 1, 33 * DIM + 35, 50 * DIM - 1].map(|i| 4 * i).to_vec(),
            Format::F16 => [0, 1, 33 * DIM + 35, 50 * DIM - 1].map(|i| 2 * i).to_vec(),
            Format::Int8 => [0, 14, 31, 49].map(|i| i * (DIM + 4)).to_vec(),
            Format::Bits2 => [0, DIM - 1, DIM, 2 * DIM - 1].map(|i| 2 * i).to_vec(),
        };
        for (place, i) in places.into_iter().flat_map(|place| [0, 1, 2].map(|i| (place, i))) {
            let mut broken = whole.clone();
            match format {
                Format::F16 | Format::Bits2 => {
                    broken[place..][..2].copy_from_slice(&halves[i].to_le_bytes());
                }
                _ => broken[place..][..4].copy_from_slice(&singles[i].to_le_bytes()),
            }
            let all = [beside(format, 3), broken, beside(format, 2)];
            for (cpu, query) in kernels().flat_map(|cpu| queries.each_ref().map(|q| (cpu, q))) {
                let got = cpu.max_sim(query, DIM, format, &slices(&all));
                let is_refused = matches!(got, Err(MaxSimError::NotKept));
                assert!(is_refused, "{cpu:?}, {format:?}, byte {place}: {got:?}");
            }
        }
        for cpu in kernels() {
            assert_eq!(sums(&cpu, &[], DIM, format, &[whole.clone(), vec![]]), [0.0, 0.0]);
        }
    }
}

#[test]
fn a_query_that_is_no_number_blames_no_document() {
    let kept = [Format::F16.encode(&values(6, 40), 8)];
    for cpu in kernels() {
        let got = cpu.max_sim(&[f32::NAN; 8], 8, Format::F16, &slices(&kept));
        assert!(matches!(got, Err(MaxSimError::Device(_))), "{got:?}");
    }
}

#[test]
fn bytes_cut_short_are_refused_and_any_address_will_do() {
    const DIM: usize = 24;
    let (query, document) = (values(5, 33 * DIM), values(6, 50 * DIM));
    for (format, cpu) in FORMATS.into_iter().flat_map(|f| kernels().map(move |cpu| (f, cpu))) {
        let whole = format.encode(&document, DIM);
        let expected = sums(&cpu, &query, DIM, format, std::slice::from_ref(&whole));
        for short in [1, whole.len() - 1] {
            let got = cpu.max_sim(&query, DIM, format, &[&whole, &whole[..short]]);
            assert!(matches!(got, Err(MaxSimError::NotKept)), "{cpu:?}, {format:?}: {got:?}");
        }
        for shift in 1..8 {
            let shifted = [vec![0xff; shift], whole.clone()].concat();
            let got = cpu.max_sim(&query, DIM, format, &[&shifted[shift..]]).unwrap();
            assert_eq!(got, expected, "{cpu:?}, {format:?}, {shift} bytes on");
        }
    }
}

//! A pair gets the same bits alone, among any batch mates, and on any number of threads.

use proptest::prelude::*;
use rerankd::engine::Dtype;
use rerankd::engine::cpu::Isa;
use rerankd::engine::packed::Packed;
use rerankd::model::Scorer;
use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use std::num::NonZeroUsize;
use std::path::Path;

fn model(isa: Isa, dtype: Dtype, threads: usize) -> Box<dyn Scorer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let files = ModelFiles::open_folder(&folder).expect("the folder");
    let options = LoadOptions {
        isa: Some(isa),
        threads: NonZeroUsize::new(threads),
        dtype: Some(dtype),
        ..LoadOptions::default()
    };
    load(&files, &options).expect("the model").scorers.remove(0)
}

fn score(model: &mut dyn Scorer, batch: &Packed) -> Vec<u32> {
    let mut out = vec![0.0; batch.num_sequences() * model.width()];
    model.score(batch, &mut out).expect("scores");
    out.iter().map(|x| x.to_bits()).collect()
}

type Damage = fn(&mut Packed);

fn sequence(len: usize, seed: usize) -> Vec<u32> {
    (0..len).map(|t| ((t * 31 + seed * 17 + t * t * seed) % 293) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn scores_do_not_depend_on_batch_mates(
        lens in prop::collection::vec(prop_oneof![1usize..60, 1usize..=512], 1..40),
        threads in 1usize..5,
    ) {
        let dtypes = [Dtype::F32, Dtype::Bf16, Dtype::Int8].into_iter();
        for (dtype, isa) in dtypes.flat_map(|dtype| Isa::distinct(dtype).map(move |isa| (dtype, isa))) {
            let lens = if isa == Isa::Portable { &lens[..lens.len().min(5)] } else { &lens[..] };
            let (mut one, mut many) = (model(isa, dtype, 1), model(isa, dtype, threads));
            let width = one.width();
            let mut batch = Packed::with_capacity(0, 0);
            for (i, len) in lens.iter().enumerate() {
                batch.push(&sequence(*len, i), len / 3);
            }
            let together = score(many.as_mut(), &batch);
            prop_assert_eq!(&together, &score(many.as_mut(), &batch), "{:?} {:?} a second time", isa, dtype);
            for (i, len) in lens.iter().enumerate() {
                let mut alone = Packed::with_capacity(0, 0);
                alone.push(&sequence(*len, i), len / 3);
                let bits = score(one.as_mut(), &alone);
                prop_assert_eq!(&bits[..], &together[i * width..][..width], "{:?} {:?} sequence {}", isa, dtype, i);
            }
        }
    }
}

#[test]
fn an_empty_batch_has_no_scores() {
    let batch = Packed::with_capacity(0, 0);
    assert!(score(model(Isa::detect(), Dtype::F32, 2).as_mut(), &batch).is_empty());
}

#[test]
fn a_batch_that_does_not_fit_the_model_is_a_device_fault_not_a_panic() {
    let mut model = model(Isa::detect(), Dtype::F32, 2);
    let width = model.width();
    let mut good = Packed::with_capacity(0, 0);
    good.push(&[1, 2, 3], 2);
    let broken: [(&str, Damage); 6] = [
        ("an unknown word", |batch| batch.input_ids[1] = 293),
        ("an unknown type", |batch| batch.token_type_ids[0] = 2),
        ("a position past the table", |batch| batch.position_ids[2] = 512),
        ("an empty sequence", |batch| batch.cu_seqlens = vec![0, 0, 3]),
        ("rows of no sequence", |batch| batch.cu_seqlens = vec![0, 2]),
        ("arrays of different lengths", |batch| _ = batch.position_ids.pop()),
    ];
    for (what, damage) in broken {
        let mut batch = good.clone();
        damage(&mut batch);
        let mut out = vec![0.0; batch.num_sequences() * width];
        assert!(model.score(&batch, &mut out).is_err(), "{what}");
    }
    assert!(model.score(&good, &mut vec![0.0; width + 1]).is_err(), "room of another size");
    assert!(model.score(&good, &mut vec![0.0; width]).is_ok(), "the model lives on");
}

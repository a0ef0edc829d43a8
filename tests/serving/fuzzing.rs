//! The committed corpus of `fuzz/`, through the functions that fuzzing calls.

#[path = "../../fuzz/src/targets/mod.rs"]
mod targets;

use std::path::Path;

#[test]
fn no_input_of_the_corpus_breaks_a_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let inputs = std::fs::read_dir(corpus.join(name)).expect("every target has a corpus");
        let mut num_inputs = 0;
        for input in inputs {
            let path = input.unwrap().path();
            // What libtest shows of a failing test ends with the input.
            println!("{}", path.display());
            target(&std::fs::read(path).unwrap());
            num_inputs += 1;
        }
        assert!(num_inputs > 0, "{name} has no input");
    }
}

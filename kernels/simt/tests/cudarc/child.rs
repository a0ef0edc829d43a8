//! Each test in a process of its own: a driver's state, and its switches, belong to the process.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

/// Set in the child; nothing else tells it from the test that started it.
const CHILD: &str = "SIMT_TEST_CHILD";

/// A folder that a loader finds the emulator in under the names of NVIDIA's libraries.
static LIBRARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = std::env::current_exe().expect("the test's own path");
    let library = test.with_file_name("libsimt.so");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("libraries");
    std::fs::create_dir_all(&folder).expect("a folder for links");
    for name in ["libcuda.so.1", "libcublasLt.so.12"] {
        let link = folder.join(name);
        // Left by an earlier run, perhaps of another profile.
        let _ = std::fs::remove_file(&link);
        symlink(&library, &link).expect("a link to the emulator");
    }
    folder
});

/// Runs `body` as the test `name` in a new process, where cudarc finds the emulated libraries and the
/// driver reads `switches`.
#[track_caller]
pub fn with_driver(name: &str, switches: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let mut child = Command::new(std::env::current_exe().expect("the test's own path"));
    child.args([name, "--exact", "--nocapture"]).env(CHILD, "1");
    child.env("LD_LIBRARY_PATH", &*LIBRARIES).envs(switches.iter().copied());
    let output = child.output().expect("the test starts itself");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let ran = output.status.success() && text.contains("1 passed");
    assert!(ran, "{name} with {switches:?}: {}\n{text}{errors}", output.status);
}

#[test]
#[should_panic(expected = "the promise was broken")]
fn a_broken_promise_in_the_child_fails_the_test() {
    let name = "child::a_broken_promise_in_the_child_fails_the_test";
    // The child is expected to panic too, so it fails by not doing so.
    with_driver(name, &[], || println!("the promise was broken"));
}

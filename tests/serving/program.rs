//! The built program, without a developer's own settings.

use std::process::Command;

pub fn rerankd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rerankd"));
    // A developer's own settings must not decide a test.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RERANKD_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.env("HF_HUB_OFFLINE", "1");
    command
}

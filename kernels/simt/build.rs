//! The library bears the name that CUDA programs look for first, so that a process which has opened it by
//! its path finds it again under that name.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}

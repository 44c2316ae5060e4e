//! With the feature `train`, lets the binary and the tests find libtorch where they were linked
//! to it, so that nobody has to set `LD_LIBRARY_PATH`, and its GPUs, where it has CUDA.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_TRAIN").is_none() {
        return;
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // Where it is unset, torch-sys looks in the system's library path, and so does the loader.
    let own = env::var_os("LIBTORCH").map(|libtorch| Path::new(&libtorch).join("lib"));
    if let Some(lib) = &own {
        link(&["-rpath", &lib.to_string_lossy()]);
    }
    // Nobody asks for a symbol of it, so that the linker would drop it; GPUs are there once it is loaded.
    let cuda = own.unwrap_or_else(|| PathBuf::from("/usr/lib")).join("libtorch_cuda.so");
    if cuda.exists() {
        link(&["--push-state", "--no-as-needed", &cuda.to_string_lossy(), "--pop-state"]);
    }
}

/// Hands arguments to the linker as they are, whatever characters a path has.
fn link(arguments: &[&str]) {
    for argument in arguments {
        println!("cargo:rustc-link-arg=-Xlinker");
        println!("cargo:rustc-link-arg={argument}");
    }
}

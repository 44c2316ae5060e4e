//! With the feature `train`, lets the binary and the tests find libtorch where they were linked
//! to it, so that nobody has to set `LD_LIBRARY_PATH`, and its GPUs, where it has CUDA.

use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_TRAIN").is_none() {
        return;
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // Where it is unset, torch-sys looks in the system's library path, and so does the loader.
    if let Some(libtorch) = env::var_os("LIBTORCH") {
        let lib = Path::new(&libtorch).join("lib");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        // Nobody asks for a symbol of it, so that the linker would drop it; GPUs are there once it is loaded.
        let cuda = lib.join("libtorch_cuda.so");
        if cuda.exists() {
            println!("cargo:rustc-link-arg=-Wl,--push-state,--no-as-needed,{},--pop-state", cuda.display());
        }
    }
}

//! Data flows one way: what each module may name, held by reading the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules in the order in which data flows; each may import only what stands before it.
const ORDER: [&str; 23] = [
    "process",
    "console",
    "files",
    "plot",
    "space",
    "image",
    "data",
    "checkpoint",
    "import",
    "slice",
    "onnx",
    "runtime",
    "calibrate",
    "deploy",
    "evaluate",
    "search",
    "profile",
    "train",
    "metrics",
    "engine",
    "serve",
    "load",
    "cli",
];

/// Every source file with the module it belongs to and its text up to its tests.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
                let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
                files.push((module, path, code.to_owned()));
            }
        }
    }
    assert!(files.len() > 40, "only {} sources found", files.len());
    files
}

/// The text without its comments, in which prose may name anything.
fn code_only(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn position(module: &str) -> Option<usize> {
    ORDER.iter().position(|other| *other == module)
}

#[test]
fn every_module_has_its_place_in_lib_rs() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, ORDER, "lib.rs lists the modules in the order of the data flow");
}

#[test]
fn modules_import_only_what_stands_before_them() {
    for (module, path, text) in sources() {
        let Some(own) = position(&module) else { continue };
        for (number, line) in code_only(&text).lines().enumerate() {
            for (start, _) in line.match_indices("crate::") {
                let name: String = line[start + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(imported) = position(&name) else { continue };
                assert!(imported <= own, "{}:{}: {module} must not import {name}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn only_the_module_in_charge_names_each_library() {
    // A library, and the modules that may name it.
    let rules: [(&str, &[&str]); 8] = [
        ("tch::", &["train"]),
        ("ort::", &["runtime"]),
        ("axum::", &["serve"]),
        ("hyper", &["serve", "load"]),
        ("utoipa", &["serve"]),
        ("StatusCode", &["serve"]),
        ("prost", &["onnx"]),
        ("prometheus", &["metrics", "serve"]),
    ];
    for (module, path, text) in sources() {
        let code = code_only(&text);
        for (library, allowed) in rules {
            let named = code.match_indices(library).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            assert!(!named || allowed.contains(&module.as_str()), "{}: {module} must not name {library}", path.display());
        }
    }
}

#[test]
fn only_one_file_of_the_server_knows_status_codes() {
    for (module, path, text) in sources() {
        let knows = module == "serve" && code_only(&text).contains("StatusCode::");
        assert!(!knows || path.ends_with("serve/error.rs"), "{}: status codes belong to serve/error.rs", path.display());
    }
}

#[test]
fn the_space_does_no_input_or_output() {
    for (_, path, text) in sources().into_iter().filter(|(module, ..)| module == "space") {
        for forbidden in ["std::fs", "std::io", "std::net", "std::env", "println!", "Tensor {", "safetensors"] {
            assert!(!code_only(&text).contains(forbidden), "{}: the space must not use {forbidden}", path.display());
        }
    }
}

#[test]
fn slicing_is_pure() {
    for (_, path, text) in sources().into_iter().filter(|(module, ..)| module == "slice") {
        for forbidden in ["std::fs", "std::io", "std::env", "static ", "Mutex", "println!", "rand"] {
            assert!(!code_only(&text).contains(forbidden), "{}: slicing must not use {forbidden}", path.display());
        }
    }
}

#[test]
fn unsafe_code_lives_in_one_small_file() {
    let files: Vec<_> = sources().into_iter().filter(|(_, _, text)| code_only(text).contains("unsafe {")).collect();
    for (_, path, text) in &files {
        assert!(path.ends_with("src/process.rs"), "{}: unsafe code", path.display());
        assert!(text.lines().count() < 60, "the unsafe module stays small");
    }
}

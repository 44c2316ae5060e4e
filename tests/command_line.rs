//! The command line as programs beside it see it.

use std::process::{Command, Stdio};

fn bignas(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bignas"));
    command.args(arguments);
    command
}

/// As `bignas … | head` is: whoever reads goes away before all is written.
#[test]
fn a_reader_that_goes_away_is_no_crash() {
    for arguments in [&["openapi"][..], &["inspect", "--space", "bignas"]] {
        let mut running = bignas(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        drop(running.stdout.take());
        let output = running.wait_with_output().expect("ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn a_network_has_as_many_classes_as_a_model_may() {
    for (classes, allowed) in [("1", false), ("2", true), ("100000", true), ("100001", false), ("18446744073709551615", false)] {
        let output = bignas(&["inspect", "--space", "fashion-mnist", "--child", "smallest", "--classes", classes]).output().expect("runs");
        assert_eq!(output.status.success(), allowed, "{classes}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The pinned ONNX Runtime has the processor only: an accelerator that is asked for is an error at start, not a slow server.
#[test]
fn an_accelerator_that_does_not_work_is_said() {
    for (device, flags) in [("cuda", &[][..]), ("tensorrt", &["--precision", "float32"])] {
        let output = bignas(&["serve", "--port", "0", "--device", device]).args(flags).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(&format!("{device} does not work here")), "{said}");
    }
    let output = bignas(&["serve", "--port", "0", "--device", "cuda", "--precision", "float16"]).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--device cuda computes in float32 only"), "{said}");
}

/// There is no GPU where the tests run, or no libtorch that could use it.
#[cfg(feature = "train")]
#[test]
fn a_gpu_that_is_missing_is_said() {
    // Which of the two it is, only the libtorch that this was built with can tell.
    let with_cuda = std::env::var_os("LIBTORCH").is_some_and(|path| std::path::Path::new(&path).join("lib/libtorch_cuda.so").exists());
    let expected = match bignas::train::gpu() {
        Ok(_) => return,
        Err(_) if with_cuda => "libtorch sees no GPU: it takes one that nvidia-smi lists",
        Err(_) => "built without libtorch's CUDA: build it with LIBTORCH naming a libtorch that has it",
    };
    let directory = tempfile::tempdir().expect("a directory");
    let image = image::GrayImage::new(28, 28);
    for split in ["train", "test"] {
        let folder = directory.path().join(split).join("only");
        std::fs::create_dir_all(&folder).expect("creates");
        image.save(folder.join("0.png")).expect("saves");
    }
    let output = bignas(&["train", "--data", ".", "--run", "run", "--model", "model", "--device", "cuda"])
        .current_dir(directory.path())
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(expected), "{said}");
}

/// `docs/operations.md` describes every flag of the server, and no other.
#[test]
fn every_flag_of_the_server_is_described() {
    let output = bignas(&["serve", "--help"]).output().expect("runs");
    let help = String::from_utf8(output.stdout).expect("text");
    let flags = |text: &str| -> std::collections::BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        words.filter(|word| word.starts_with("--") && word.len() > 3).map(str::to_owned).collect()
    };
    let offered = flags(&help.lines().filter(|line| line.trim_start().starts_with('-')).collect::<Vec<_>>().join("\n"));
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).expect("the page");
    let (_, settings) = page.split_once("## Settings").expect("a table of settings");
    let described = flags(settings.split_once("## Replacing").expect("it ends").0);
    let described = |flag: &String| described.contains(flag) || flag == "--help";
    assert_eq!(offered.iter().filter(|flag| !described(flag)).collect::<Vec<_>>(), Vec::<&String>::new(), "not in docs/operations.md");
    for flag in flags(settings.split_once("## Replacing").expect("it ends").0) {
        assert!(offered.contains(&flag), "docs/operations.md has {flag}, the program has not");
    }
}

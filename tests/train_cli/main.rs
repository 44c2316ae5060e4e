//! Training by the real binary, from a folder of images to models, families and analyses.
#![cfg(feature = "train")]

mod analyses;
mod runs;
mod surroundings;
mod whole;

use std::fs;
use std::path::Path;
use std::process::Command;

use image::{GrayImage, Luma};

const CLASSES: [&str; 3] = ["across", "down", "slanted"];

/// Stripes four pixels wide, at a seeded place; their direction is the class.
fn stripes(class: usize, seed: u32) -> GrayImage {
    let direction = [(1, 0), (0, 1), (1, 1)][class];
    let bright = |x, y| (x * direction.0 + y * direction.1 + seed) % 8 < 4;
    GrayImage::from_fn(28, 28, |x, y| Luma([if bright(x, y) { 200 } else { 20 }]))
}

/// Eight test images a class, and so many to train on.
fn write_images(directory: &Path, train: u32) {
    for (split, count) in [("train", train), ("test", 8)] {
        for (class, name) in CLASSES.iter().enumerate() {
            let folder = directory.join(split).join(name);
            fs::create_dir_all(&folder).expect("creates");
            for seed in 0..count {
                stripes(class, seed).save(folder.join(format!("{seed:02}.png"))).expect("saves");
            }
        }
    }
}

fn bignas(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bignas"));
    command.current_dir(directory).args(arguments).env("OMP_WAIT_POLICY", "passive").env("BIGNAS_THREADS", "1");
    command
}

/// Runs to a good end and returns the standard output.
fn succeed(mut command: Command) -> String {
    let output = command.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

//! What several tests share: ONNX Runtime, and images that look like images.

use std::path::PathBuf;

use bignas::image::Patch;
use bignas::runtime::{Runtime, default_library};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// ONNX Runtime, where `ORT_DYLIB_PATH` says or where `make fetch` puts it.
pub fn runtime() -> Runtime {
    let path = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).or_else(default_library);
    Runtime::load(&path.expect("a home directory")).expect("ONNX Runtime; `make fetch` gets it")
}

/// A seeded patch as natural images are: smooth shapes of different sizes, a little noise, now and then clipped.
pub fn natural_patch(size: u32, channels: usize, seed: u64) -> Patch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut waves = vec![[0.0f32; 5]; 12];
    for (octave, wave) in waves.iter_mut().enumerate() {
        let frequency = 2f32.powi(octave as i32 / 3);
        let mut draw = |low: f32, high: f32| low + (high - low) * rng.random::<f32>();
        let angle = draw(0.0, std::f32::consts::TAU);
        *wave = [frequency * angle.cos(), frequency * angle.sin(), draw(0.0, 6.0), draw(0.0, 6.0), draw(30.0, 90.0) / frequency.sqrt()];
    }
    let level: f32 = 60.0 + 130.0 * rng.random::<f32>();
    let mut data = Vec::with_capacity(size as usize * size as usize * channels);
    for (y, x) in (0..size).flat_map(|y| (0..size).map(move |x| (y, x))) {
        let (v, u) = (y as f32 / size as f32 * 6.0, x as f32 / size as f32 * 6.0);
        for channel in 0..channels {
            let wave = |[fy, fx, phase, shift, height]: &[f32; 5]| height * (fy * v + fx * u + phase + shift * channel as f32).sin();
            let value = level + waves.iter().map(wave).sum::<f32>() * 0.5 + 12.0 * (rng.random::<f32>() - 0.5);
            data.push(value.clamp(0.0, 255.0) as u8);
        }
    }
    Patch { size, channels, data }
}

//! The most that any server could do with one exported child: decode, crop, resize and infer in a loop, without HTTP.
//!
//! ```sh
//! cargo run --release --example in_process -- MODEL CHILD.onnx THREADS WARM_UP_S SECONDS IMAGE...
//! ```
//!
//! Each thread has a session of its own that computes on one thread, and takes the images in turn. Prints one line of JSON: answers
//! a second, and the class with the highest logit of every image. `bench/serving.py` compares servers with it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use bignas::checkpoint::Model;
use bignas::evaluate::best;
use bignas::image::{DecodeLimits, Preprocessing, decode};
use bignas::runtime::{Network, Runtime, default_library};

/// Far more than any image here has.
const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 32 << 20 };

fn main() -> anyhow::Result<()> {
    bignas::process::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, onnx, threads, warm_up_s, seconds, images @ ..] = &arguments[..] else {
        anyhow::bail!("usage: in_process MODEL CHILD.onnx THREADS WARM_UP_S SECONDS IMAGE...");
    };
    anyhow::ensure!(!images.is_empty(), "name an image");
    let library = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).or_else(default_library).context("set ORT_DYLIB_PATH")?;
    let (runtime, preprocessing) = (Runtime::load(&library)?, Model::open(model.as_ref())?.card.preprocessing);
    let graph = std::fs::read(onnx).with_context(|| format!("cannot read {onnx}"))?;
    let images: Vec<Vec<u8>> = images.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    let length = |text: &str| text.parse().map(Duration::from_secs_f64);
    let (warm_up, length, threads) = (length(warm_up_s)?, length(seconds)?, threads.parse::<usize>()?);

    let networks: Vec<Network> = (0..threads).map(|_| Network::load(&runtime, &graph, onnx, 1)).collect::<Result<_, _>>()?;
    let (preprocessing, images) = (&preprocessing, &images);
    let counts: Vec<(usize, Vec<usize>)> = std::thread::scope(|scope| {
        let spawn = |network| scope.spawn(move || work(network, preprocessing, images, warm_up, length));
        let running: Vec<_> = networks.into_iter().map(spawn).collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect::<anyhow::Result<_>>()
    })?;
    let answers: usize = counts.iter().map(|(count, _)| count).sum();
    println!("{}", serde_json::json!({ "throughput": answers as f64 / length.as_secs_f64(), "top1": counts[0].1 }));
    Ok(())
}

/// Images that one thread classifies in `length` once it is warm, and what it finds in each.
fn work(
    mut network: Network,
    preprocessing: &Preprocessing,
    images: &[Vec<u8>],
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<(usize, Vec<usize>)> {
    let top1 = images.iter().map(|image| classify(&mut network, preprocessing, image)).collect::<anyhow::Result<_>>()?;
    let begin = Instant::now();
    let mut count = 0;
    for image in images.iter().cycle() {
        let now = begin.elapsed();
        if now >= warm_up + length {
            break;
        }
        classify(&mut network, preprocessing, image)?;
        count += usize::from(now >= warm_up);
    }
    Ok((count, top1))
}

fn classify(network: &mut Network, preprocessing: &Preprocessing, bytes: &[u8]) -> anyhow::Result<usize> {
    let patch = decode(bytes, &LIMITS, preprocessing.channels(), preprocessing.background)?.centre_crop(preprocessing)?;
    let [channels, side, _] = network.input_shape();
    let mut input = vec![0.0; channels * side * side];
    patch.write_input(side as u32, preprocessing, &mut input)?;
    Ok(best(&network.run(&input, 1)?, 1)[0])
}

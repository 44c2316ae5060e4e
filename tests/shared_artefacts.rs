//! Servers share what is expensive: built children and statistics lie in an object store, and nothing depends on it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bignas::engine::{Engine, Source};
use common::{TestModel, engine, ids, patch};

/// A server with a cache of its own, and the store that it shares.
fn server(model: &TestModel, own: &Path, shared: &Path) -> Engine {
    engine(model, own, &["--artefact-store", &format!("file://{}", shared.display())])
}

fn outcomes(engine: &Engine, outcome: &str) -> u64 {
    engine.metrics().artefacts.with_label_values(&[outcome]).get()
}

/// What is shared is written behind the answer's back.
async fn wait_until_stored(engine: &Engine, objects: u64) {
    let begin = Instant::now();
    while outcomes(engine, "stored") < objects {
        assert!(begin.elapsed() < Duration::from_secs(30), "{} were stored", outcomes(engine, "stored"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The objects in the store whose names end so.
fn objects(shared: &Path, end: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(shared).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.to_str().unwrap().ends_with(end)).collect()
}

/// A model, and a store in which a first server has left one child, with its logits for a patch.
struct Shared {
    model: TestModel,
    directory: tempfile::TempDir,
    logits: Vec<Vec<f32>>,
}

impl Shared {
    async fn new() -> Self {
        let (model, directory) = (TestModel::new(), tempfile::tempdir().unwrap());
        fs::create_dir(directory.path().join("store")).unwrap();
        let first = server(&model, &directory.path().join("first"), &directory.path().join("store"));
        let built = first.classify(ids(&first)[0], vec![patch(7)]).await.unwrap();
        assert_eq!(built.source, Source::Built);
        assert_eq!((outcomes(&first, "hit"), outcomes(&first, "failed")), (0, 0));
        wait_until_stored(&first, 2).await;
        Self { model, logits: built.logits, directory }
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// The next server's answer, and the server.
    async fn next(&self) -> (Source, Engine) {
        let second = server(&self.model, &self.directory.path().join("second"), &self.store());
        let answer = second.classify(ids(&second)[0], vec![patch(7)]).await.unwrap();
        assert_eq!(answer.logits, self.logits);
        (answer.source, second)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_server_serves_what_the_first_built() {
    let shared = Shared::new().await;
    let (source, second) = shared.next().await;
    assert_eq!(source, Source::Shared);
    assert_eq!(outcomes(&second, "hit"), 1);
    assert_eq!(second.metrics().builds.with_label_values(&["ok"]).get(), 0);
    drop(second);
    fs::remove_dir_all(shared.store()).unwrap();
    let (source, _) = shared.next().await;
    assert_eq!(source, Source::Disk, "it keeps what it found");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_alone_spare_the_recalibration() {
    let shared = Shared::new().await;
    for end in [".onnx", ".json"] {
        objects(&shared.store(), end).iter().for_each(|object| fs::remove_file(object).unwrap());
    }
    // Whoever needs no images can do without them.
    fs::remove_file(shared.model.path().join("calibration.safetensors")).unwrap();
    let (source, second) = shared.next().await;
    assert_eq!(source, Source::Built);
    assert_eq!((outcomes(&second, "miss"), outcomes(&second, "hit")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_noticed_and_built_over() {
    type Damage = fn(&[u8]) -> Vec<u8>;
    let cut: Damage = |bytes| bytes[..bytes.len() / 2].to_vec();
    let swapped: Damage = |bytes| bytes.iter().rev().copied().collect();
    // A value of the last tensor: the file is whole, and its numbers are numbers.
    let flipped: Damage = |bytes| bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at + 3 == bytes.len())).collect();
    let statistics = ".statistics.safetensors";
    for (end, damage) in [(".onnx", cut), (".onnx", swapped), (".json", cut), (statistics, cut), (statistics, flipped)] {
        let shared = Shared::new().await;
        if end == statistics {
            objects(&shared.store(), ".json").iter().for_each(|object| fs::remove_file(object).unwrap());
        }
        for object in objects(&shared.store(), end) {
            let bytes = fs::read(&object).unwrap();
            fs::write(&object, damage(&bytes)).unwrap();
        }
        let (source, second) = shared.next().await;
        assert_eq!(source, Source::Built, "{end}");
        assert!(outcomes(&second, "failed") > 0, "{end}");
        wait_until_stored(&second, 1).await;
        drop(second);
        fs::remove_dir_all(shared.directory.path().join("second")).unwrap();
        assert_eq!(shared.next().await.0, Source::Shared, "{end}: what was built anew is shared");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_costs_nobody_an_answer() {
    let (model, directory) = (TestModel::new(), tempfile::tempdir().unwrap());
    let file = directory.path().join("file");
    fs::write(&file, b"no directory").unwrap();
    let alone = server(&model, &directory.path().join("own"), &file);
    let answer = alone.classify(ids(&alone)[0], vec![patch(7)]).await.unwrap();
    assert_eq!(answer.source, Source::Built);
}

//! The engine's workers: what they decode, what a panic costs, and how the cores are divided among them.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bignas::engine::{ClassifyError, Engine, Picture};
use bignas::metrics::Metrics;
use clap::Parser;
use common::{Flags, TestModel, engine, ids, patch, runtime};

/// A panic costs the requests of its own run; the worker is there again for the next.
#[tokio::test(flavor = "multi_thread")]
async fn an_injected_panic_costs_only_its_own_run() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--inject-panic-every-ms", "20"]);
    let id = ids(&engine)[0];
    let (mut answered, mut lost) = (0, 0);
    let begin = Instant::now();
    while lost < 3 || answered < 3 {
        assert!(begin.elapsed() < Duration::from_secs(60), "{answered} answered, {lost} lost");
        match engine.classify(id, vec![patch(1)]).await {
            Ok(_) => answered += 1,
            Err(ClassifyError::WorkerLost) => lost += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(engine.metrics().panics.get(), lost);
}

/// What runs at the same time on the other worker is none the worse for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_leaves_the_run_beside_it_alone() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    common::measure(&model, cache.path()).await;
    // As far as anybody knows, running together saves nothing, so that each run is one request's.
    common::claim_latencies(cache.path(), |_| 20.0);
    let engine = engine(&model, cache.path(), &["--inject-panic-every-ms", "20"]);
    let id = *ids(&engine).last().unwrap();
    engine.classify(id, vec![patch(0)]).await.ok();
    let (before, end) = (engine.metrics().panics.get(), Instant::now() + Duration::from_secs(2));
    let clients = (0..4).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let (mut answered, mut lost) = (0, 0);
            while Instant::now() < end {
                match engine.classify(id, vec![patch(1)]).await {
                    Ok(answer) => answered += answer.batch,
                    Err(ClassifyError::WorkerLost) => lost += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            (answered, lost)
        })
    });
    let (mut answered, mut lost) = (0, 0);
    for client in clients.collect::<Vec<_>>() {
        let (more, others) = client.await.unwrap();
        (answered, lost) = (answered + more, lost + others);
    }
    assert!(answered > 100 && lost > 10, "{answered} answered, {lost} lost");
    assert_eq!(engine.metrics().panics.get() - before, lost);
}

#[tokio::test]
async fn files_are_decoded_by_the_engine_and_named_where_they_cannot_be() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &[]);
    let id = ids(&engine)[0];
    let mut png = Vec::new();
    let picture = image::GrayImage::from_pixel(28, 28, image::Luma([9]));
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    let file = Picture::File(png.clone().into());
    let answer = engine.classify(id, vec![file.clone(), Picture::Patch(patch(9))]).await.unwrap();
    assert_eq!(answer.logits[0], answer.logits[1]);
    assert!(answer.decode > Duration::ZERO);
    let truncated = Picture::File(png[..png.len() - 20].to_vec().into());
    for broken in [truncated, Picture::File("text".into())] {
        let error = engine.classify(id, vec![file.clone(), broken]).await.unwrap_err();
        assert!(error.to_string().starts_with("image 2: "), "{error}");
    }
}

/// As a container sees it that may use one core of several.
#[tokio::test]
async fn a_process_of_one_core_has_one_worker_with_one_thread() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|&core| all.is_set(core)).unwrap());
    // Of this thread, and of those that it starts.
    sched_setaffinity(None, &one).unwrap();
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let options = Flags::parse_from(["test", "--cache-dir", cache.path().to_str().unwrap(), "--warm-up", "true"]).options;
    let engine = Engine::start(model.open(), runtime(), Arc::new(Metrics::new().unwrap()), options, None).unwrap();
    while !engine.ready() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let device = engine.device();
    assert_eq!((device.workers, device.threads_per_run), (1, 1));
}

/// On two threads a run, and again on one: the same answers, and what was measured for either is kept.
#[tokio::test]
async fn runs_may_have_several_threads() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let mut answers = Vec::new();
    for (flags, threads) in [(["--workers", "1", "--threads-per-run", "2"], 2), (["--workers", "2", "--threads-per-run", "1"], 1)] {
        let engine = engine(&model, cache.path(), &flags);
        assert_eq!(engine.device().threads_per_run, threads);
        answers.push(engine.classify(ids(&engine)[2], vec![patch(7), patch(9)]).await.unwrap().logits);
    }
    for (one, other) in answers[0].iter().flatten().zip(answers[1].iter().flatten()) {
        assert!((one - other).abs() < 1e-4, "{answers:?}");
    }
}

/// Where no flag says how the cores are divided, measurements do, before the engine is ready.
#[tokio::test(flavor = "multi_thread")]
async fn cores_are_divided_as_measured() {
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let options = Flags::parse_from(["test", "--cache-dir", cache.path().to_str().unwrap()]).options;
    let start = || Engine::start(model.open(), runtime(), Arc::new(Metrics::new().unwrap()), options.clone(), None).unwrap();
    let first = start();
    while !first.ready() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cores = std::thread::available_parallelism().unwrap().get();
    let device = first.device();
    assert!(device.workers * device.threads_per_run <= cores, "{device:?} on {cores} cores");
    drop(first);
    // What runs take is told anew: two threads are more than twice as fast as one.
    let tables: Vec<_> = std::fs::read_dir(cache.path().join("latency")).unwrap().map(|file| file.unwrap().path()).collect();
    for path in &tables {
        let mut table: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let faster = table["device"].as_str().unwrap().contains("threads a run: 2");
        for runs in table["runs_ms"].as_object_mut().unwrap().values_mut() {
            *runs = serde_json::json!([[1, if faster { 1.0 } else { 10.0 }]]);
        }
        std::fs::write(path, table.to_string()).unwrap();
    }
    let second = start();
    assert!(second.ready(), "all is measured");
    let expected = if cores < 2 { (1, 1) } else { (cores / 2, 2) };
    assert_eq!((second.device().workers, second.device().threads_per_run), expected);
    assert_eq!(second.children()[0].latency_ms, Some(10.0), "on one thread");
    second.classify(ids(&second)[0], vec![patch(1)]).await.unwrap();
}

/// The scheduler puts workers on one core where a builder has the other; so each has a core of its own as long as a child is built.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_keeps_to_its_core_while_a_child_is_built() {
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 || cores_of("thread-self").len() != cores {
        // There is nothing to choose, or a quota that lets nobody have a core alone.
        return;
    }
    let (model, cache) = (TestModel::new(), tempfile::tempdir().unwrap());
    let engine = engine(&model, cache.path(), &["--threads-per-run", "1"]);
    let hot = ids(&engine)[0];
    let mut choices = common::space().smallest().choices().clone();
    choices.stages[2] = bignas::space::StageChoices::uniform(2, 20, 3, 4);
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < Duration::from_secs(60), "no worker is bound");
        let building = tokio::spawn({
            let (engine, choices) = (engine.clone(), choices.clone());
            async move { engine.add(choices).await.unwrap().status.child.id() }
        });
        while !building.is_finished() {
            engine.classify(hot, vec![patch(1)]).await.unwrap();
            if workers().any(|worker| cores_of(&worker).len() == 1) {
                return;
            }
        }
        // What is removed is built anew.
        engine.remove(building.await.unwrap()).unwrap();
    }
}

/// The workers of this process, as the system lists them.
fn workers() -> impl Iterator<Item = String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| format!("self/task/{}", task.unwrap().file_name().display()));
    tasks.filter(|task| std::fs::read_to_string(format!("/proc/{task}/comm")).is_ok_and(|name| name.starts_with("worker-")))
}

/// The cores that a thread of `/proc` may run on; none of one that is gone.
fn cores_of(thread: &str) -> Vec<usize> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default().trim().to_owned();
    let ranges = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

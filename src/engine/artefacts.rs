//! What servers share: built children, and the batch-norm statistics they were made with, in an object store.
//!
//! A replica that finds a child there need not build it, and one with another exporter that finds its statistics need not
//! recalibrate it. Nothing depends on the store: one that is down, slow or damaged costs a child at most twice [`READ_LIMIT`], for its
//! graph and for its statistics, and after a failure it is left alone for [`PAUSE`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, parse_url_opts};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use url::Url;

use super::store::Receipt;
use crate::checkpoint::BnStats;
use crate::metrics::Metrics;
use crate::space::Plan;

/// How long a child waits for a read at most; building one takes longer as a rule.
const READ_LIMIT: Duration = Duration::from_millis(1500);
/// How long a write may take, with the tries again that the client makes.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// How long the store is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(15);
/// Writes under way at a time; what is built beyond that is not shared.
const WRITES: usize = 8;
/// The largest object that is read: no child comes near.
const LARGEST_BYTES: u64 = 1 << 30;
/// Environment variables that say how to reach a store begin with one of these.
const SETTINGS: [&str; 3] = ["aws_", "azure_", "google_"];

/// An object store that cannot be used.
#[derive(Debug, Error)]
pub enum ArtefactError {
    /// The URL or the settings in the environment are refused.
    #[error("--artefact-store {url} cannot be used: give file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        #[source]
        source: Box<object_store::Error>,
    },
    /// There is nothing to run requests on.
    #[error("the artefact store needs a tokio runtime around the engine's start")]
    Runtime(#[from] tokio::runtime::TryCurrentError),
}

/// An object that is there and cannot be used, or a store that does not answer.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("no answer within {} s", .0.as_secs_f64())]
    Slow(Duration),
    #[error("damaged: {0}")]
    Damaged(String),
}

/// Built children and statistics that servers share.
#[derive(Debug)]
pub(super) struct Artefacts {
    shared: Arc<Shared>,
    handle: Handle,
    writes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    store: Box<dyn ObjectStore>,
    prefix: Path,
    metrics: Arc<Metrics>,
    begin: Instant,
    /// Until when reads are left out, in milliseconds after `begin`.
    paused_until_ms: AtomicU64,
}

impl Artefacts {
    /// Opens the store at `url`; credentials, endpoint and region come from the environment, as the provider's own tools
    /// have them. Whether it answers shows at the first read.
    ///
    /// # Errors
    /// [`ArtefactError`] where the URL or a setting is refused, or outside a tokio runtime.
    pub(super) fn open(url: &Url, metrics: Arc<Metrics>) -> Result<Self, ArtefactError> {
        let settings = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let settings = settings.filter(|(name, _)| SETTINGS.iter().any(|prefix| name.starts_with(prefix)));
        let refused = |source| ArtefactError::Url { url: url.to_string(), source: Box::new(source) };
        let (store, prefix) = parse_url_opts(url, settings).map_err(refused)?;
        let shared = Shared { store, prefix, metrics, begin: Instant::now(), paused_until_ms: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared), handle: Handle::try_current()?, writes: Arc::new(Semaphore::new(WRITES)) })
    }

    /// A built child under `key`, verified. Called from threads that may wait.
    pub(super) fn read(&self, key: &str) -> Option<(Vec<u8>, Receipt)> {
        let shared = &self.shared;
        self.wait(key, async {
            let Some(receipt) = shared.get(&format!("{key}.json")).await? else { return Ok(None) };
            let receipt: Receipt = serde_json::from_slice(&receipt).map_err(|error| Fault::Damaged(error.to_string()))?;
            let Some(onnx) = shared.get(&format!("{key}.onnx")).await? else { return Ok(None) };
            receipt.check(key, &onnx).map_err(|problem| Fault::Damaged(problem.into()))?;
            Ok(Some((onnx.into(), receipt)))
        })
    }

    /// The statistics of the child of `plan` under `key`, verified.
    pub(super) fn read_statistics(&self, key: &str, plan: &Plan) -> Option<BnStats> {
        let shared = &self.shared;
        self.wait(key, async {
            let Some(bytes) = shared.get(&format!("{key}.statistics.safetensors")).await? else { return Ok(None) };
            BnStats::from_safetensors(&bytes, plan).map(Some).map_err(|error| Fault::Damaged(error.to_string()))
        })
    }

    /// Shares a built child, behind the caller's back: nobody waits for it.
    pub(super) fn write(&self, key: &str, onnx: Arc<Vec<u8>>, receipt: &Receipt) {
        // A receipt of strings and a number always serialises.
        let receipt = serde_json::to_vec_pretty(receipt).unwrap_or_default();
        let onnx = Bytes::from_owner(ArcBytes(onnx));
        // The receipt comes last: a graph without one does not count.
        self.put([(format!("{key}.onnx"), onnx), (format!("{key}.json"), receipt.into())].into());
    }

    /// Shares statistics, likewise.
    pub(super) fn write_statistics(&self, key: &str, statistics: &BnStats) {
        match statistics.to_safetensors() {
            Ok(bytes) => self.put(vec![(format!("{key}.statistics.safetensors"), bytes.into())]),
            Err(error) => tracing::warn!(key, %error, "statistics cannot be shared"),
        }
    }

    fn wait<T>(&self, key: &str, read: impl Future<Output = Result<Option<T>, Fault>>) -> Option<T> {
        let shared = &self.shared;
        if shared.is_paused() {
            shared.count("skipped");
            return None;
        }
        let outcome = self.handle.block_on(async { tokio::time::timeout(READ_LIMIT, read).await });
        match outcome.unwrap_or(Err(Fault::Slow(READ_LIMIT))) {
            Ok(found) => {
                shared.count(if found.is_some() { "hit" } else { "miss" });
                found
            }
            Err(fault) => {
                shared.count("failed");
                tracing::warn!(key, error = %fault, "the artefact store does not help; building here");
                if !matches!(fault, Fault::Damaged(_)) {
                    shared.pause();
                }
                None
            }
        }
    }

    fn put(&self, objects: Vec<(String, Bytes)>) {
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&self.writes).try_acquire_owned().ok().filter(|_| !shared.is_paused());
        let Some(permit) = permit else {
            shared.count("skipped");
            return;
        };
        self.handle.spawn(async move {
            let _permit = permit;
            let write = async {
                for (name, bytes) in objects {
                    shared.store.put(&shared.prefix.clone().join(name), bytes.into()).await?;
                }
                Ok(())
            };
            let outcome = tokio::time::timeout(WRITE_LIMIT, write).await;
            match outcome.unwrap_or(Err(Fault::Slow(WRITE_LIMIT))) {
                Ok(()) => shared.count("stored"),
                Err(error) => {
                    shared.count("failed");
                    shared.pause();
                    tracing::warn!(%error, "what was built here cannot be shared");
                }
            }
        });
    }
}

impl Shared {
    /// The object called `name`, or none where there is none.
    async fn get(&self, name: &str) -> Result<Option<Bytes>, Fault> {
        match self.store.get(&self.prefix.clone().join(name)).await {
            Ok(found) if found.meta.size > LARGEST_BYTES => Err(Fault::Damaged(format!("{} bytes are no child", found.meta.size))),
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn count(&self, outcome: &str) {
        self.metrics.artefacts.with_label_values(&[outcome]).inc();
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn pause(&self) {
        self.paused_until_ms.store(self.elapsed_ms() + PAUSE.as_millis() as u64, Ordering::Release);
    }

    fn is_paused(&self) -> bool {
        self.elapsed_ms() < self.paused_until_ms.load(Ordering::Acquire)
    }
}

/// Lets [`Bytes`] share what the engine holds.
struct ArcBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for ArcBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

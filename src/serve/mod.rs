//! HTTP on top of the engine.
//!
//! ```text
//! listen ─► layers ─► routes ─► request ─► engine ─► wire
//!                        └────────► error ──────────► wire
//! ```
//!
//! [`listen()`] owns the sockets; [`app`] is the router behind them and can be tested without any. Handlers are thin: they
//! read a request, ask the engine, and answer in the types of `wire`. Images are decoded and networks run on the engine's
//! workers; nothing here computes for long on an asynchronous thread: forms, and JSON up to 100 KiB, are all that is read there.

mod ask;
mod auth;
mod body;
mod browser_runtime;
mod children;
mod classify;
mod docs;
mod error;
mod etag;
mod health;
mod layers;
mod leftover;
mod listen;
mod model;
mod playground;
mod predictions;
mod reload;
mod request;
mod settings;
mod sockets;
mod stall;
mod trace;
mod wire;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::Semaphore;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use error::{ApiError, Code};
pub use listen::{hangups, listen};
pub use reload::{Opener, Server};
pub use settings::{AdminKey, AdminKeyError, ServeOptions};
pub use sockets::{BindError, Sockets, announcement};
pub use wire::{
    Asked, Base64Images, BudgetReport, ChildChoices, ChildDetails, ChildSummary, Children, ChildrenFilter, Classification, ClassifyForm,
    ClassifyJson, Device, ExampleDetails, File, Health, ImagePredictions, ModelDetails, NewChild, Prediction, Problem, Readiness, Smallest,
    SourceName, StateName, Timing,
};

use crate::engine::Engine;
use auth::Access;
use body::BodyLimits;

/// Graphs under way to clients at a time: each is in memory as a whole until its client has it. Further ones wait.
const DOWNLOADS: usize = 16;

/// The route whose metrics the alerts are about.
const CLASSIFY: &str = "/classify";

/// What all requests share; clones share it too.
#[derive(Debug, Clone)]
pub struct AppState(Arc<Shared>);

/// See [`AppState`].
#[derive(Debug, Clone)]
pub struct Shared {
    engine: Engine,
    access: Access,
    body_limits: BodyLimits,
    top_k: usize,
    timeout: std::time::Duration,
    draining: Arc<AtomicBool>,
    openapi: Bytes,
    /// A permit for each graph that may be under way to a client.
    downloads: Arc<Semaphore>,
    /// Where onnxruntime-web lies, if it is there.
    onnxruntime_web: Option<PathBuf>,
}

impl Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl AppState {
    /// The state of a server for `engine`.
    #[must_use]
    pub fn new(engine: Engine, options: &ServeOptions) -> Self {
        start_metrics(&engine);
        Self(Arc::new(Shared {
            access: Access::new(options.host, options.admin_key.clone()),
            body_limits: options.body_limits(),
            top_k: usize::try_from(options.top_k).unwrap_or(usize::MAX),
            timeout: options.timeout(),
            draining: Arc::default(),
            // A description made of strings always serialises.
            openapi: openapi().to_pretty_json().unwrap_or_default().into(),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            onnxruntime_web: options.onnxruntime_web.clone(),
            engine,
        }))
    }

    /// What answers.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same server with another engine.
    fn with(&self, engine: Engine) -> Self {
        start_metrics(&engine);
        Self(Arc::new(Shared { engine, ..Shared::clone(&self.0) }))
    }

    /// Whether nobody else uses this state.
    fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Says on `/readyz` that the server is going down; everything else goes on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Sets what never changes, and starts at zero what only this model's and this API's names can label.
fn start_metrics(engine: &Engine) {
    let (metrics, device) = (engine.metrics(), engine.device());
    let family = engine.children().into_iter().filter(|child| !child.added).map(|child| child.child.id().to_string());
    family.chain([classify::ADDED.to_owned()]).for_each(|child| drop(metrics.child_requests.with_label_values(&[&child])));
    Code::ALL.iter().for_each(|code| drop(metrics.problems.with_label_values(&[code.name()])));
    layers::STATUS_CLASSES.iter().for_each(|class| drop(metrics.http_requests.with_label_values(&[CLASSIFY, class])));
    drop(metrics.http_request_seconds.with_label_values(&[CLASSIFY]));
    metrics.execution_provider.with_label_values(&[&device.provider]).set(1);
}

/// The router with all routes and layers.
pub fn app(server: impl Into<Server>) -> Router {
    let (server, (router, _)) = (server.into(), api().split_for_parts());
    let state = server.state();
    let (metrics, timeout) = (Arc::clone(state.engine.metrics()), state.timeout);
    let router = router
        .merge(docs::pages())
        .merge(playground::pages())
        .merge(browser_runtime::files())
        .fallback(layers::unknown_route)
        .method_not_allowed_fallback(layers::method_not_allowed)
        .with_state(server);
    layers::apply(router, metrics, timeout)
}

/// The router with what orchestrators and monitoring ask for, and nothing else.
pub fn probes(server: impl Into<Server>) -> Router {
    let server = server.into();
    let state = server.state();
    let router = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(layers::unknown_route)
        .method_not_allowed_fallback(layers::method_not_allowed)
        .with_state(server);
    layers::apply(router, Arc::clone(state.engine.metrics()), state.timeout)
}

/// The description of the API, as it is served at `/openapi.json`.
#[must_use]
pub fn openapi() -> OpenApi {
    api().split_for_parts().1
}

/// Every route with its description.
fn api() -> OpenApiRouter<Server> {
    OpenApiRouter::with_openapi(docs::base())
        .routes(routes!(classify::classify))
        .routes(routes!(children::list, children::add))
        .routes(routes!(children::get, children::remove))
        .routes(routes!(children::onnx))
        .routes(routes!(model::show))
        .routes(routes!(model::example))
        .routes(routes!(reload::reload))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(docs::openapi_json))
}

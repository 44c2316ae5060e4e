//! Replacing the model under traffic: the new one is opened, checked and warmed beside the old, then takes over in one step.
//!
//! Whoever asks meanwhile, and whatever is in flight at that step, is answered by the old one. One that cannot be opened, or lacks a
//! child that it should have, changes nothing. Children are neither added nor removed meanwhile: the new one has read already which
//! there are, and what it has not read would be lost.

use std::error::Error;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{FromRef, State};
use tokio::sync::{Mutex, OwnedRwLockReadGuard};

use super::AppState;
use super::auth::Admin;
use super::docs::ReloadProblems;
use super::error::{ApiError, Code};
use super::wire::Readiness;
use crate::engine::{Engine, LAST_WAIT};

/// How often the new engine is asked whether it is ready.
const POLL: Duration = Duration::from_millis(20);

/// Opens the model anew, from where the server was told to take it, and starts an engine for it.
pub type Opener = Arc<dyn Fn() -> Result<Engine, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// A server whose model can be replaced; clones share everything.
#[derive(Clone)]
pub struct Server(Arc<Serving>);

/// See [`Server`].
struct Serving {
    current: RwLock<AppState>,
    opener: Option<Opener>,
    /// Held while a model is being replaced.
    replacing: Mutex<()>,
    /// Shared by those that add and remove children; held alone while a model is being replaced.
    changing: Arc<tokio::sync::RwLock<()>>,
    /// What runs beside it: an engine that is being warmed up to replace it, and those that it replaced, until their last request is
    /// answered.
    beside: RwLock<Vec<Engine>>,
}

/// A server of one model for good.
impl From<AppState> for Server {
    fn from(state: AppState) -> Self {
        Self::with(state, None)
    }
}

/// A request sees one model from its beginning to its end.
impl FromRef<Server> for AppState {
    fn from_ref(server: &Server) -> Self {
        server.state()
    }
}

impl Server {
    /// A server that begins with `state`; `opener` opens what replaces it.
    #[must_use]
    pub fn new(state: AppState, opener: Opener) -> Self {
        Self::with(state, Some(opener))
    }

    fn with(state: AppState, opener: Option<Opener>) -> Self {
        state.engine.publish();
        let (replacing, changing, beside) = (Mutex::default(), Arc::default(), RwLock::default());
        Self(Arc::new(Serving { current: RwLock::new(state), opener, replacing, changing, beside }))
    }

    /// What serves at the moment.
    #[must_use]
    pub fn state(&self) -> AppState {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What serves, and goes on serving until the other part is dropped: for who adds or removes children.
    ///
    /// # Errors
    /// A problem where a model is being replaced.
    pub(super) fn change(&self) -> Result<(AppState, OwnedRwLockReadGuard<()>), ApiError> {
        let replaced =
            |_| ApiError::new(Code::BeingReplaced, "children are neither added nor removed meanwhile; ask again when that is done");
        let guard = Arc::clone(&self.0.changing).try_read_owned().map_err(replaced)?;
        Ok((self.state(), guard))
    }

    /// Replaces the model, and returns what serves from then on. Waits for children that are being added.
    ///
    /// # Errors
    /// A problem where a replacement is under way, or the new model does not work.
    pub async fn reload(&self) -> Result<AppState, ApiError> {
        let metrics = Arc::clone(self.state().engine.metrics());
        let replaced = self.replace().await;
        metrics.model_reloads.with_label_values(&[if replaced.is_ok() { "ok" } else { "error" }]).inc();
        match &replaced {
            Ok(state) => {
                tracing::info!(model = state.engine.card().name, sha256 = state.engine.card().weights_sha256, "the model was replaced")
            }
            Err(error) => tracing::warn!(%error, "the model was not replaced; the old one serves on"),
        }
        replaced
    }

    async fn replace(&self) -> Result<AppState, ApiError> {
        let opener = self.0.opener.clone().ok_or_else(|| ApiError::new(Code::ReloadRefused, "this server has one model for good"))?;
        let Ok(_alone) = self.0.replacing.try_lock() else {
            return Err(ApiError::new(Code::ReloadRefused, "a model is being replaced already; ask again when that is done"));
        };
        let _unchanged = self.0.changing.write().await;
        let begin = Instant::now();
        let opened = tokio::task::spawn_blocking(move || opener()).await.map_err(ApiError::internal)?;
        let engine = opened.map_err(|error| ApiError::new(Code::InvalidModel, chain(&*error)))?;
        self.note(&engine);
        if let Err(error) = warm(&engine).await {
            // Its threads end before it is gone, which takes a while.
            let server = self.clone();
            tokio::task::spawn_blocking(move || server.let_go(&engine));
            return Err(error);
        }
        let old = self.state();
        self.note(&old.engine);
        let new = old.with(engine);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
        self.forget(&new.engine);
        old.engine.withdraw();
        new.engine.publish();
        tracing::debug!(seconds = begin.elapsed().as_secs_f64(), "a new model took over");
        tokio::spawn(self.clone().retire(old));
        Ok(new)
    }

    /// Holds on to a model that was replaced until its last request is answered: whoever lets it go last waits for its threads, and no
    /// request should.
    async fn retire(self, old: AppState) {
        while !old.is_last() {
            tokio::time::sleep(POLL).await;
        }
        // Nothing is lost with an answer that nobody waits for.
        let _ = tokio::task::spawn_blocking(move || self.let_go(&old.engine)).await;
    }

    /// Takes note of an engine that runs beside the one that serves.
    fn note(&self, engine: &Engine) {
        self.0.beside.write().unwrap_or_else(PoisonError::into_inner).push(engine.clone());
    }

    /// Ends an engine that is not wanted any more, and forgets it then: the end of the process must not come before.
    fn let_go(&self, engine: &Engine) {
        engine.stop(LAST_WAIT);
        self.forget(engine);
    }

    /// Forgets an engine of which the caller has a handle.
    fn forget(&self, engine: &Engine) {
        self.0.beside.write().unwrap_or_else(PoisonError::into_inner).retain(|other| !other.is(engine));
    }

    /// As [`Engine::stop`], also of models that were to replace the one that serves, or that it replaced.
    pub fn stop(&self, limit: Duration) {
        let beside = self.0.beside.read().unwrap_or_else(PoisonError::into_inner).clone();
        beside.iter().chain([&self.state().engine]).for_each(|engine| engine.stop(limit));
    }
}

/// Waits until a family is built, measured, and in memory as far as that goes.
async fn warm(engine: &Engine) -> Result<(), ApiError> {
    while !engine.ready() {
        tokio::time::sleep(POLL).await;
    }
    let invalid = |detail| ApiError::new(Code::InvalidModel, detail);
    if let Some(child) = engine.unmeasured() {
        return Err(invalid(format!("child {child} of the new model cannot be built, or does not run: the log says why")));
    }
    engine.load_family().await.map_err(|error| invalid(format!("the new model does not work: {}", chain(&error))))
}

/// What an error says, and its causes, in one line: whoever replaces a model needs all of it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Replace the model
///
/// Opens the model's directory anew, checks it, builds and measures its family beside the one that serves, and lets it take over in one
/// step: no request is lost, and none is answered half by the one and half by the other. A model that does not work changes nothing.
/// The answer comes when all is done. SIGHUP does the same. Where the server listens beyond loopback, or has an admin key, this needs the
/// key.
#[utoipa::path(
    post,
    path = "/model/reload",
    tag = "model",
    security((), ("admin_key" = [])),
    responses((status = 200, description = "This is what serves from now on.", body = Readiness), ReloadProblems)
)]
pub(super) async fn reload(_: Admin, State(server): State<Server>) -> Result<Json<Readiness>, ApiError> {
    // A client that leaves, or a deadline that passes, does not stop what has begun.
    let reloading = tokio::spawn(async move { server.reload().await });
    let state = reloading.await.map_err(ApiError::internal)??;
    Ok(Json(Readiness::of(&state.engine)))
}

//! `POST /classify`: images and a budget in, labels out.

use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::ask::{Ask, Select};
use super::docs::ClassifyProblems;
use super::error::{ApiError, Code};
use super::predictions::top;
use super::request;
use super::trace::{RequestSpan, SERVER_TIMING, phases};
use super::wire::{BudgetReport, ChildSummary, Classification, ClassifyForm, ClassifyJson, File, ImagePredictions, Prediction, Timing};
use crate::engine::{Answer, ChildStatus};

/// What all added children count as, in the metrics.
pub(super) const ADDED: &str = "added";

/// Classify images within a budget
///
/// Send one image as it is, or one or more in a form or in JSON. The budget comes as query, form or JSON fields; every bound
/// given must hold, and the most accurate child within all of them answers. Without a budget, the server's default child
/// does. `child` asks for one child by its id and excludes a budget.
///
/// A budget is a ceiling and `min_accuracy` a floor; what lies between is the server's to use. Under load it may answer with a
/// smaller child, never under the floor, so that deadlines are kept; `degraded_from` then names the better one. `deadline_ms`
/// covers queue and computation, from the complete request on: a request that cannot be answered by then is refused at once with
/// 504. Where it has a `min_accuracy`, and only the load keeps the server from it, it is refused with 429 and `Retry-After`.
///
/// The first request for a child that was not built yet waits until it is sliced and recalibrated; `source` says so.
///
/// A request with one image is answered with `predictions`, one with several with `images`.
#[utoipa::path(
    post,
    path = "/classify",
    tag = "classify",
    params(
        ("mflops" = Option<f64>, Query, description = "Millions of multiply-adds at most.", exclusive_minimum = 0.0, example = 3.0),
        ("params" = Option<u64>, Query, description = "Parameters at most.", minimum = 1),
        ("latency_ms" = Option<f64>, Query, description = "Milliseconds at most, by the latency measured on this device for one image.", exclusive_minimum = 0.0),
        ("min_accuracy" = Option<f64>, Query, description = "Accuracy at least, as a fraction; an unknown accuracy never suffices.", exclusive_minimum = 0.0, maximum = 1.0),
        ("child" = Option<String>, Query, description = "This child and no other; excludes every budget.", pattern = "^[0-9a-f]{16}$"),
        ("deadline_ms" = Option<f64>, Query, description = "Milliseconds that queue and computation may take; who cannot be answered by then is refused at once.", exclusive_minimum = 0.0),
        ("top_k" = Option<usize>, Query, description = "How many labels to answer with, at most as many as the model knows; the server's default is 5.", minimum = 1),
    ),
    request_body(
        description = "One or more images.",
        content(
            (File = "image/jpeg"),
            (File = "image/png"),
            (File = "image/webp"),
            (File = "image/gif"),
            (File = "image/bmp"),
            (File = "application/octet-stream"),
            (ClassifyForm = "multipart/form-data"),
            (ClassifyJson = "application/json"),
        )
    ),
    responses(
        (
            status = 200,
            description = "The most probable labels, and which child found them.",
            body = Classification,
            headers(("server-timing" = String, description = "The phases of `timing_ms`, for browsers and proxies."))
        ),
        ClassifyProblems
    )
)]
pub(super) async fn classify(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let span = request.extensions().get::<RequestSpan>().cloned();
    let (request, _share) = request::read(request, &state.body_limits).await.inspect_err(|error| {
        if error.code() == Code::Overloaded {
            state.engine.metrics().shed.with_label_values(&["bodies"]).inc();
        }
    })?;
    let (begin, begin_time) = (Instant::now(), SystemTime::now());
    let classes = state.engine.card().labels.len();
    let top_k = labels_asked(&request.ask, state.top_k, classes)?;
    let room = choose(&state, request.ask.select)?;
    let children = room.iter().map(|status| status.child.id()).collect();
    let wanted = crate::engine::Request {
        children,
        // Nobody waits longer than the server's own limit, and who says so would let everyone else go first.
        deadline: request.ask.deadline.map(|time| request.complete + time.min(state.timeout)),
        has_floor: matches!(request.ask.select, Select::Within(budget) if budget.min_accuracy.is_some()),
    };
    let answer = state.engine.classify(wanted, request.images).await?;
    let chosen = room.iter().find(|status| status.child.id() == answer.child).unwrap_or(&room[0]);
    let spent = Phases::new(begin.elapsed(), &answer);
    phases(span.as_ref(), begin_time, &spent.in_order());

    let predictions = answer.logits.iter().map(|logits| top(logits, &state.engine.card().labels, top_k)).collect();
    let timing = spent.record(&state, begin);
    let header = timing.header();
    let classification = describe(&state, chosen, request.ask.select, predictions, &answer, timing);
    let mut response = Json(classification).into_response();
    if let Ok(value) = HeaderValue::from_str(&header) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
    Ok(response)
}

/// How many labels to answer with: what the request says, else `default`, up to the number of `classes`.
fn labels_asked(ask: &Ask, default: usize, classes: usize) -> Result<usize, ApiError> {
    match ask.top_k {
        Some(top_k) if top_k > classes => Err(ApiError::new(
            Code::InvalidRequest,
            format!("top_k is {top_k}, but the model knows {classes} labels; ask for at most those"),
        )),
        Some(top_k) => Ok(top_k),
        None => Ok(default.min(classes)),
    }
}

/// The children that may answer, best first; never empty.
fn choose(state: &AppState, select: Select) -> Result<Vec<ChildStatus>, ApiError> {
    match select {
        Select::Child(id) => Ok(vec![state.engine.child(id).ok_or(crate::engine::ClassifyError::Unknown(id))?]),
        Select::Within(budget) => state.engine.room(&budget).map_err(|error| {
            let error = ApiError::from(error);
            if matches!(error.code(), Code::BudgetTooSmall | Code::AccuracyOutOfReach) {
                state.engine.metrics().budget_met.with_label_values(&["false"]).inc();
            }
            error
        }),
    }
}

/// Where the time went.
struct Phases {
    decode: Duration,
    resolve: Duration,
    queue: Duration,
    inference: Duration,
}

impl Phases {
    /// `elapsed` is all until the answer; beside queueing, decoding and inference, that was choosing and getting the child.
    fn new(elapsed: Duration, answer: &Answer) -> Self {
        let &Answer { decode, queue, inference, .. } = answer;
        Self { decode, resolve: elapsed.saturating_sub(decode + queue + inference), queue, inference }
    }

    /// By name, as they follow each other: images are decoded by the worker that then runs the network.
    fn in_order(&self) -> [(&'static str, Duration); 4] {
        [("resolve", self.resolve), ("queue", self.queue), ("decode", self.decode), ("inference", self.inference)]
    }

    fn record(&self, state: &AppState, begin: Instant) -> Timing {
        let phases = [("decode", self.decode), ("resolve", self.resolve), ("queue", self.queue), ("inference", self.inference)];
        for (phase, time) in phases {
            state.engine.metrics().phase_seconds.with_label_values(&[phase]).observe(time.as_secs_f64());
        }
        // Whole microseconds: what lies below is noise.
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let [decode, resolve, queue, inference] = phases.map(|(_, time)| ms(time));
        Timing { decode, resolve, queue, inference, total: ms(begin.elapsed()) }
    }
}

impl Timing {
    fn header(&self) -> String {
        let Self { decode, resolve, queue, inference, total } = self;
        format!(
            "decode;dur={decode:.3}, resolve;dur={resolve:.3}, queue;dur={queue:.3}, inference;dur={inference:.3}, total;dur={total:.3}"
        )
    }
}

fn describe(
    state: &AppState,
    chosen: &ChildStatus,
    select: Select,
    mut predictions: Vec<Vec<Prediction>>,
    answer: &Answer,
    timing_ms: Timing,
) -> Classification {
    let child: ChildSummary = chosen.into();
    let asked = select.asked();
    let met = asked.met_by(&child);
    let metrics = state.engine.metrics();
    let id = child.id.to_string();
    metrics.child_requests.with_label_values(&[if chosen.added { ADDED } else { &id }]).inc();
    metrics.budget_met.with_label_values(&[if met { "true" } else { "false" }]).inc();
    child.accuracy.iter().for_each(|&accuracy| metrics.served_accuracy.observe(accuracy));
    metrics.served_mflops.observe(child.mflops);
    let (predictions, images) = if predictions.len() == 1 {
        (predictions.pop(), None)
    } else {
        (None, Some(predictions.into_iter().map(|predictions| ImagePredictions { predictions }).collect()))
    };
    Classification {
        predictions,
        images,
        child,
        degraded_from: answer.degraded_from,
        budget: BudgetReport { asked, met },
        source: answer.source.into(),
        batch: answer.batch,
        timing_ms,
    }
}

//! What happens around every request, from the outside in: the rest of its body is read off (`leftover`); its id, span and line in
//! the log (`trace`); metrics; errors without a problem document get one; a deadline; panics become problem documents.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower::ServiceBuilder;
use tower_http::catch_panic::{CatchPanicLayer, ResponseForPanic};

use super::error::{ApiError, Code, PROBLEM_JSON, foreign};
use super::leftover;
use super::trace::trace;
use crate::metrics::Metrics;

/// What requests to no route count as, in the metrics.
const UNKNOWN_ROUTE: &str = "unknown";
/// What a request to the server's main route may end in, in the metrics.
pub(super) const STATUS_CLASSES: [&str; 4] = ["2xx", "4xx", "5xx", ABORTED];
/// The end of a request whose client has left.
const ABORTED: &str = "aborted";

/// Puts all of them around `router`.
///
/// They are one layer but for the panics: the framework copies all that lies inside a layer, at every request.
pub(super) fn apply(router: Router, metrics: Arc<Metrics>, timeout: Duration) -> Router {
    let catch_panics = CatchPanicLayer::custom(OnPanic(Arc::clone(&metrics)));
    router.layer(ServiceBuilder::new().layer(from_fn_with_state(Around { metrics, timeout }, around)).layer(catch_panics))
}

/// What the layers need.
#[derive(Clone)]
struct Around {
    metrics: Arc<Metrics>,
    timeout: Duration,
}

async fn around(State(Around { metrics, timeout }): State<Around>, request: Request, next: Next) -> Response {
    let in_time = |request| deadline(timeout, next.run(request));
    let described = |request| only_problems(request, in_time);
    let measured = |request| measure(metrics, request, described);
    let traced = |request| trace(request, measured);
    leftover::discard(request, traced).await
}

/// The answer to a request for what is not there.
pub(super) async fn unknown_route() -> ApiError {
    ApiError::new(Code::UnknownRoute, "there is nothing here; /docs lists the routes")
}

/// The answer to a request with a method that the route does not have; the framework adds `Allow`.
pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::new(Code::MethodNotAllowed, "the header Allow lists the methods of this route")
}

/// Counts and times the request under its route.
async fn measure<F: Future<Output = Response>>(metrics: Arc<Metrics>, request: Request, next: impl FnOnce(Request) -> F) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut flight = Flight::new(metrics, route);
    let response = next(request).await;
    flight.land(&response);
    response
}

/// A request under way. Dropped before it lands, it counts as aborted: its client has left.
struct Flight {
    metrics: Arc<Metrics>,
    route: Option<MatchedPath>,
    begin: Instant,
    has_landed: bool,
}

impl Flight {
    fn new(metrics: Arc<Metrics>, route: Option<MatchedPath>) -> Self {
        metrics.http_requests_in_flight.inc();
        Self { metrics, route, begin: Instant::now(), has_landed: false }
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or(UNKNOWN_ROUTE, MatchedPath::as_str)
    }

    fn land(&mut self, response: &Response) {
        self.has_landed = true;
        let class = match response.status().as_u16() {
            100..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.metrics.http_requests.with_label_values(&[self.route(), class]).inc();
        self.metrics.http_request_seconds.with_label_values(&[self.route()]).observe(self.begin.elapsed().as_secs_f64());
        if let Some(code) = response.extensions().get::<Code>() {
            self.metrics.problems.with_label_values(&[code.name()]).inc();
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.metrics.http_requests_in_flight.dec();
        if !self.has_landed {
            self.metrics.http_requests.with_label_values(&[self.route(), ABORTED]).inc();
        }
    }
}

/// Replaces the framework's own errors by problem documents.
async fn only_problems<F: Future<Output = Response>>(request: Request, next: impl FnOnce(Request) -> F) -> Response {
    let is_head = request.method() == Method::HEAD;
    let mut response = next(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if is_error && response.headers().get(CONTENT_TYPE) != Some(&PROBLEM_JSON) {
        let allowed = response.headers_mut().remove(ALLOW);
        response = foreign(status).into_response();
        response.headers_mut().extend(allowed.map(|methods| (ALLOW, methods)));
    }
    if is_head && is_error {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Ends a request that takes too long; what it queued is withdrawn.
async fn deadline(timeout: Duration, answering: impl Future<Output = Response>) -> Response {
    let late = |_| {
        let seconds = timeout.as_secs_f64();
        let detail = format!("no answer within {seconds} s; a child that is being built goes on, so ask again later");
        ApiError::new(Code::Timeout, detail).into_response()
    };
    tokio::time::timeout(timeout, answering).await.unwrap_or_else(late)
}

/// Turns a panic into a problem document.
#[derive(Clone)]
struct OnPanic(Arc<Metrics>);

impl ResponseForPanic for OnPanic {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send + 'static>) -> Response {
        self.0.panics.inc();
        let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        ApiError::internal(format!("panic: {}", message.unwrap_or("without a message"))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    fn router(metrics: &Arc<Metrics>) -> Router {
        let router = Router::new()
            .route("/fine", get(|| async { "fine" }))
            .route("/things/{id}", get(|| async { "thing" }))
            .route(
                "/panics",
                get(|| async {
                    if true {
                        panic!("a secret")
                    }
                }),
            )
            .route("/slow", get(std::future::pending::<()>))
            .route("/bare", post(|| async { StatusCode::UNSUPPORTED_MEDIA_TYPE }))
            .fallback(unknown_route)
            .method_not_allowed_fallback(method_not_allowed);
        apply(router, Arc::clone(metrics), Duration::from_millis(20))
    }

    async fn ask(metrics: &Arc<Metrics>, method: &str, path: &str) -> (Response<()>, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let (parts, body) = router(metrics).oneshot(request).await.unwrap().into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 16).await.unwrap();
        (Response::from_parts(parts, ()), String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn every_error_is_a_problem_document() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let cases = [
            ("GET", "/nowhere", 404, "unknown_route"),
            ("DELETE", "/fine", 405, "method_not_allowed"),
            ("POST", "/bare", 415, "unsupported_media_type"),
            ("GET", "/panics", 500, "internal"),
            ("GET", "/slow", 504, "timeout"),
        ];
        for (method, path, status, code) in cases {
            let (response, body) = ask(&metrics, method, path).await;
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((response.status().as_u16(), problem["code"].as_str()), (status, Some(code)), "{method} {path}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            for header in ["x-request-id", "server-timing"] {
                assert!(response.headers().contains_key(header), "{method} {path} has no {header}");
            }
            assert!(!body.contains("secret"), "{body}");
            assert_eq!(response.headers().contains_key(ALLOW), status == 405, "Allow of {method} {path}");
        }
        assert_eq!(metrics.panics.get(), 1);
    }

    #[tokio::test]
    async fn head_of_an_error_has_no_body() {
        let (response, body) = ask(&Arc::new(Metrics::new().unwrap()), "HEAD", "/nowhere").await;
        assert_eq!((response.status(), body.as_str()), (StatusCode::NOT_FOUND, ""));
    }

    #[tokio::test]
    async fn requests_count_under_their_route() {
        let metrics = Arc::new(Metrics::new().unwrap());
        for path in ["/things/1", "/things/2", "/fine", "/what", "/ever"] {
            ask(&metrics, "GET", path).await;
        }
        let aborted = router(&metrics).oneshot(Request::builder().uri("/slow").body(Body::empty()).unwrap());
        assert!(tokio::time::timeout(Duration::from_millis(1), aborted).await.is_err());

        let text = metrics.encode().unwrap();
        for line in [
            r#"bignas_http_requests_total{route="/things/{id}",status="2xx"} 2"#,
            r#"bignas_http_requests_total{route="/fine",status="2xx"} 1"#,
            r#"bignas_http_requests_total{route="unknown",status="4xx"} 2"#,
            r#"bignas_http_requests_total{route="/slow",status="aborted"} 1"#,
            r#"bignas_http_request_seconds_count{route="/things/{id}"} 2"#,
            r#"bignas_problems_total{code="unknown_route"} 2"#,
            "bignas_http_requests_in_flight 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

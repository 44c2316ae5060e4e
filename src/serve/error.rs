//! Problem documents (RFC 9457), and the one place that knows status codes.
//!
//! A client gets a stable code and a sentence that names the remedy; the log gets the chain of causes, once.

mod convert;

use std::error::Error;
use std::fmt;

use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::wire::{Problem, Smallest};

/// The media type of a problem document.
pub(super) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Something was made.
pub(super) const CREATED: StatusCode = StatusCode::CREATED;
/// Done, and there is nothing to say.
pub(super) const NO_CONTENT: StatusCode = StatusCode::NO_CONTENT;
/// The client has it already.
pub(super) const NOT_MODIFIED: StatusCode = StatusCode::NOT_MODIFIED;
/// When to try again where nothing better is known, in seconds.
const RETRY_AFTER_S: u64 = 1;

/// Declares the codes with their status and title, so that none can lack one.
macro_rules! codes {
    ($($variant:ident $status:ident $name:literal $title:literal;)*) => {
        /// What went wrong, in a word that clients can rely on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The status that a response with this code has.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// The code as it is written in a problem document.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The title, the same for every problem with this code.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    InvalidRequest BAD_REQUEST "invalid_request" "The request is malformed";
    InvalidBudget BAD_REQUEST "invalid_budget" "The budget makes no sense";
    EmptyBody BAD_REQUEST "empty_body" "The request has no body";
    InvalidImage BAD_REQUEST "invalid_image" "The content is not a readable image";
    Unauthorized UNAUTHORIZED "unauthorized" "The admin key is missing or wrong";
    Forbidden FORBIDDEN "forbidden" "This server allows no administration";
    UnknownRoute NOT_FOUND "unknown_route" "There is no such route";
    UnknownChild NOT_FOUND "unknown_child" "There is no such child";
    UnknownExample NOT_FOUND "unknown_example" "There is no such example";
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed" "The route does not support the method";
    BodyTimeout REQUEST_TIMEOUT "body_timeout" "The body did not arrive in time";
    FamilyMember CONFLICT "family_member" "A child of the family cannot be removed";
    TooManyChildren CONFLICT "too_many_children" "The server keeps as many added children as it may";
    ReloadRefused CONFLICT "reload_refused" "The model cannot be replaced now";
    BeingReplaced CONFLICT "being_replaced" "The model is being replaced";
    BodyTooLarge PAYLOAD_TOO_LARGE "body_too_large" "The body is above the limit";
    ImageTooLarge PAYLOAD_TOO_LARGE "image_too_large" "The image has more pixels than the limit";
    TooManyImages PAYLOAD_TOO_LARGE "too_many_images" "The request has more images than the limit";
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The media type is not supported";
    BudgetTooSmall UNPROCESSABLE_ENTITY "budget_too_small" "No child is within the budget";
    AccuracyOutOfReach UNPROCESSABLE_ENTITY "accuracy_out_of_reach" "No child within the budget is that accurate";
    OutsideSpace UNPROCESSABLE_ENTITY "outside_space" "The child is not in the search space";
    InvalidModel UNPROCESSABLE_ENTITY "invalid_model" "The new model does not work";
    Overloaded TOO_MANY_REQUESTS "overloaded" "The server is at its limit";
    Internal INTERNAL_SERVER_ERROR "internal" "The server failed";
    BuildFailed INTERNAL_SERVER_ERROR "build_failed" "The child could not be built";
    NoCalibration NOT_IMPLEMENTED "no_calibration" "The model ships nothing to build this child with";
    ShuttingDown SERVICE_UNAVAILABLE "shutting_down" "The server is shutting down";
    NotReady SERVICE_UNAVAILABLE "not_ready" "The server is not ready yet";
    DeadlineExceeded GATEWAY_TIMEOUT "deadline_exceeded" "No answer is possible before the deadline";
    Timeout GATEWAY_TIMEOUT "timeout" "The deadline of the request has passed";
}

/// A request that is answered with a problem document.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    detail: String,
    smallest: Option<Smallest>,
    best_accuracy: Option<f64>,
    retry_after_s: Option<u64>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ApiError {
    /// A problem with `code`; `detail` says what is wrong with this very request, and what to do about it.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (smallest, best_accuracy, source) = (None, None, None);
        let retry_after_s = returns_later(code).then_some(RETRY_AFTER_S);
        Self(Box::new(Inner { code, detail: detail.into(), smallest, best_accuracy, retry_after_s, source }))
    }

    /// A failure that is the server's own fault; `source` goes to the log only.
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "an unexpected failure; the log says more under this request's id").caused_by(source)
    }

    /// A problem whose detail is what `error` says of itself, and whose causes are those of `error`.
    fn of(code: Code, error: impl Error + Send + Sync + 'static) -> Self {
        Self::new(code, error.to_string()).caused_by(error)
    }

    fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The same problem, where the detail begins with `place`, such as `image 2`.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        self.0.detail = format!("{place}: {}", self.0.detail);
        self
    }

    fn log(&self) {
        let mut chain = Vec::new();
        let mut next = self.0.source.as_deref().map(|error| error as &dyn Error);
        while let Some(error) = next {
            chain.push(error.to_string());
            next = error.source();
        }
        let (code, causes) = (self.0.code.name(), chain.join(": "));
        // Other codes from 500 on say how the server is; they are no news to whoever runs it.
        if self.0.code.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(code, detail = self.0.detail, causes, "failed");
        } else {
            tracing::debug!(code, detail = self.0.detail, causes, "refused");
        }
    }
}

/// Whether the same request may do better a little later; the answer then says when.
pub(super) fn returns_later(code: Code) -> bool {
    matches!(code, Code::Overloaded | Code::ShuttingDown | Code::NotReady)
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.title(), self.0.detail)
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|error| error as &(dyn Error + 'static))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let Inner { code, detail, smallest, best_accuracy, retry_after_s, .. } = *self.0;
        let status = code.status();
        let mut problem = Problem::new(code, detail);
        (problem.smallest, problem.best_accuracy, problem.retry_after_s) = (smallest, best_accuracy, retry_after_s);
        let mut response = (status, body(&problem)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((name, value)) = required_header(code) {
            response.headers_mut().insert(name, value);
        }
        // The request's line in the log names the code.
        response.extensions_mut().insert(code);
        response
    }
}

fn body(problem: &impl Serialize) -> Vec<u8> {
    // A problem holds strings and numbers only, which always serialise.
    serde_json::to_vec(problem).unwrap_or_default()
}

fn required_header(code: Code) -> Option<(HeaderName, HeaderValue)> {
    (code == Code::Unauthorized).then(|| (WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"bignas\"")))
}

/// The problem that stands for a response which carries an error status but no problem document: those of the framework.
pub(super) fn foreign(status: StatusCode) -> ApiError {
    let code = match status {
        StatusCode::NOT_FOUND => Code::UnknownRoute,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
        status if status.is_client_error() => Code::InvalidRequest,
        _ => Code::Internal,
    };
    ApiError::new(code, "see the API's description at /docs")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::engine::{AddError, BuildError, ClassifyError, RemoveError, ResolveError};
    use crate::image::DecodeError;
    use crate::space::ChildId;

    async fn parts(error: ApiError) -> (StatusCode, axum::http::HeaderMap, Value) {
        let response = error.into_response();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (status, headers, serde_json::from_slice(&body).unwrap())
    }

    fn unreadable(error: DecodeError) -> ApiError {
        ClassifyError::Picture { index: 0, of: 1, source: Arc::new(error.into()) }.into()
    }

    #[tokio::test]
    async fn every_failure_has_its_status_and_code() {
        let id: ChildId = "0123456789abcdef".parse().unwrap();
        let cases: [(ApiError, u16, &str); 17] = [
            (ResolveError::Unmeasured.into(), 503, "not_ready"),
            (ResolveError::Budget { mflops: 0.8, params: 9, latency_ms: None }.into(), 422, "budget_too_small"),
            (ResolveError::Accuracy { asked: 0.99, best: None }.into(), 422, "accuracy_out_of_reach"),
            (ClassifyError::Unknown(id).into(), 404, "unknown_child"),
            (ClassifyError::Overloaded { retry_after_s: 3 }.into(), 429, "overloaded"),
            (ClassifyError::TooLate.into(), 504, "deadline_exceeded"),
            (ClassifyError::ShuttingDown.into(), 503, "shutting_down"),
            (ClassifyError::WorkerLost.into(), 500, "internal"),
            (ClassifyError::Build(BuildError::Busy { waiting: 4, retry_after_s: 9 }).into(), 429, "overloaded"),
            (ClassifyError::Build(BuildError::Lost(id)).into(), 500, "build_failed"),
            (AddError::Build(BuildError::NoCalibration("m".to_owned())).into(), 501, "no_calibration"),
            (AddError::Full { limit: 64 }.into(), 409, "too_many_children"),
            (RemoveError::Family(id).into(), 409, "family_member"),
            (RemoveError::Unknown(id).into(), 404, "unknown_child"),
            (unreadable(DecodeError::UnknownFormat), 400, "invalid_image"),
            (unreadable(DecodeError::TooLarge { width: 60000, height: 60000, max_pixels: 1 }), 413, "image_too_large"),
            (ApiError::new(Code::Timeout, "late"), 504, "timeout"),
        ];
        for (error, status, code) in cases {
            let (got, headers, problem) = parts(error).await;
            assert_eq!((got.as_u16(), &problem["code"]), (status, &json!(code)), "{problem}");
            assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
            assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!(format!("urn:bignas:problem:{code}"))));
            assert!(["title", "detail"].iter().all(|member| problem[member].as_str().is_some_and(|text| !text.is_empty())), "{problem}");
            assert_eq!(headers.contains_key(RETRY_AFTER), matches!(status, 429 | 503), "Retry-After with {code}");
        }
    }

    #[tokio::test]
    async fn a_problem_says_what_helps() {
        let budget = ResolveError::Budget { mflops: 0.85, params: 9_000, latency_ms: Some(0.04) };
        let (_, _, problem) = parts(budget.into()).await;
        assert_eq!(problem["smallest"], json!({"mflops": 0.85, "params": 9000, "latency_ms": 0.04}));

        for error in [ClassifyError::Overloaded { retry_after_s: 3 }, BuildError::Busy { waiting: 4, retry_after_s: 3 }.into()] {
            let (_, headers, problem) = parts(error.into()).await;
            assert_eq!((&headers[RETRY_AFTER], &problem["retry_after_s"]), (&HeaderValue::from_static("3"), &json!(3)));
        }

        let (_, headers, problem) = parts(ApiError::new(Code::Unauthorized, "no key")).await;
        assert_eq!(headers[WWW_AUTHENTICATE], "Bearer realm=\"bignas\"");
        assert_eq!(problem.get("smallest"), None);
    }

    #[tokio::test]
    async fn causes_stay_on_the_server() {
        let secret = Arc::new(std::io::Error::other("disk sda1 on fire"));
        let (status, _, problem) = parts(ApiError::internal(secret)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!problem.to_string().contains("sda1"), "{problem}");
    }

    #[test]
    fn codes_are_distinct_and_errors() {
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.status().is_client_error() || code.status().is_server_error()));
    }
}

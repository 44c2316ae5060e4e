//! What an answer leaves unread of its request's body.
//!
//! A request may be refused by its head alone, while its body is still on its way. The connection is only good for another request
//! once that body is out of it, and a client that is still sending does not read the answer. So the rest is read and thrown away
//! first; where that would take too long, the answer says that the connection ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, EXPECT};
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

/// How long an answer waits for the rest of a body.
const LINGER: Duration = Duration::from_secs(1);

/// Answers after the request's body has come in, whether anyone wanted it or not.
pub(super) async fn discard<F: Future<Output = Response>>(request: Request, next: impl FnOnce(Request) -> F) -> Response {
    if request.body().is_end_stream() {
        return next(request).await;
    }
    let asks_for_leave = request.headers().contains_key(EXPECT);
    let rest = Rest::default();
    let watch = |body| Body::new(Watched { body, begun: false, rest: rest.clone() });
    let mut response = next(request.map(watch)).await;
    let Some(Leftover { body, begun }) = rest.take() else { return response };
    // To begin reading would tell a client that waits for leave to go ahead.
    let is_held_back = asks_for_leave && !begun;
    if is_held_back || tokio::time::timeout(LINGER, read_off(body)).await.is_err() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn read_off(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// A body that was dropped before its end, and whether anyone had begun to read it.
struct Leftover {
    body: Body,
    begun: bool,
}

/// Where a leftover goes.
#[derive(Clone, Default)]
struct Rest(Arc<Mutex<Option<Leftover>>>);

impl Rest {
    fn take(&self) -> Option<Leftover> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, leftover: Leftover) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(leftover);
    }
}

/// A request's body as the routes see it.
struct Watched {
    body: Body,
    begun: bool,
    rest: Rest,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.begun = true;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            self.rest.put(Leftover { body: std::mem::take(&mut self.body), begun: self.begun });
        }
    }
}

//! Bodies of requests, read within limits of size and time. The bodies of all requests under way share one bound, since a client
//! that sends slowly and one whose request waits both keep theirs in memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;

use super::error::{ApiError, Code};

/// Parts, which is chunks or segments, of one body: each costs time however small it is.
const MOST_PARTS: usize = 65_536;

/// How much a body may bring, and how long it may take.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits {
    /// Bytes of one body.
    pub(super) bytes: usize,
    /// Images in one body.
    pub(super) images: usize,
    /// Until it is complete.
    pub(super) timeout: Duration,
    /// What all bodies share.
    pub(super) memory: Arc<BodyMemory>,
}

/// Bytes that the bodies of all requests under way may take together.
#[derive(Debug)]
pub(super) struct BodyMemory {
    limit: usize,
    taken: AtomicUsize,
}

impl BodyMemory {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: AtomicUsize::new(0) }
    }
}

/// What one request takes of a [`BodyMemory`], until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<BodyMemory>,
    bytes: usize,
}

impl Share {
    fn new(memory: &Arc<BodyMemory>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Takes `bytes` more.
    fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let BodyMemory { limit, taken } = &*self.memory;
        let with = |taken: usize| taken.checked_add(bytes).filter(|sum| sum <= limit);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).map_err(|_| {
            let detail = format!("the bodies of the requests under way would take more than {limit} bytes together; ask again later");
            ApiError::new(Code::Overloaded, detail)
        })?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The whole body, and what it takes of the memory for bodies.
///
/// # Errors
/// A problem for a body that is too large, too slow, in too many parts or broken off, and where all bodies together are too large.
pub(super) async fn read(headers: &HeaderMap, body: Body, limits: &BodyLimits) -> Result<(Bytes, Share), ApiError> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limits.bytes as u64) {
        return Err(too_large(limits.bytes));
    }
    let reading = collect(body, declared.unwrap_or(0) as usize, limits);
    let timed_out = |_| {
        let seconds = limits.timeout.as_secs_f64();
        ApiError::new(Code::BodyTimeout, format!("the body was not complete after {seconds} s; send it faster or in smaller parts"))
    };
    tokio::time::timeout(limits.timeout, reading).await.map_err(timed_out)?
}

async fn collect(mut body: Body, declared: usize, limits: &BodyLimits) -> Result<(Bytes, Share), ApiError> {
    let (mut bytes, mut share, mut parts) = (Vec::new(), Share::new(&limits.memory), 0);
    while let Some(data) = next_data(&mut body).await? {
        if bytes.len() + data.len() > limits.bytes {
            return Err(too_large(limits.bytes));
        }
        parts += 1;
        if parts > MOST_PARTS {
            let detail = format!("the body comes in more than {MOST_PARTS} parts; send it in larger ones");
            return Err(ApiError::new(Code::InvalidRequest, detail));
        }
        share.grow(data.len())?;
        if bytes.is_empty() {
            if body.is_end_stream() {
                return Ok((data, share));
            }
            bytes.reserve_exact(declared);
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.into(), share))
}

/// The next part of the body, `None` at its end.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await else { return Ok(None) };
        let frame = frame.map_err(|error| ApiError::new(Code::InvalidRequest, format!("the body broke off: {error}")))?;
        // Trailers say nothing here.
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(Code::BodyTooLarge, format!("the body is above the limit of {limit} bytes; send less"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    fn limits() -> BodyLimits {
        BodyLimits { bytes: 60, images: 1, timeout: Duration::from_secs(5), memory: Arc::new(BodyMemory::new(100)) }
    }

    async fn sent(length: usize, limits: &BodyLimits) -> Result<(Bytes, Share), Code> {
        read(&HeaderMap::new(), Body::from(vec![7; length]), limits).await.map_err(|error| error.code())
    }

    #[tokio::test]
    async fn all_bodies_share_one_bound() {
        let limits = limits();
        let (bytes, first) = sent(60, &limits).await.unwrap();
        assert_eq!(bytes.len(), 60);
        assert_eq!(sent(41, &limits).await.unwrap_err(), Code::Overloaded);
        let second = sent(40, &limits).await.unwrap();
        assert_eq!(sent(1, &limits).await.unwrap_err(), Code::Overloaded);
        drop(first);
        let third = sent(60, &limits).await.unwrap();
        drop((second, third));
        assert_eq!(limits.memory.taken.load(Ordering::Relaxed), 0, "all is given back, also by what was refused");
    }

    #[tokio::test]
    async fn one_body_has_a_bound_of_its_own() {
        let limits = limits();
        assert_eq!(sent(61, &limits).await.unwrap_err(), Code::BodyTooLarge);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, 61.into());
        let error = read(&headers, Body::from("short"), &limits).await.unwrap_err();
        assert_eq!(error.code(), Code::BodyTooLarge, "a declared length is believed");
    }

    /// So many parts of the same bytes.
    struct Parts(usize, &'static [u8]);

    impl HttpBody for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let left = self.0.checked_sub(1);
            Poll::Ready(left.map(|left| {
                self.0 = left;
                Ok(Frame::data(Bytes::from_static(self.1)))
            }))
        }
    }

    #[tokio::test]
    async fn parts_count_as_they_come() {
        let limits = limits();
        let (bytes, share) = read(&HeaderMap::new(), Body::new(Parts(3, &[7; 20])), &limits).await.unwrap();
        assert_eq!((bytes.len(), share.bytes), (60, 60));
        let error = read(&HeaderMap::new(), Body::new(Parts(3, &[7; 20])), &limits).await.unwrap_err();
        assert_eq!(error.code(), Code::Overloaded);
        assert_eq!(limits.memory.taken.load(Ordering::Relaxed), 60);
    }

    #[tokio::test]
    async fn a_body_in_crumbs_is_refused() {
        let (bytes, memory) = (MOST_PARTS + 1, Arc::new(BodyMemory::new(MOST_PARTS + 1)));
        let limits = BodyLimits { bytes, memory, ..limits() };
        let (whole, _) = read(&HeaderMap::new(), Body::new(Parts(MOST_PARTS, b".")), &limits).await.unwrap();
        assert_eq!(whole.len(), MOST_PARTS);
        drop(whole);
        let error = read(&HeaderMap::new(), Body::new(Parts(MOST_PARTS + 1, b".")), &limits).await.unwrap_err();
        assert_eq!((error.code(), limits.memory.taken.load(Ordering::Relaxed)), (Code::InvalidRequest, 0));
    }
}

//! A small HTTP/1.1 client: one connection, by itself or over TLS, one request at a time, nothing shared.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::target::{Path, Target, Tls};
use crate::space::ChildId;

/// A server that cannot be reached, or that does not speak HTTP.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Times of requests that no process has.
    #[error("no requests come at {rate} a second with a CV² of {cv2}: both must be above 0")]
    Arrivals {
        /// Requests a second.
        rate: f64,
        /// Squared coefficient of variation of the times between them.
        cv2: f64,
    },
    /// What cannot be asked for.
    #[error("{0:?} cannot be sent as a request")]
    Request(String, #[source] hyper::http::Error),
    /// No connection, or a certificate that is not to be trusted.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// Whatever is there says nothing.
    #[error("the server took no connection within {} s: is it the right address, and http or https as it should be?", timeout.as_secs())]
    Silent {
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// The child that answered, where one did.
    pub child: Option<ChildId>,
    /// Its accuracy, where it is known.
    pub accuracy: Option<f64>,
    /// Whether a better child would have answered an idle server's client.
    pub degraded: bool,
    /// Images that were classified together, where it says so.
    pub batch: Option<usize>,
    /// What took its time, where it says so.
    pub timing: Option<Timing>,
}

/// What an answer says of its own time, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Timing {
    /// Waiting for a worker.
    #[serde(rename = "queue")]
    pub queue_ms: f64,
    /// Reading the image.
    #[serde(rename = "decode")]
    pub decode_ms: f64,
    /// Running the network.
    #[serde(rename = "inference")]
    pub inference_ms: f64,
}

#[derive(Deserialize)]
struct Answer {
    child: Child,
    degraded_from: Option<ChildId>,
    batch: Option<usize>,
    timing_ms: Option<Timing>,
}

#[derive(Deserialize)]
struct Child {
    id: ChildId,
    accuracy: Option<f64>,
}

/// Asks a server for `path` once, and gives the status of the answer and its text.
///
/// # Errors
/// [`ClientError`] where there is no answer.
pub async fn get(target: &Target, path: &str) -> Result<(u16, String), ClientError> {
    Connection::open(target).await?.get(path).await
}

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    prefix: String,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self, ClientError> {
        let failed = |error| ClientError::Connect(target.authority.clone(), error);
        let stream = TcpStream::connect(&target.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let sender = match &target.tls {
            None => Self::over(stream).await?,
            Some(Tls { connector, name }) => Self::over(connector.connect(name.clone(), stream).await.map_err(failed)?).await?,
        };
        Ok(Self { sender, authority: target.authority.clone(), prefix: target.prefix.clone() })
    }

    async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the connection; whoever sends learns of a failure.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Whether it can be used again: a server closes connections that nobody used for a while.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks for `path`, and gives the status of the answer and its text.
    async fn get(&mut self, path: &str) -> Result<(u16, String), ClientError> {
        let uri = format!("{}{path}", self.prefix);
        let request = Request::builder().uri(&uri).header(HOST, &self.authority).body(Full::default());
        let request = request.map_err(|error| ClientError::Request(uri, error))?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Posts an image to `path` with a query, if there is one.
    ///
    /// Another server's answer is as good as one of ours; it only says nothing of children.
    pub(super) async fn post(&mut self, path: &Path, query: &str, image: Bytes) -> Result<Reply, ClientError> {
        let Path(path) = path;
        let uri = format!("{}{path}{}{query}", self.prefix, if query.is_empty() { "" } else { "?" });
        let request = Request::builder()
            .method(Method::POST)
            .uri(&uri)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Full::new(image));
        let request = request.map_err(|error| ClientError::Request(uri, error))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let answer = serde_json::from_slice::<Answer>(&body).ok();
        Ok(Reply {
            status,
            child: answer.as_ref().map(|answer| answer.child.id),
            accuracy: answer.as_ref().and_then(|answer| answer.child.accuracy),
            degraded: answer.as_ref().is_some_and(|answer| answer.degraded_from.is_some()),
            batch: answer.as_ref().and_then(|answer| answer.batch),
            timing: answer.and_then(|answer| answer.timing_ms),
        })
    }
}

//! A small HTTP/1.1 client: one connection, one request at a time, nothing shared.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::space::ChildId;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host and port.
    authority: String,
}

/// Where on a server images are posted to, such as `/classify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

/// A server that cannot be reached, or that does not speak HTTP.
#[derive(Debug, Error)]
pub enum ClientError {
    /// An address that is none.
    #[error("{0:?} is not the address of a server, such as http://127.0.0.1:8080")]
    Address(String),
    /// A path that is none.
    #[error("{0:?} is not the path of a route, such as /classify")]
    Path(String),
    /// No connection.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
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

impl std::str::FromStr for Target {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ClientError::Address(text.to_owned());
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let plain = !host.is_empty() && !authority.contains(['/', '?', '#', '@']) && !authority.contains("://");
        if !plain || port.parse::<u16>().is_err() {
            return Err(refused());
        }
        Ok(Self { authority: format!("{host}:{port}") })
    }
}

impl std::str::FromStr for Path {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['?', '#']);
        if plain { Ok(Self(text.to_owned())) } else { Err(ClientError::Path(text.to_owned())) }
    }
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
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self, ClientError> {
        let failed = |error| ClientError::Connect(target.authority.clone(), error);
        let stream = TcpStream::connect(&target.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the connection; whoever sends learns of a failure.
        tokio::spawn(connection);
        Ok(Self { sender, authority: target.authority.clone() })
    }

    /// Whether it can be used again: a server closes connections that nobody used for a while.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks for `path`, and gives the status of the answer and its text.
    async fn get(&mut self, path: &str) -> Result<(u16, String), ClientError> {
        let request = Request::builder().uri(path).header(HOST, &self.authority).body(Full::default());
        let request = request.map_err(|_| ClientError::Path(path.to_owned()))?;
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
        let uri = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Full::new(image));
        let request = request.map_err(|_| ClientError::Address(query.to_owned()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_or_refused() {
        for (text, authority) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("localhost:80", "localhost:80"),
            ("http://host", "host:80"),
            ("http://[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().authority, authority, "{text}");
        }
        for text in ["", "http://", "https://host", "http://host:port", "http://host:1/classify", "http://user@host:1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_understood_or_refused() {
        for (text, is_path) in [("/", true), ("/v2/classify", true), ("", false), ("classify", false), ("/a?b", false), ("/a b", false)] {
            assert_eq!(text.parse::<Path>().is_ok(), is_path, "{text}");
        }
    }
}

//! A stream that fails once its peer has stopped reading for too long: a client that asks and never takes the answer must not
//! hold its connection for ever.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// `S` with a limit on how long a write may make no progress.
pub(super) struct StallLimit<S> {
    stream: S,
    limit: Duration,
    /// When the write under way has waited too long; `None` while none waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> StallLimit<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, deadline: None }
    }
}

impl<S: AsyncWrite + Unpin> StallLimit<S> {
    /// Polls a write: progress clears the deadline, waiting sets it.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<Result<T>>,
    ) -> Poll<Result<T>> {
        let result = poll(Pin::new(&mut self.stream), context);
        if result.is_ready() {
            self.deadline = None;
            return result;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client has stopped reading"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallLimit<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.get_mut().watch(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        self.get_mut().watch(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().watch(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().watch(context, |stream, context| stream.poll_shutdown(context))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallLimit<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_never_reads_is_given_up() {
        let (ours, _theirs) = duplex(4);
        let mut stream = StallLimit::new(ours, Duration::from_millis(5));
        assert_eq!(stream.write_all(b"longer than four bytes").await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_reads_slowly_gets_everything() {
        let (ours, mut theirs) = duplex(4);
        let mut stream = StallLimit::new(ours, Duration::from_secs(5));
        let writing = tokio::spawn(async move { stream.write_all(b"longer than four bytes").await });
        let mut read = Vec::new();
        while read.len() < 22 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            read.push(theirs.read_u8().await.unwrap());
        }
        writing.await.unwrap().unwrap();
        assert_eq!(read, b"longer than four bytes");
    }
}

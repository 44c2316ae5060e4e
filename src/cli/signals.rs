//! The signals that end a training after its step: Ctrl-C, SIGTERM, and the hangup of a terminal that goes.
//!
//! One that was ignored when the command began stays ignored: so `nohup` keeps a training from the end of its terminal, and a script
//! its background jobs from Ctrl-C.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::stop::STOPPED;
use crate::console::tell;

/// A flag that the first signal sets; the second ends the process, unless it is a hangup: a terminal that goes may send two, its shell's
/// and its own. To be called once, before the work begins.
pub(super) fn stop_flag() -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot wait for signals")?;
    let listen = async { heeded().map(|kind| Ok((kind, signal(kind)?))).collect::<io::Result<Vec<_>>>() };
    let mut signals = runtime.block_on(listen).context("cannot wait for signals")?;
    let watch = move || {
        runtime.block_on(poll_fn(|cx| next(&mut signals, cx)));
        STOP.store(true, Ordering::Relaxed);
        tell("stopping after this step; once more to stop at once");
        signals.retain(|(kind, _)| *kind != SignalKind::hangup());
        runtime.block_on(poll_fn(|cx| next(&mut signals, cx)));
        std::process::exit(STOPPED.into());
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).context("cannot wait for signals")?;
    Ok(&STOP)
}

fn next(signals: &mut [(SignalKind, Signal)], cx: &mut Context<'_>) -> Poll<()> {
    match signals.iter_mut().any(|(_, signal)| signal.poll_recv(cx).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }
}

/// Signals that ask for an end, without those that the process ignores.
fn heeded() -> impl Iterator<Item = SignalKind> {
    let ignored = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| ignored(&status)).unwrap_or_default();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    kinds.into_iter().filter(move |kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0)
}

/// The signals that a process ignores, as Linux tells them: one bit each, beginning with number 1.
fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_process_status() {
        let cases = [("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n", Some(0x1001)), ("Name:\ta\n", None), ("SigIgn:\tx", None)];
        for (status, expected) in cases {
            assert_eq!(ignored(status), expected, "{status:?}");
        }
    }
}

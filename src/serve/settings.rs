//! Settings of the server, as flags and environment variables.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::body::{BodyLimits, BodyMemory};
use super::browser_runtime;
use super::wire::MOST_IMAGES;

/// Where and how the server listens, and the limits of a request.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct ServeOptions {
    /// Address to listen on; beyond loopback, changing children or the model needs an admin key
    #[arg(long, env = "BIGNAS_HOST", value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "BIGNAS_PORT", value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Port that answers `/healthz`, `/readyz` and `/metrics` alone, beside the other: probes and scrapes get through however many
    /// clients there are; none, if not given
    #[arg(long, env = "BIGNAS_PROBE_PORT", value_name = "PORT")]
    pub probe_port: Option<u16>,
    /// Key that POST and DELETE /children and POST /model/reload want as `Authorization: Bearer KEY`
    #[arg(long, env = "BIGNAS_ADMIN_KEY", value_name = "KEY", hide_env_values = true)]
    pub admin_key: Option<AdminKey>,
    /// Directory of onnxruntime-web, with which the playground runs children in the visitor's browser; without it, it does not
    #[arg(long, env = "BIGNAS_ONNXRUNTIME_WEB", value_name = "DIR", value_parser = browser_runtime::directory)]
    pub onnxruntime_web: Option<PathBuf>,
    /// Bytes of a request's body at most
    #[arg(long, env = "BIGNAS_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 16 << 20, value_parser = at_least_one())]
    pub max_body_bytes: u64,
    /// Bytes that the bodies of all requests under way may take together; beyond that, requests are refused
    #[arg(long, env = "BIGNAS_BODIES_LIMIT_BYTES", value_name = "BYTES", default_value_t = 512 << 20, value_parser = at_least_one())]
    pub bodies_limit_bytes: u64,
    /// Images in one request at most
    #[arg(long, env = "BIGNAS_MAX_IMAGES_PER_REQUEST", value_name = "IMAGES", default_value_t = 64, value_parser = RangedU64ValueParser::<u64>::new().range(1..=MOST_IMAGES as u64))]
    pub max_images_per_request: u64,
    /// Labels in an answer to a request that does not say how many
    #[arg(long, env = "BIGNAS_TOP_K", value_name = "LABELS", default_value_t = 5, value_parser = at_least_one())]
    pub top_k: u64,
    /// Milliseconds from a request's head to its answer at most
    #[arg(long, env = "BIGNAS_TIMEOUT_MS", value_name = "MS", default_value_t = 30_000, value_parser = at_least_one())]
    pub timeout_ms: u64,
    /// Milliseconds that a connection may wait for a complete request head, also between requests
    #[arg(long, env = "BIGNAS_HEADER_TIMEOUT_MS", value_name = "MS", default_value_t = 15_000, value_parser = at_least_one())]
    pub header_timeout_ms: u64,
    /// Milliseconds that a request's body may take to arrive, and that a client may stop reading its answer
    #[arg(long, env = "BIGNAS_BODY_TIMEOUT_MS", value_name = "MS", default_value_t = 10_000, value_parser = at_least_one())]
    pub body_timeout_ms: u64,
    /// Open connections at most; more wait until one closes
    #[arg(long, env = "BIGNAS_MAX_CONNECTIONS", value_name = "CONNECTIONS", default_value_t = 512, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 20))]
    pub max_connections: u64,
    /// Milliseconds that the server goes on accepting after SIGTERM, while /readyz already says no
    #[arg(long, env = "BIGNAS_DRAIN_PAUSE_MS", value_name = "MS", default_value_t = 500)]
    pub drain_pause_ms: u64,
    /// Milliseconds that requests in flight get to finish after that
    #[arg(long, env = "BIGNAS_DRAIN_LIMIT_MS", value_name = "MS", default_value_t = 30_000)]
    pub drain_limit_ms: u64,
}

fn at_least_one() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..)
}

impl ServeOptions {
    /// How long a request may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn body_limits(&self) -> BodyLimits {
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        BodyLimits {
            bytes: size(self.max_body_bytes),
            images: size(self.max_images_per_request),
            timeout: Duration::from_millis(self.body_timeout_ms),
            memory: Arc::new(BodyMemory::new(size(self.bodies_limit_bytes))),
        }
    }
}

/// The admin key; it never shows up in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey(String);

impl AdminKey {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(hidden)")
    }
}

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an admin key is 8 or more printable ASCII characters without spaces, such as `openssl rand -hex 24` gives")]
pub struct AdminKeyError;

impl FromStr for AdminKey {
    type Err = AdminKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usable = text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if usable { Ok(Self(text.to_owned())) } else { Err(AdminKeyError) }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: ServeOptions,
    }

    #[test]
    fn every_flag_is_an_environment_variable_too() {
        let command = Command::command();
        command.clone().debug_assert();
        for argument in command.get_arguments().filter(|argument| argument.get_long().is_some_and(|long| long != "help")) {
            let long = argument.get_long().unwrap_or_default();
            let variable = format!("BIGNAS_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
            assert!(argument.get_help().is_some(), "--{long} has no help");
        }
    }

    #[test]
    fn flags_are_checked_when_they_are_read() {
        let cases: [(&[&str], bool); 9] = [
            (&[], true),
            (&["--host", "::", "--port", "0"], true),
            (&["--host", "nowhere"], false),
            (&["--port", "70000"], false),
            (&["--timeout-ms", "0"], false),
            (&["--max-connections", "0"], false),
            (&["--drain-pause-ms", "0"], true),
            (&["--admin-key", ""], false),
            (&["--admin-key", "has a space"], false),
        ];
        for (arguments, valid) in cases {
            let parsed = Command::try_parse_from(std::iter::once(&"serve").chain(arguments));
            assert_eq!(parsed.is_ok(), valid, "{arguments:?}: {parsed:?}");
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        let command = Command::try_parse_from(["serve", "--admin-key", "correct-horse"]).unwrap();
        assert!(!format!("{command:?}").contains("horse"));
    }
}

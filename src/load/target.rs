//! Where a load goes: a server, by plain HTTP or over TLS, and one of its routes.

use std::str::FromStr;
use std::sync::Arc;

use rustls_platform_verifier::ConfigVerifierExt;
use thiserror::Error;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, Error as TlsError};
use url::{Host, Url};

/// Where a server listens.
#[derive(Clone)]
pub struct Target {
    /// Host and port.
    pub(super) authority: String,
    /// What its routes begin with, such as `/models`; empty where they begin at the root.
    pub(super) prefix: String,
    /// How to talk to it over TLS; none where it speaks plain HTTP.
    pub(super) tls: Option<Tls>,
}

/// How to talk to a server over TLS, and whose certificate to expect.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    pub(super) name: ServerName<'static>,
}

/// Where on a server images are posted to, such as `/classify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(pub(super) String);

/// What is not an address or a route.
#[derive(Debug, Error)]
pub enum TargetError {
    /// An address that is none.
    #[error("{0:?} is not the address of a server, such as http://127.0.0.1:8080 or https://models.example.org/vision")]
    Address(String),
    /// A path that is none.
    #[error("{0:?} is not the path of a route, such as /classify")]
    Path(String),
    /// This machine's certificates are of no use.
    #[error("cannot check a server's certificate by those of this machine")]
    Certificates(#[source] TlsError),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || TargetError::Address(text.to_owned());
        let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
        let url = url.map_err(|_| refused())?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        let (Some(host), Some(port), true) = (url.host(), url.port_or_known_default(), plain) else { return Err(refused()) };
        let tls = match url.scheme() {
            "http" => None,
            "https" => Some(Tls::with(&host).ok_or_else(refused)?.map_err(TargetError::Certificates)?),
            _ => return Err(refused()),
        };
        Ok(Self { authority: format!("{host}:{port}"), prefix: url.path().trim_end_matches('/').to_owned(), tls })
    }
}

impl Tls {
    /// None where no certificate can name such a host.
    fn with(host: &Host<&str>) -> Option<Result<Self, TlsError>> {
        let name = match host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned()).ok()?,
            Host::Ipv4(address) => ServerName::from(*address),
            Host::Ipv6(address) => ServerName::from(*address),
        };
        Some(ClientConfig::with_platform_verifier().map(|mut config| {
            // What the client speaks: a server that may choose would take HTTP/2.
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Self { connector: TlsConnector::from(Arc::new(config)), name }
        }))
    }
}

impl FromStr for Path {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['?', '#']);
        if plain { Ok(Self(text.to_owned())) } else { Err(TargetError::Path(text.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_or_refused() {
        for (text, understood) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
            ("localhost:80", "http://localhost:80"),
            ("http://host", "http://host:80"),
            ("http://[::1]:9", "http://[::1]:9"),
            ("https://host", "https://host:443"),
            ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
            ("https://[::1]", "https://[::1]:443"),
            ("http://host:1/models/vision/", "http://host:1/models/vision"),
        ] {
            assert_eq!(format!("{:?}", text.parse::<Target>().unwrap()), understood, "{text}");
        }
        for text in
            ["", "http://", "ftp://host", "http://host:port", "http://user@host:1", "http://host?a=b", "http://host/#a", "unix:///a"]
        {
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

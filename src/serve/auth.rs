//! Who may add and remove children, and replace the model.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Server;
use super::error::{ApiError, Code};
use super::settings::AdminKey;

/// The rule that this server follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// Everyone who reaches the server: it listens on loopback only, and no key is set.
    Open,
    /// Whoever has the key.
    Key(AdminKey),
    /// Nobody: the server can be reached from elsewhere, and no key is set.
    Closed,
}

impl Access {
    pub(super) fn new(host: IpAddr, key: Option<AdminKey>) -> Self {
        match key {
            Some(key) => Self::Key(key),
            None if host.is_loopback() => Self::Open,
            None => Self::Closed,
        }
    }

    /// Lets a request pass or says what it lacks.
    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match self {
            Self::Open => Ok(()),
            Self::Closed => Err(ApiError::new(
                Code::Forbidden,
                "the server listens beyond loopback without an admin key; start it with --admin-key or BIGNAS_ADMIN_KEY to change children or the model",
            )),
            Self::Key(key) => match headers.get(AUTHORIZATION).and_then(bearer) {
                None => Err(ApiError::new(Code::Unauthorized, "send the admin key as `Authorization: Bearer KEY`")),
                Some(given) if same(given, key.as_bytes()) => Ok(()),
                Some(_) => Err(ApiError::new(Code::Unauthorized, "the admin key is wrong")),
            },
        }
    }
}

/// The key in an `Authorization` header; the scheme's case does not matter (RFC 7235).
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, key) = header.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

/// Compares in a time that depends neither on where two keys differ nor on their length.
fn same(given: &[u8], expected: &[u8]) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(expected)).into()
}

/// Proof that a request may change children or the model.
#[derive(Debug)]
pub(super) struct Admin;

impl FromRequestParts<Server> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, server: &Server) -> Result<Self, Self::Rejection> {
        server.state().access.check(&parts.headers)?;
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_follows_from_host_and_key() {
        let key: AdminKey = "correct-horse".parse().unwrap();
        let cases = [
            ("127.0.0.1", None, Access::Open),
            ("127.8.8.8", None, Access::Open),
            ("::1", None, Access::Open),
            ("0.0.0.0", None, Access::Closed),
            ("::", None, Access::Closed),
            ("192.168.0.7", None, Access::Closed),
            ("127.0.0.1", Some(key.clone()), Access::Key(key.clone())),
            ("0.0.0.0", Some(key.clone()), Access::Key(key)),
        ];
        for (host, key, expected) in cases {
            assert_eq!(Access::new(host.parse().unwrap(), key), expected, "{host}");
        }
    }

    #[test]
    fn only_the_key_opens() {
        let key = Access::Key("correct-horse".parse().unwrap());
        let cases = [
            (&key, Some("Bearer correct-horse"), None),
            (&key, Some("bearer  correct-horse"), None),
            (&key, Some("Bearer correct-hors"), Some(Code::Unauthorized)),
            (&key, Some("Bearer correct-horse2"), Some(Code::Unauthorized)),
            (&key, Some("Bearer "), Some(Code::Unauthorized)),
            (&key, Some("Basic correct-horse"), Some(Code::Unauthorized)),
            (&key, Some("correct-horse"), Some(Code::Unauthorized)),
            (&key, None, Some(Code::Unauthorized)),
            (&Access::Open, None, None),
            (&Access::Closed, Some("Bearer correct-horse"), Some(Code::Forbidden)),
        ];
        for (access, header, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.extend(header.map(|value| (AUTHORIZATION, HeaderValue::from_static(value))));
            assert_eq!(access.check(&headers).err().map(|error| error.code()), expected, "{access:?} {header:?}");
        }
    }
}

//! Answers that a client may have already.

use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::error::{ApiError, NOT_MODIFIED};

/// `answer` under an entity tag, or just the tag where the request says that its client has what it names.
///
/// # Errors
/// Where `etag` cannot stand in a header.
pub(super) fn tagged(request: &HeaderMap, etag: &str, answer: impl IntoResponse) -> Result<Response, ApiError> {
    let value = HeaderValue::from_str(etag).map_err(ApiError::internal)?;
    let mut response = if is_known(request, etag) { NOT_MODIFIED.into_response() } else { answer.into_response() };
    response.headers_mut().insert(ETAG, value);
    Ok(response)
}

/// Whether `If-None-Match` names `etag`, by the weak comparison that RFC 9110 wants there.
fn is_known(request: &HeaderMap, etag: &str) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let lists = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|tag| tag.trim() == "*" || strong(tag) == strong(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_tag_is_found_in_every_form() {
        let cases = [("\"a\"", true), ("W/\"a\"", true), ("\"b\", \"a\"", true), ("*", true), ("\"b\"", false), ("a", false), ("", false)];
        for (given, known) in cases {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(given))]);
            assert_eq!(is_known(&headers, "\"a\""), known, "{given:?}");
        }
    }
}

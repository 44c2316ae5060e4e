//! The body of a classification: an image as it is, a form, or JSON.

use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::DeserializeOwned;

use super::ask::{Ask, Fields};
use super::body::{self, BodyLimits, Share};
use super::error::{ApiError, Code};
use super::wire::ClassifyJson;
use crate::image::{ACCEPTED_CONTENT_TYPES, accepts_content_type};

/// Standard base64, padded or not.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Longer JSON is parsed, and its images decoded from base64, off the asynchronous threads: at about 1 GB/s, this takes 100 µs.
const QUICK_JSON_BYTES: usize = 100 << 10;

/// A classification as the client sent it; the images are not decoded yet.
#[derive(Debug)]
pub(super) struct ClassifyRequest {
    /// The bytes of the image files, at least one.
    pub(super) images: Vec<Bytes>,
    pub(super) ask: Ask,
    /// When its last byte was there: its deadline counts from then on.
    pub(super) complete: Instant,
}

/// Reads and parses a request. Its body counts as long as the [`Share`] that comes beside it lives.
///
/// # Errors
/// A problem for everything that is not one or more images and at most one well-formed budget.
pub(super) async fn read(request: Request, limits: &BodyLimits) -> Result<(ClassifyRequest, Share), ApiError> {
    let query = Fields::from_query(request.uri().query())?;
    let kind = Kind::of(request.headers())?;
    let (parts, body) = request.into_parts();
    let (bytes, share) = body::read(&parts.headers, body, limits).await?;
    let complete = Instant::now();
    if bytes.is_empty() {
        return Err(ApiError::new(Code::EmptyBody, "send the bytes of an image, a form with a file named `image`, or JSON"));
    }
    let (images, fields) = match kind {
        Kind::Image => (vec![bytes], Fields::default()),
        Kind::Json => {
            let max_images = limits.images;
            parse(bytes, move |json| from_json(json, max_images)).await?
        }
        Kind::Form => {
            let mut request = Request::from_parts(parts, Body::from(bytes));
            // The body has met its own limit.
            DefaultBodyLimit::disable().apply(&mut request);
            from_form(request, limits.images).await?
        }
    };
    if images.is_empty() {
        return Err(invalid("the request has no image; name the field `image`"));
    }
    Ok((ClassifyRequest { images, ask: query.merge(fields)?.check()?, complete }, share))
}

/// Reads JSON into `T`.
///
/// # Errors
/// A problem for another media type, and for what is not such JSON.
pub(super) async fn read_json<T: DeserializeOwned + Send + 'static>(request: Request, limits: &BodyLimits) -> Result<T, ApiError> {
    if !matches!(Kind::of(request.headers()), Ok(Kind::Json)) {
        return Err(ApiError::new(Code::UnsupportedMediaType, "send JSON, with the header Content-Type: application/json"));
    }
    let (parts, body) = request.into_parts();
    let (bytes, _share) = body::read(&parts.headers, body, limits).await?;
    if bytes.is_empty() {
        return Err(ApiError::new(Code::EmptyBody, "send JSON"));
    }
    let read = |json: &[u8]| serde_json::from_slice(json).map_err(|error| invalid(format!("the JSON is not what it should be: {error}")));
    parse(bytes, read).await
}

/// What `read` makes of JSON.
async fn parse<T: Send + 'static>(json: Bytes, read: impl FnOnce(&[u8]) -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    if json.len() <= QUICK_JSON_BYTES {
        return read(&json);
    }
    tokio::task::spawn_blocking(move || read(&json)).await.map_err(ApiError::internal)?
}

/// The forms a body may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Form,
    Json,
}

impl Kind {
    /// What the headers declare. Nothing declared means an image: its content says which.
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let unsupported = |detail| ApiError::new(Code::UnsupportedMediaType, detail);
        if text(headers, CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(unsupported("compressed bodies are not supported; send the body without Content-Encoding".to_owned()));
        }
        let Some(content_type) = text(headers, CONTENT_TYPE) else { return Ok(Self::Image) };
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "multipart/form-data" => Ok(Self::Form),
            "application/json" => Ok(Self::Json),
            essence if accepts_content_type(essence) => Ok(Self::Image),
            _ => Err(unsupported(format!(
                "send one of {}, multipart/form-data or application/json (with curl: -F image=@FILE)",
                ACCEPTED_CONTENT_TYPES.join(", ")
            ))),
        }
    }
}

/// A header as text; what is not text is as good as an unknown value.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn from_json(bytes: &[u8], max_images: usize) -> Result<(Vec<Bytes>, Fields), ApiError> {
    let json: ClassifyJson =
        serde_json::from_slice(bytes).map_err(|error| invalid(format!("the JSON is not what it should be: {error}")))?;
    if json.image.0.len() > max_images {
        return Err(too_many(max_images));
    }
    let fields = Fields::from(&json);
    let decode = |text: &String| {
        let image = BASE64.decode(text).map_err(|error| invalid(format!("image is not base64: {error}")))?;
        Ok(Bytes::from(image))
    };
    let images = json.image.0.iter().map(decode).collect::<Result<_, ApiError>>()?;
    Ok((images, fields))
}

async fn from_form(request: Request, max_images: usize) -> Result<(Vec<Bytes>, Fields), ApiError> {
    let malformed = |detail: String| invalid(format!("the form is malformed: {detail}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|rejection| malformed(rejection.body_text()))?;
    let (mut images, mut fields) = (Vec::new(), Fields::default());
    while let Some(part) = form.next_field().await.map_err(|error| malformed(error.body_text()))? {
        let name = part.name().unwrap_or_default().to_owned();
        if name == "image" {
            check_part(part.content_type())?;
            if images.len() == max_images {
                return Err(too_many(max_images));
            }
            images.push(part.bytes().await.map_err(|error| malformed(error.body_text()))?);
        } else {
            let text = part.text().await.map_err(|error| malformed(error.body_text()))?;
            fields.set(&name, &text)?;
        }
    }
    Ok((images, fields))
}

/// A part of a form may say what it is, but then it must be an image.
fn check_part(content_type: Option<&str>) -> Result<(), ApiError> {
    match content_type {
        Some(other) if !accepts_content_type(other) => Err(ApiError::new(
            Code::UnsupportedMediaType,
            format!("the form's part `image` must be one of {}", ACCEPTED_CONTENT_TYPES.join(", ")),
        )),
        _ => Ok(()),
    }
}

fn invalid(detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidRequest, detail)
}

fn too_many(limit: usize) -> ApiError {
    ApiError::new(Code::TooManyImages, format!("the request has more images than the limit of {limit}; send them in several requests"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::ask::Select;
    use super::super::body::BodyMemory;
    use super::*;

    /// Reads a request under limits that its tests know.
    async fn read(request: Request) -> Result<ClassifyRequest, ApiError> {
        let memory = Arc::new(BodyMemory::new(2000));
        let limits = BodyLimits { bytes: 1000, images: 2, timeout: Duration::from_secs(5), memory };
        Ok(super::read(request, &limits).await?.0)
    }

    const FORM: &str = "multipart/form-data; boundary=xx";

    fn request(content_type: &str, body: impl Into<Body>) -> Request {
        let builder = Request::builder().method("POST").uri("/classify?top_k=3");
        let builder = if content_type.is_empty() { builder } else { builder.header(CONTENT_TYPE, content_type) };
        builder.body(body.into()).unwrap()
    }

    /// A form with the given headers and contents as parts.
    fn form(parts: &[(&str, &str)]) -> String {
        let part = |(headers, content): &(&str, &str)| format!("--xx\r\nContent-Disposition: form-data; {headers}\r\n\r\n{content}\r\n");
        parts.iter().map(part).collect::<String>() + "--xx--\r\n"
    }

    #[tokio::test]
    async fn every_form_of_body_brings_its_images() {
        let image = ("name=\"image\"; filename=\"a.png\"", "first");
        let typed = ("name=\"image\"; filename=\"b.png\"\r\nContent-Type: image/png", "second");
        let cases: [(&str, String, &[&str]); 8] = [
            ("image/png", "bytes".to_owned(), &["bytes"]),
            ("IMAGE/JPEG; q=1", "bytes".to_owned(), &["bytes"]),
            ("application/octet-stream", "bytes".to_owned(), &["bytes"]),
            ("", "bytes".to_owned(), &["bytes"]),
            ("application/json; charset=utf-8", r#"{"image": "Ynl0ZXM="}"#.to_owned(), &["bytes"]),
            ("application/json", r#"{"image": ["Ynl0ZXM", "Ynl0ZXM="]}"#.to_owned(), &["bytes", "bytes"]),
            (FORM, form(&[image]), &["first"]),
            (FORM, form(&[image, typed]), &["first", "second"]),
        ];
        for (content_type, body, expected) in cases {
            let read = read(request(content_type, body.clone())).await.unwrap();
            assert_eq!(read.images, expected, "{content_type}: {body}");
            assert_eq!(read.ask.top_k, Some(3));
        }
    }

    #[tokio::test]
    async fn fields_may_come_in_the_body() {
        let json = r#"{"image": "Ynl0ZXM=", "mflops": 2.5, "child": null}"#.to_owned();
        let parts = form(&[("name=\"mflops\"", "2.5"), ("name=\"image\"", "bytes")]);
        for (content_type, body) in [("application/json", json), (FORM, parts)] {
            let read = read(request(content_type, body)).await.unwrap();
            let Select::Within(budget) = read.ask.select else { panic!("{:?}", read.ask) };
            assert_eq!(budget.mflops, Some(2.5), "{content_type}");
        }
    }

    #[tokio::test]
    async fn what_is_no_classification_is_refused() {
        let image = ("name=\"image\"", "bytes");
        let json = "application/json";
        let cases: [(&str, String, Code, &str); 19] = [
            ("text/plain", "bytes".to_owned(), Code::UnsupportedMediaType, "send one of image/jpeg"),
            ("image/svg+xml", "<svg/>".to_owned(), Code::UnsupportedMediaType, "send one of"),
            ("image/png", String::new(), Code::EmptyBody, ""),
            ("image/png", "x".repeat(1001), Code::BodyTooLarge, "limit of 1000 bytes"),
            (json, "{".to_owned(), Code::InvalidRequest, "line 1 column 1"),
            (json, r#"{"mflops": 1}"#.to_owned(), Code::InvalidRequest, "missing field `image`"),
            (json, r#"{"image": 5}"#.to_owned(), Code::InvalidRequest, "expected an image in base64"),
            (json, r#"{"image": "*"}"#.to_owned(), Code::InvalidRequest, "not base64"),
            (json, r#"{"image": []}"#.to_owned(), Code::InvalidRequest, "no image"),
            (json, r#"{"image": ["*", "*", "*"]}"#.to_owned(), Code::TooManyImages, "limit of 2"),
            (json, format!(r#"{{"image": ["{}"], "size": 5}}"#, r#"",""#.repeat(250)), Code::InvalidRequest, "unknown field `size`"),
            (json, r#"{"image": "", "image": ""}"#.to_owned(), Code::InvalidRequest, "duplicate field"),
            (json, r#"{"image": "", "size": 5}"#.to_owned(), Code::InvalidRequest, "unknown field `size`"),
            (json, r#"{"image": "", "params": -1}"#.to_owned(), Code::InvalidRequest, "expected u64"),
            (FORM, "not a form".to_owned(), Code::InvalidRequest, "malformed"),
            (FORM, form(&[("name=\"mflops\"", "2")]), Code::InvalidRequest, "no image"),
            (FORM, form(&[image, image, image]), Code::TooManyImages, "limit of 2"),
            (FORM, form(&[image, ("name=\"top_k\"", "1")]), Code::InvalidRequest, "top_k is given more than once"),
            (FORM, form(&[("name=\"image\"\r\nContent-Type: text/plain", "x")]), Code::UnsupportedMediaType, "part `image`"),
        ];
        for (content_type, body, code, detail) in cases {
            let error = read(request(content_type, body.clone())).await.expect_err(&body);
            assert_eq!(error.code(), code, "{content_type}: {body}: {error}");
            assert!(error.to_string().contains(detail), "{error:?} lacks {detail:?}");
        }
    }

    #[tokio::test]
    async fn compressed_bodies_are_refused() {
        for (coding, accepted) in [("gzip", false), ("br", false), ("identity", true)] {
            let mut request = request("image/png", "bytes");
            request.headers_mut().insert(CONTENT_ENCODING, coding.parse().unwrap());
            assert_eq!(read(request).await.is_ok(), accepted, "{coding}");
        }
    }
}

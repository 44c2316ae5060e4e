//! What a client gets instead of an answer.

use serde::Serialize;
use utoipa::ToSchema;

use super::super::error::Code;

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A name for the kind of problem; it ends with `code`.
    #[serde(rename = "type")]
    #[schema(example = "urn:bignas:problem:budget_too_small")]
    pub kind: String,
    /// What went wrong, the same for every problem of this kind.
    #[schema(example = "No child is within the budget")]
    pub title: &'static str,
    /// The status code of the response.
    #[schema(example = 422)]
    pub status: u16,
    /// What is wrong with this request, and what to do about it.
    pub detail: String,
    /// What programs should look at: it never changes.
    #[schema(example = "budget_too_small")]
    pub code: &'static str,
    /// With `budget_too_small`: what the smallest child costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smallest: Option<Smallest>,
    /// With `accuracy_out_of_reach`: the best accuracy within the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_accuracy: Option<f64>,
    /// With 429 and 503: when to try again, in seconds; also the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

/// The least that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Smallest {
    /// Multiply-adds of the smallest child, in millions.
    #[schema(example = 0.85)]
    pub mflops: f64,
    /// Its parameters.
    #[schema(example = 9_482)]
    pub params: u64,
    /// The lowest latency of any child on this device, in milliseconds; `null` until it has been measured.
    #[schema(example = 0.05)]
    pub latency_ms: Option<f64>,
}

impl Problem {
    pub(in crate::serve) fn new(code: Code, detail: String) -> Self {
        let kind = format!("urn:bignas:problem:{}", code.name());
        let (title, status) = (code.title(), code.status().as_u16());
        Self { kind, title, status, detail, code: code.name(), smallest: None, best_accuracy: None, retry_after_s: None }
    }
}

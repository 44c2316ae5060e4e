//! What a classification asks for beside its images: a budget or a child, and how many labels.
//!
//! The same fields come as query, form or JSON; each may be given once.

use std::time::Duration;

use super::error::{ApiError, Code};
use super::wire::{Asked, ClassifyJson};
use crate::engine::Budget;
use crate::space::ChildId;

/// Names of the fields.
pub(super) const FIELDS: [&str; 7] = ["mflops", "params", "latency_ms", "min_accuracy", "child", "top_k", "deadline_ms"];

/// The longest deadline, in milliseconds: a day.
const LONGEST_DEADLINE_MS: f64 = 86_400_000.0;

/// The fields as they were given.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fields {
    mflops: Option<f64>,
    params: Option<u64>,
    latency_ms: Option<f64>,
    min_accuracy: Option<f64>,
    child: Option<ChildId>,
    top_k: Option<usize>,
    deadline_ms: Option<f64>,
}

/// What is asked for, checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ask {
    pub(super) select: Select,
    /// How many labels, where the request says so; at least 1.
    pub(super) top_k: Option<usize>,
    /// How long queue and computation may take, where the request says so.
    pub(super) deadline: Option<Duration>,
}

/// Which child should answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Select {
    /// The most accurate within a budget.
    Within(Budget),
    /// This one.
    Child(ChildId),
}

impl Select {
    /// The bounds as they are echoed to the client.
    pub(super) fn asked(self) -> Asked {
        match self {
            Self::Within(budget) => budget.into(),
            Self::Child(id) => Asked { child: Some(id), ..Asked::default() },
        }
    }
}

impl Fields {
    /// Fields from a query string; `None` where there is none.
    pub(super) fn from_query(query: Option<&str>) -> Result<Self, ApiError> {
        let mut fields = Self::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            fields.set(&decode_query(name)?, &decode_query(value)?)?;
        }
        Ok(fields)
    }

    /// Sets the field `name` from text.
    ///
    /// # Errors
    /// An unknown field, a text that is no such value, or a field that was given already.
    pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), ApiError> {
        match name {
            "mflops" => put(&mut self.mflops, name, text, "a number"),
            "params" => put(&mut self.params, name, text, "a whole number"),
            "latency_ms" => put(&mut self.latency_ms, name, text, "a number"),
            "min_accuracy" => put(&mut self.min_accuracy, name, text, "a fraction such as 0.9"),
            "child" => put(&mut self.child, name, text, "16 hexadecimal digits in lower case, as GET /children lists them"),
            "deadline_ms" => put(&mut self.deadline_ms, name, text, "a number"),
            "top_k" => put(&mut self.top_k, name, text, "a whole number"),
            _ => Err(invalid(format!("unknown field {}; known are {}", quoted(name), FIELDS.join(", ")))),
        }
    }

    /// Adds the fields of `other`; none may be given in both.
    pub(super) fn merge(self, other: Self) -> Result<Self, ApiError> {
        Ok(Self {
            mflops: either("mflops", self.mflops, other.mflops)?,
            params: either("params", self.params, other.params)?,
            latency_ms: either("latency_ms", self.latency_ms, other.latency_ms)?,
            min_accuracy: either("min_accuracy", self.min_accuracy, other.min_accuracy)?,
            child: either("child", self.child, other.child)?,
            top_k: either("top_k", self.top_k, other.top_k)?,
            deadline_ms: either("deadline_ms", self.deadline_ms, other.deadline_ms)?,
        })
    }

    /// Checks every value, and that they do not contradict each other.
    pub(super) fn check(self) -> Result<Ask, ApiError> {
        let Self { mflops, params, latency_ms, min_accuracy, child, top_k, deadline_ms } = self;
        for (name, value) in [("mflops", mflops), ("latency_ms", latency_ms), ("deadline_ms", deadline_ms)] {
            positive(name, value)?;
        }
        if params == Some(0) {
            return Err(budget("params is 0; it must be at least 1".to_owned()));
        }
        if let Some(accuracy) = min_accuracy.filter(|&accuracy| !(accuracy > 0.0 && accuracy <= 1.0)) {
            return Err(budget(format!("min_accuracy is {accuracy}; it is a fraction above 0 and at most 1, such as 0.9")));
        }
        if top_k == Some(0) {
            return Err(invalid("top_k is 0; it must be at least 1".to_owned()));
        }
        let within = Budget { mflops, params, latency_ms, min_accuracy };
        let select = match child {
            Some(_) if within != Budget::default() => {
                return Err(budget("child names the child already; give either child or a budget, not both".to_owned()));
            }
            Some(id) => Select::Child(id),
            None => Select::Within(within),
        };
        // Beyond a day a deadline is none; and a `Duration` holds no more than it does.
        let deadline = deadline_ms.map(|ms| Duration::from_secs_f64(ms.min(LONGEST_DEADLINE_MS) / 1e3));
        Ok(Ask { select, top_k, deadline })
    }
}

impl From<&ClassifyJson> for Fields {
    fn from(json: &ClassifyJson) -> Self {
        let &ClassifyJson { mflops, params, latency_ms, min_accuracy, child, top_k, deadline_ms, .. } = json;
        Self { mflops, params, latency_ms, min_accuracy, child, top_k, deadline_ms }
    }
}

/// Refuses what is not a finite number above 0.
pub(super) fn positive(name: &str, value: Option<f64>) -> Result<(), ApiError> {
    match value {
        Some(value) if !(value.is_finite() && value > 0.0) => Err(budget(format!("{name} is {value}; it must be a finite number above 0"))),
        _ => Ok(()),
    }
}

fn put<T: std::str::FromStr>(field: &mut Option<T>, name: &str, text: &str, form: &str) -> Result<(), ApiError> {
    if field.is_some() {
        return Err(twice(name));
    }
    let value = text.trim().parse().map_err(|_| budget(format!("{name} is {}; it must be {form}", quoted(text))))?;
    *field = Some(value);
    Ok(())
}

fn either<T>(name: &str, first: Option<T>, second: Option<T>) -> Result<Option<T>, ApiError> {
    if first.is_some() && second.is_some() {
        return Err(twice(name));
    }
    Ok(first.or(second))
}

/// One name or value of a query string, decoded.
fn decode_query(text: &str) -> Result<String, ApiError> {
    let malformed = || invalid(format!("the query part {} is not percent-encoded UTF-8", quoted(text)));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = digit().zip(digit()).ok_or_else(malformed)?;
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

/// What a client sent, safe and short enough to be said back.
fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    if shown.len() < text.len() { format!("{shown:?}…") } else { format!("{shown:?}") }
}

fn twice(name: &str) -> ApiError {
    invalid(format!("{name} is given more than once; give it once, in the query, the form or the JSON"))
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(Code::InvalidRequest, detail)
}

fn budget(detail: String) -> ApiError {
    ApiError::new(Code::InvalidBudget, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &str) -> Result<Ask, ApiError> {
        Fields::from_query(Some(query))?.check()
    }

    #[test]
    fn what_makes_sense_is_understood() {
        let id: ChildId = "0123456789abcdef".parse().unwrap();
        let within = |budget| Ask { select: Select::Within(budget), top_k: None, deadline: None };
        let none = Budget::default();
        let cases = [
            ("", within(none)),
            ("mflops=3", within(Budget { mflops: Some(3.0), ..none })),
            ("mflops=3e0&params=5000", within(Budget { mflops: Some(3.0), params: Some(5000), ..none })),
            ("latency_ms=0.25&min_accuracy=1", within(Budget { latency_ms: Some(0.25), min_accuracy: Some(1.0), ..none })),
            ("%6Dflops=+3%2E5", within(Budget { mflops: Some(3.5), ..none })),
            ("child=0123456789abcdef&top_k=3", Ask { select: Select::Child(id), top_k: Some(3), deadline: None }),
            ("deadline_ms=1.5", Ask { deadline: Some(Duration::from_micros(1500)), ..within(none) }),
            ("deadline_ms=1e300", Ask { deadline: Some(Duration::from_secs(86_400)), ..within(none) }),
            ("top_k=1&&", Ask { select: Select::Within(none), top_k: Some(1), deadline: None }),
        ];
        for (query, expected) in cases {
            assert_eq!(ask(query).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_field() {
        let cases = [
            ("mflops=-1", Code::InvalidBudget, "mflops is -1; it must be a finite number above 0"),
            ("mflops=0", Code::InvalidBudget, "mflops is 0"),
            ("mflops=-0.0", Code::InvalidBudget, "mflops is -0"),
            ("mflops=NaN", Code::InvalidBudget, "mflops is NaN"),
            ("latency_ms=inf", Code::InvalidBudget, "latency_ms is inf"),
            ("latency_ms=1e999", Code::InvalidBudget, "latency_ms is inf"),
            ("mflops=", Code::InvalidBudget, "mflops is \"\"; it must be a number"),
            ("mflops", Code::InvalidBudget, "mflops is \"\""),
            ("mflops=cheap", Code::InvalidBudget, "mflops is \"cheap\""),
            ("deadline_ms=0", Code::InvalidBudget, "deadline_ms is 0; it must be a finite number above 0"),
            ("deadline_ms=soon", Code::InvalidBudget, "deadline_ms is \"soon\""),
            ("params=0", Code::InvalidBudget, "params is 0"),
            ("params=-5", Code::InvalidBudget, "params is \"-5\"; it must be a whole number"),
            ("params=1.5", Code::InvalidBudget, "params is \"1.5\""),
            ("min_accuracy=90", Code::InvalidBudget, "it is a fraction"),
            ("min_accuracy=0", Code::InvalidBudget, "min_accuracy is 0"),
            ("child=0123456789ABCDEF", Code::InvalidBudget, "child is \"0123456789ABCDEF\""),
            ("child=0123456789abcdef&mflops=3", Code::InvalidBudget, "not both"),
            ("child=0123456789abcdef&min_accuracy=0.5", Code::InvalidBudget, "not both"),
            ("top_k=0", Code::InvalidRequest, "top_k is 0"),
            ("mflops=3&mflops=4", Code::InvalidRequest, "mflops is given more than once"),
            ("flops=3", Code::InvalidRequest, "unknown field \"flops\"; known are mflops, params"),
            ("mflops=%zz", Code::InvalidRequest, "\"%zz\" is not percent-encoded"),
            ("mflops=%f", Code::InvalidRequest, "\"%f\""),
            ("mflops=%ff", Code::InvalidRequest, "\"%ff\""),
        ];
        for (query, code, detail) in cases {
            let error = ask(query).expect_err(query);
            assert_eq!(error.code(), code, "{query}: {error}");
            assert!(error.to_string().contains(detail), "{query}: {error:?} lacks {detail:?}");
        }
    }

    #[test]
    fn sources_add_up_but_never_overlap() {
        let query = Fields::from_query(Some("mflops=3")).unwrap();
        let json = |text| Fields::from(&serde_json::from_str::<ClassifyJson>(text).unwrap());
        let ask = query.clone().merge(json(r#"{"image": "", "params": 7, "top_k": null}"#)).unwrap().check().unwrap();
        assert_eq!(ask.select, Select::Within(Budget { mflops: Some(3.0), params: Some(7), ..Budget::default() }));

        assert_eq!(query.merge(json(r#"{"image": "", "mflops": 3}"#)).unwrap_err().code(), Code::InvalidRequest);
    }

    #[test]
    fn long_values_are_said_back_shortly() {
        let error = ask(&format!("mflops={}", "x".repeat(10_000))).unwrap_err();
        assert!(error.to_string().len() < 200, "{error}");
    }
}

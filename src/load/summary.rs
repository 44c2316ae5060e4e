//! What a load came to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::client::Reply;
use crate::space::ChildId;

/// What became of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// When it was due, from the start of the load.
    pub due: Duration,
    /// From when it was due until its answer was there.
    pub latency: Duration,
    /// The deadline that it asked for.
    pub deadline: Option<Duration>,
    /// The answer; none where the connection failed, or no answer came in time.
    pub reply: Option<Reply>,
}

/// A load in numbers. Latencies are of answers with status 200.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Length of the load, in seconds.
    pub seconds: f64,
    /// Requests sent.
    pub requests: usize,
    /// Answers with status 200 a second, as far as they came within the load's length.
    pub throughput: f64,
    /// Of those only the ones before their deadline; the same where there is none.
    pub goodput: f64,
    /// Half of the latencies are below this many milliseconds; then nine in ten, and so on.
    pub p50_ms: f64,
    /// The 90th percentile, in milliseconds.
    pub p90_ms: f64,
    /// The 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// The 99.9th percentile, in milliseconds.
    pub p999_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
    /// The 99th percentile of answers with status 429 or 504, in milliseconds; none where there were none.
    pub refusal_p99_ms: Option<f64>,
    /// Share of all requests answered with 200 before the deadline.
    pub in_time: f64,
    /// Share of all requests refused with 429 or 504.
    pub refused: f64,
    /// Share of the answers with 200 by a smaller child than an idle server would have taken.
    pub degraded: f64,
    /// Mean accuracy of the children that answered, over answers whose child's accuracy is known.
    pub mean_accuracy: Option<f64>,
    /// Answers by status; 0 stands for requests without one.
    pub statuses: BTreeMap<u16, usize>,
    /// Answers by child.
    pub children: BTreeMap<ChildId, usize>,
}

/// Summarises what a load of `length` came to.
#[must_use]
pub fn summarise(outcomes: &[Outcome], length: Duration) -> Summary {
    let status = |outcome: &Outcome| outcome.reply.as_ref().map_or(0, |reply| reply.status);
    let (seconds, requests) = (length.as_secs_f64(), outcomes.len());
    let answered: Vec<&Outcome> = outcomes.iter().filter(|outcome| status(outcome) == 200).collect();
    let refusals: Vec<&Outcome> = outcomes.iter().filter(|outcome| matches!(status(outcome), 429 | 504)).collect();
    let replies = || answered.iter().filter_map(|outcome| outcome.reply.as_ref());
    let keeps_deadline = |outcome: &Outcome| outcome.deadline.is_none_or(|deadline| outcome.latency <= deadline);
    let in_time = answered.iter().filter(|outcome| keeps_deadline(outcome)).count();
    // What an open loop has left in the server at its end is answered in no time that it counts.
    let within: Vec<&&Outcome> = answered.iter().filter(|outcome| outcome.due + outcome.latency <= length).collect();
    let share = |count: usize, of: usize| if of == 0 { 0.0 } else { count as f64 / of as f64 };
    let latencies = sorted_ms(&answered);
    let accuracies: Vec<f64> = replies().filter_map(|reply| reply.accuracy).collect();
    let (mut statuses, mut children) = (BTreeMap::new(), BTreeMap::new());
    outcomes.iter().for_each(|outcome| *statuses.entry(status(outcome)).or_insert(0) += 1);
    replies().filter_map(|reply| reply.child).for_each(|child| *children.entry(child).or_insert(0) += 1);
    Summary {
        seconds,
        requests,
        throughput: within.len() as f64 / seconds,
        goodput: within.iter().filter(|outcome| keeps_deadline(outcome)).count() as f64 / seconds,
        p50_ms: quantile(&latencies, 0.5),
        p90_ms: quantile(&latencies, 0.9),
        p99_ms: quantile(&latencies, 0.99),
        p999_ms: quantile(&latencies, 0.999),
        max_ms: latencies.last().copied().unwrap_or(0.0),
        refusal_p99_ms: (!refusals.is_empty()).then(|| quantile(&sorted_ms(&refusals), 0.99)),
        in_time: share(in_time, requests),
        refused: share(refusals.len(), requests),
        degraded: share(replies().filter(|reply| reply.degraded).count(), answered.len()),
        mean_accuracy: (!accuracies.is_empty()).then(|| accuracies.iter().sum::<f64>() / accuracies.len() as f64),
        statuses,
        children,
    }
}

fn sorted_ms(outcomes: &[&Outcome]) -> Vec<f64> {
    let mut latencies: Vec<f64> = outcomes.iter().map(|outcome| outcome.latency.as_secs_f64() * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// The smallest value that at least this share of the sorted values does not exceed; 0 of none.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Throughputs of consecutive windows, and whether they have settled: the last three within a tenth of their mean.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Windows(pub Vec<f64>);

impl Windows {
    /// Windows that are compared.
    const LAST: usize = 3;
    /// How far each may be from their mean.
    const TOLERANCE: f64 = 0.1;

    /// Whether the last windows agree.
    #[must_use]
    pub fn stable(&self) -> bool {
        let Some(last) = self.0.len().checked_sub(Self::LAST).map(|first| &self.0[first..]) else { return false };
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        mean > 0.0 && last.iter().all(|window| (window / mean - 1.0).abs() <= Self::TOLERANCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, ms: u64, degraded: bool) -> Outcome {
        let id: ChildId = "0123456789abcdef".parse().unwrap();
        let accuracy = (status == 200).then_some(if degraded { 0.8 } else { 0.9 });
        let reply =
            (status > 0).then(|| Reply { status, child: (status == 200).then_some(id), accuracy, degraded, batch: None, timing: None });
        Outcome { due: Duration::ZERO, latency: Duration::from_millis(ms), deadline: Some(Duration::from_millis(20)), reply }
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        for (share, expected) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0), (0.0, 1.0)] {
            assert_eq!(quantile(&values, share), expected);
        }
        assert_eq!((quantile(&[7.0], 0.99), quantile(&[], 0.5)), (7.0, 0.0));
    }

    #[test]
    fn shares_and_rates_are_those_of_all_requests() {
        let outcomes = [(200, 5, false), (200, 15, true), (200, 25, true), (429, 1, false), (504, 2, false), (0, 9, false)];
        let outcomes = outcomes.map(|(status, ms, degraded)| outcome(status, ms, degraded));
        let found = summarise(&outcomes, Duration::from_secs(2));
        assert_eq!((found.requests, found.throughput, found.goodput), (6, 1.5, 1.0));
        assert_eq!((found.p50_ms, found.max_ms, found.refusal_p99_ms), (15.0, 25.0, Some(2.0)));
        assert!((found.in_time - 2.0 / 6.0).abs() < 1e-12 && (found.refused - 2.0 / 6.0).abs() < 1e-12);
        assert!((found.degraded - 2.0 / 3.0).abs() < 1e-12 && (found.mean_accuracy.unwrap() - 2.5 / 3.0).abs() < 1e-12);
        assert_eq!(found.statuses, BTreeMap::from([(0, 1), (200, 3), (429, 1), (504, 1)]));
        assert_eq!(found.children.values().sum::<usize>(), 3);
        let shorter = summarise(&outcomes, Duration::from_millis(20));
        assert_eq!((shorter.throughput, shorter.goodput), (100.0, 100.0), "one answer came after the end");
        assert_eq!((shorter.in_time, shorter.p50_ms, shorter.max_ms), (found.in_time, found.p50_ms, found.max_ms));
        let nothing = summarise(&[], Duration::from_secs(1));
        assert_eq!((nothing.throughput, nothing.in_time, nothing.mean_accuracy), (0.0, 0.0, None));
    }

    #[test]
    fn three_windows_within_a_tenth_are_stable() {
        for (windows, stable) in [
            (&[100.0, 101.0][..], false),
            (&[100.0, 101.0, 99.0], true),
            (&[10.0, 100.0, 101.0, 99.0], true),
            (&[100.0, 101.0, 130.0], false),
            (&[0.0, 0.0, 0.0], false),
        ] {
            assert_eq!(Windows(windows.to_vec()).stable(), stable, "{windows:?}");
        }
    }
}

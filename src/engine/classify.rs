//! A classification, from the children that may answer to the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Engine;
use super::build::BuildError;
use super::client::Presence;
use super::picture::Picture;
use super::pool::{Ask, Choice};
use super::resolve;
use super::schedule::{CAUTION, Refused, Waiting};
use super::types::{Answer, Budget, ChildStatus, ClassifyError, Request, ResolveError, Source};
use crate::space::ChildId;

/// How long a request without a deadline may wait, or be predicted to, before it is refused.
const PATIENCE: Duration = Duration::from_secs(30);

/// While others wait or run, a better child than the smallest must answer a request without deadline within this time.
const TIME_FOR_BETTER: Duration = Duration::from_secs(1);

/// What a request takes beside its network.
#[derive(Debug, Clone, Copy)]
struct Work {
    images: usize,
    /// How long a worker is predicted to prepare them.
    prepare: Duration,
}

/// Whether `child` is faster than `other`, as far as it is known.
fn is_faster(child: &ChildStatus, other: &ChildStatus) -> bool {
    match (child.latency_ms, other.latency_ms) {
        (Some(ms), Some(other_ms)) => ms < other_ms,
        _ => child.cost.macs.total() < other.cost.macs.total(),
    }
}

impl Engine {
    /// All children within `budget`, best first: what a request with this budget may be answered by. Never empty.
    ///
    /// Each next one is faster than all before it, or has fewer multiply-adds where one of the two was not measured; whoever is neither
    /// better nor faster is left out.
    ///
    /// # Errors
    /// As [`Engine::resolve`].
    pub fn room(&self, budget: &Budget) -> Result<Vec<ChildStatus>, ResolveError> {
        let (children, budget) = (self.statuses(), self.effective(budget));
        let mut room = vec![resolve::resolve(&children, &budget)?.clone()];
        for child in resolve::within(&children, &budget) {
            if room.iter().all(|before| is_faster(child, before)) && child.accuracy.is_some() {
                room.push(child.clone());
            }
        }
        Ok(room)
    }

    /// Logits of `pictures` from one of the children that `request` allows; the best is loaded or built first where need be.
    /// Dropping the future withdraws the request; a build that has begun goes on.
    ///
    /// # Errors
    /// [`ClassifyError`].
    pub async fn classify<P: Into<Picture>>(&self, request: impl Into<Request>, pictures: Vec<P>) -> Result<Answer, ClassifyError> {
        let request = request.into();
        let deadline = request.deadline;
        let pictures: Vec<Picture> = pictures.into_iter().map(Into::into).collect();
        self.inner.pool.decoder().check(&pictures)?;
        if self.inner.draining.load(Ordering::Acquire) {
            return Err(ClassifyError::ShuttingDown);
        }
        let work = Work { images: pictures.len(), prepare: self.inner.pool.decoder().predict(&pictures, Instant::now()) };
        let answered = async {
            let choices = self.choices(&request.children, deadline, work).await?;
            self.answered(&request, choices, pictures, work).await
        };
        let answer = match deadline {
            None => answered.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), answered).await.unwrap_or(Err(ClassifyError::TooLate)),
        };
        match &answer {
            Ok(answer) if answer.degraded_from.is_some() => self.inner.metrics.degraded.inc(),
            Err(ClassifyError::TooLate) => self.inner.metrics.shed.with_label_values(&["deadline"]).inc(),
            Err(ClassifyError::Overloaded { .. }) => self.inner.metrics.shed.with_label_values(&["queue"]).inc(),
            Err(ClassifyError::Build(BuildError::Busy { .. })) => self.inner.metrics.shed.with_label_values(&["builds"]).inc(),
            _ => {}
        }
        answer
    }

    /// The children that may answer now, best first: those in memory, and the best even if it has to be loaded first, where there is
    /// time for it.
    async fn choices(&self, children: &[ChildId], deadline: Option<Instant>, work: Work) -> Result<Vec<Choice>, ClassifyError> {
        let (&best, smaller) = children.split_first().ok_or(ClassifyError::TooLate)?;
        let in_memory = |&id: &ChildId| Some(Choice { loaded: self.inner.cache.get(id)?, source: Source::Memory });
        let choices: Vec<Choice> = smaller.iter().filter_map(in_memory).collect();
        let best_is_there = self.inner.cache.contains(best);
        if !best_is_there && !choices.is_empty() && self.inner.loading.failures.lately(best) {
            self.inner.metrics.child_source.with_label_values(&["memory"]).inc();
            return Ok(choices);
        }
        if !best_is_there {
            self.begin_load(best);
        }
        self.begin_loads(best, smaller);
        let Some(deadline) = deadline.filter(|_| !best_is_there) else { return self.with_best(best, choices).await };
        if choices.is_empty() {
            return match self.inner.predicted_load(best) {
                Some(time) if Instant::now() + time > deadline => Err(ClassifyError::TooLate),
                _ => self.with_best(best, choices).await,
            };
        }
        // One at a time: where two wait, the server is not idle.
        if let Some(until) = self.may_wait_until(best, &choices, deadline, work)
            && let Ok(_alone) = self.inner.waits_for_best.try_lock()
            && let Ok(found) = tokio::time::timeout_at(until.into(), self.with_best(best, choices.clone())).await
        {
            return found;
        }
        self.inner.metrics.child_source.with_label_values(&["memory"]).inc();
        Ok(choices)
    }

    /// Until when a request may wait for the best child while `choices` are in memory; none where it had better not, since others wait,
    /// or the best would be there too late to answer.
    fn may_wait_until(&self, best: ChildId, choices: &[Choice], deadline: Instant, work: Work) -> Option<Instant> {
        let now = Instant::now();
        let with_caution = |run: Duration| (work.prepare + run).mul_f64(CAUTION);
        let there = now + self.inner.predicted_load(best)?;
        let run = with_caution(self.inner.predicted_run(best, work.images, now)?);
        let smaller = with_caution(choices.iter().map(|choice| choice.loaded.pace.predict(work.images, now)).min()?);
        let half = now + deadline.saturating_duration_since(now) / 2;
        let until = deadline.checked_sub(smaller)?.min(half);
        (there <= until && there + run <= deadline && self.inner.pool.nothing_waits()).then_some(until)
    }

    /// `choices` and before them the best child, once it is in memory. Where it cannot be had, they answer without it.
    async fn with_best(&self, best: ChildId, mut choices: Vec<Choice>) -> Result<Vec<Choice>, ClassifyError> {
        match self.load(best).await {
            Ok((loaded, source)) => choices.insert(0, Choice { loaded, source }),
            Err(error) if choices.is_empty() || matches!(error, ClassifyError::ShuttingDown) => return Err(error),
            Err(_) => self.inner.metrics.child_source.with_label_values(&["memory"]).inc(),
        }
        Ok(choices)
    }

    /// Queues the request and waits for its answer.
    async fn answered(
        &self,
        request: &Request,
        choices: Vec<Choice>,
        pictures: Vec<Picture>,
        Work { images, prepare }: Work,
    ) -> Result<Answer, ClassifyError> {
        let &Request { deadline, has_floor, .. } = request;
        let accepted = Instant::now();
        let (reply, answer) = oneshot::channel();
        let present = Presence(Arc::default());
        let too_late = match deadline {
            Some(_) => ClassifyError::TooLate,
            None => ClassifyError::Overloaded { retry_after_s: PATIENCE.as_secs() },
        };
        let (best, client) = (request.children[0], Arc::clone(&present.0));
        let payload = Ask { pictures, best, has_floor, accepted, too_late: too_late.clone(), reply, client };
        let share = self.inner.pool.share_for_better(accepted);
        let better_by = accepted + deadline.map_or(TIME_FOR_BETTER, |deadline| (deadline - accepted).mul_f64(share));
        let request = Waiting { images, prepare, choices, deadline: deadline.unwrap_or(accepted + PATIENCE), better_by, payload };
        match self.inner.pool.submit(request) {
            // A worker's panic costs its run; the hard stop of a drain costs what still waits.
            Ok(()) => answer.await.map_err(|_| match self.inner.draining.load(Ordering::Acquire) {
                true => ClassifyError::ShuttingDown,
                false => ClassifyError::WorkerLost,
            })?,
            Err(Refused::TooLate(_)) => Err(too_late),
            Err(Refused::Full(_, room_in)) => {
                Err(ClassifyError::Overloaded { retry_after_s: room_in.as_secs_f64().ceil().max(1.0) as u64 })
            }
        }
    }
}

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
use super::schedule::{Refused, Waiting};
use super::types::{Answer, Budget, ChildStatus, ClassifyError, Request, ResolveError, Source};
use crate::space::ChildId;

/// How long a request without a deadline may wait, or be predicted to, before it is refused.
const PATIENCE: Duration = Duration::from_secs(30);

/// While others wait or run, a better child than the smallest must answer a request without deadline within this time.
const TIME_FOR_BETTER: Duration = Duration::from_secs(1);

impl Engine {
    /// All children within `budget`, best first: what a request with this budget may be answered by. Never empty.
    ///
    /// Each next one is faster than all before it; whoever is neither better nor faster is left out.
    ///
    /// # Errors
    /// As [`Engine::resolve`].
    pub fn room(&self, budget: &Budget) -> Result<Vec<ChildStatus>, ResolveError> {
        let (children, budget) = (self.statuses(), self.effective(budget));
        let mut room = vec![resolve::resolve(&children, &budget)?.clone()];
        for child in resolve::within(&children, &budget) {
            let faster = child.latency_ms.zip(room[room.len() - 1].latency_ms).is_some_and(|(ms, before_ms)| ms < before_ms);
            if faster && child.accuracy.is_some() {
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
        let answered = async {
            let choices = self.choices(&request.children, deadline).await?;
            self.answered(&request, choices, pictures).await
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
    async fn choices(&self, children: &[ChildId], deadline: Option<Instant>) -> Result<Vec<Choice>, ClassifyError> {
        let (&best, smaller) = children.split_first().ok_or(ClassifyError::TooLate)?;
        let in_memory = |&id: &ChildId| Some(Choice { loaded: self.inner.cache.get(id)?, source: Source::Memory });
        let choices: Vec<Choice> = smaller.iter().filter_map(in_memory).collect();
        let best_is_there = self.inner.cache.contains(best);
        if !best_is_there {
            self.begin_load(best);
        }
        self.begin_loads(best, smaller);
        let Some(deadline) = deadline.filter(|_| !best_is_there) else { return self.with_best(best, choices).await };
        let (now, load) = (Instant::now(), self.inner.predicted_load(best));
        if choices.is_empty() {
            return match load {
                Some(time) if now + time > deadline => Err(ClassifyError::TooLate),
                _ => self.with_best(best, choices).await,
            };
        }
        // Half of the time is for what comes after; and where others wait, there is none for better children.
        let until = now + deadline.saturating_duration_since(now) / 2;
        if load.is_some_and(|time| now + time <= until) && self.inner.pool.nothing_waits() {
            let with_best = self.with_best(best, choices.clone());
            if let Ok(choices) = tokio::time::timeout_at(until.into(), with_best).await {
                return choices;
            }
        }
        self.inner.metrics.child_source.with_label_values(&["memory"]).inc();
        Ok(choices)
    }

    /// `choices` and before them the best child, once it is in memory.
    async fn with_best(&self, best: ChildId, mut choices: Vec<Choice>) -> Result<Vec<Choice>, ClassifyError> {
        match self.load(best).await {
            Ok((loaded, source)) => choices.insert(0, Choice { loaded, source }),
            // Too many children are being built for the best one to be, which is no reason to refuse what others can answer.
            Err(ClassifyError::Build(BuildError::Busy { .. })) if !choices.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(choices)
    }

    /// Queues the request and waits for its answer.
    async fn answered(&self, request: &Request, choices: Vec<Choice>, pictures: Vec<Picture>) -> Result<Answer, ClassifyError> {
        let (deadline, has_floor) = (request.deadline, request.has_floor);
        let accepted = Instant::now();
        let (reply, answer) = oneshot::channel();
        let (images, prepare) = (pictures.len(), self.inner.pool.decoder().predict(&pictures, accepted));
        let present = Presence(Arc::default());
        let never = match deadline {
            Some(_) => ClassifyError::TooLate,
            None => ClassifyError::Overloaded { retry_after_s: PATIENCE.as_secs() },
        };
        // Who waited was let in, so that only load can have kept it.
        let too_late = if has_floor { ClassifyError::Overloaded { retry_after_s: 1 } } else { never.clone() };
        let payload = Ask { pictures, best: request.children[0], has_floor, accepted, too_late, reply, client: Arc::clone(&present.0) };
        let share = self.inner.pool.share_for_better(accepted);
        let better_by = accepted + deadline.map_or(TIME_FOR_BETTER, |deadline| (deadline - accepted).mul_f64(share));
        let request = Waiting { images, prepare, choices, deadline: deadline.unwrap_or(accepted + PATIENCE), better_by, payload };
        match self.inner.pool.submit(request) {
            // A worker's panic costs its run; the hard stop of a drain costs what still waits.
            Ok(()) => answer.await.map_err(|_| match self.inner.draining.load(Ordering::Acquire) {
                true => ClassifyError::ShuttingDown,
                false => ClassifyError::WorkerLost,
            })?,
            Err(Refused::TooLate(_)) => Err(never),
            Err(Refused::Full(_, room_in)) => {
                Err(ClassifyError::Overloaded { retry_after_s: room_in.as_secs_f64().ceil().max(1.0) as u64 })
            }
        }
    }
}

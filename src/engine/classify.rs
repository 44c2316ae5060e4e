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
        let Request { children, deadline } = request.into();
        let pictures: Vec<Picture> = pictures.into_iter().map(Into::into).collect();
        self.inner.pool.decoder().check(&pictures)?;
        if self.inner.draining.load(Ordering::Acquire) {
            return Err(ClassifyError::ShuttingDown);
        }
        let answered = async {
            let choices = self.choices(&children, deadline).await?;
            self.answered(children[0], choices, deadline, pictures).await
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

    /// The children that may answer now, best first: those in memory, and the best even if it has to be loaded first. Who is in a
    /// hurry does not wait for it where another is there, or where it takes too long.
    async fn choices(&self, children: &[ChildId], deadline: Option<Instant>) -> Result<Vec<Choice>, ClassifyError> {
        let (&best, smaller) = children.split_first().ok_or(ClassifyError::TooLate)?;
        let in_memory = |&id: &ChildId| Some(Choice { loaded: self.inner.cache.get(id)?, source: Source::Memory });
        let mut choices: Vec<Choice> = smaller.iter().filter_map(in_memory).collect();
        let best_is_there = self.inner.cache.contains(best);
        if !best_is_there {
            self.begin_load(best);
        }
        self.begin_loads(best, smaller);
        if let Some(deadline) = deadline.filter(|_| !best_is_there) {
            if !choices.is_empty() {
                self.inner.metrics.child_source.with_label_values(&["memory"]).inc();
                return Ok(choices);
            }
            if self.inner.predicted_load(best).is_some_and(|time| Instant::now() + time > deadline) {
                return Err(ClassifyError::TooLate);
            }
        }
        match self.load(best).await {
            Ok((loaded, source)) => choices.insert(0, Choice { loaded, source }),
            // Too many children are being built for the best one to be, which is no reason to refuse what others can answer.
            Err(ClassifyError::Build(BuildError::Busy { .. })) if !choices.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(choices)
    }

    /// Queues the request and waits for its answer.
    async fn answered(
        &self,
        best: ChildId,
        choices: Vec<Choice>,
        deadline: Option<Instant>,
        pictures: Vec<Picture>,
    ) -> Result<Answer, ClassifyError> {
        let accepted = Instant::now();
        let (reply, answer) = oneshot::channel();
        let (images, prepare) = (pictures.len(), self.inner.pool.decoder().predict(&pictures, accepted));
        let present = Presence(Arc::default());
        let too_late = match deadline {
            Some(_) => ClassifyError::TooLate,
            None => ClassifyError::Overloaded { retry_after_s: PATIENCE.as_secs() },
        };
        let payload = Ask { pictures, best, accepted, too_late: too_late.clone(), reply, client: Arc::clone(&present.0) };
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

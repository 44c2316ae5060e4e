//! Which cores threads run on while a child is built: each worker on one of its own, the builder on the last ones.
//!
//! A builder's threads want only time that nobody else wants (`background`), but the scheduler keeps to that within a core alone.
//! To it, a core on which a builder runs is taken: two workers then share the other one, a tick or two at a time. Without a builder
//! the scheduler spreads workers well enough, and better than this where other processes want cores too; so nobody is bound then.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::options::cores;

/// Where one worker runs.
#[derive(Debug)]
pub(super) struct Place {
    /// All cores of the process, and the worker's own among them; none where there is nothing to choose.
    cores: Option<(CpuSet, CpuSet)>,
    bound: bool,
}

impl Place {
    /// The place of the worker `index`.
    pub(super) fn of_worker(index: usize) -> Self {
        let allowed = allowed();
        Self { cores: allowed.get(index).map(|&core| (set(&allowed), set(&[core]))), bound: false }
    }

    /// Binds the thread that calls this to its own core, or lets it run on all of them again.
    pub(super) fn settle(&mut self, bound: bool) {
        let Some((all, own)) = self.cores.as_ref().filter(|_| bound != self.bound) else { return };
        if let Err(error) = sched_setaffinity(None, if bound { own } else { all }) {
            tracing::debug!(%error, "a worker stays on the cores that it has");
        }
        self.bound = bound;
    }
}

/// Binds the thread that calls this, and those that it will start, to the last `count` cores.
pub(super) fn keep_to_last(count: usize) {
    let allowed = allowed();
    let last = &allowed[allowed.len().saturating_sub(count)..];
    if last.is_empty() {
        return;
    }
    if let Err(error) = sched_setaffinity(None, &set(last)) {
        tracing::debug!(%error, "building on all cores");
    }
}

/// The cores that this process may use; none where a quota leaves it less than their time, since others are meant to run there too.
fn allowed() -> Vec<usize> {
    let Ok(affinity) = sched_getaffinity(None) else { return Vec::new() };
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| affinity.is_set(core)).collect();
    if allowed.len() == cores() { allowed } else { Vec::new() }
}

fn set(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `work` on a thread of its own: what it is bound to ends with it.
    fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    #[test]
    fn a_worker_keeps_to_its_core_while_it_is_bound() {
        let all = allowed();
        for (index, &core) in all.iter().enumerate() {
            let seen = apart(move || {
                let mut place = Place::of_worker(index);
                [true, true, false].map(|bound| {
                    place.settle(bound);
                    allowed_anyhow()
                })
            });
            assert_eq!(seen, [vec![core], vec![core], all.clone()]);
        }
        assert_eq!(apart(move || of_no_place(all.len())), allowed_anyhow(), "more workers than cores stay unbound");
    }

    fn of_no_place(index: usize) -> Vec<usize> {
        Place::of_worker(index).settle(true);
        allowed_anyhow()
    }

    #[test]
    fn a_builder_keeps_to_the_last_cores() {
        let all = allowed();
        for count in 1..=all.len() {
            let seen = apart(|| {
                keep_to_last(count);
                allowed_anyhow()
            });
            assert_eq!(seen, all[all.len() - count..]);
        }
        let seen = apart(|| {
            keep_to_last(usize::MAX);
            allowed_anyhow()
        });
        assert_eq!(seen, allowed_anyhow());
    }

    /// The cores of the thread that calls this.
    fn allowed_anyhow() -> Vec<usize> {
        let affinity = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|&core| affinity.is_set(core)).collect()
    }
}

//! The time that builders get: what nobody else wants, or a small share where that is next to none.
//!
//! A thread that is merely nice will not do beside running networks: to the system, a core with such a thread is taken, and it lets a
//! network wait behind another one rather than put it there. An idle thread does, but beside others that never rest it gets a few
//! thousandths of a core, and a thread of a process without privileges can never leave that state. So a thread asks before it enters it.

use std::sync::mpsc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use thread_priority::ThreadPriority;
use thread_priority::unix::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};

/// What an idle thread is to get done in [`PATIENCE`] where there is time for it: a twentieth of a core.
const SAMPLE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(200);

/// How much a builder steps back where others never rest, as `nice` counts: twice as far as running networks.
const NICENESS: i32 = 10;

/// Whether others leave next to no time on the cores of the thread that calls this.
pub(super) fn is_crowded() -> bool {
    let (sender, done) = mpsc::sync_channel(1);
    let probe = move || {
        step_back(false);
        while done_so_far() < SAMPLE {
            std::hint::spin_loop();
        }
        // Nobody waits for it any more where it took too long.
        let _ = sender.send(());
    };
    let probe = std::thread::Builder::new().name("probe".to_owned()).spawn(probe);
    probe.is_ok() && done.recv_timeout(PATIENCE).is_err()
}

/// The time that the thread that calls this has spent computing.
fn done_so_far() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Gives the thread that calls this only the time that nobody else wants, or a small share where it is `crowded`.
pub(super) fn step_back(crowded: bool) {
    // Where the system does not let it step back, it works as everyone else does.
    if crowded {
        tracing::info!("other threads leave next to no time: building beside them");
        if let Err(error) = rustix::process::nice(NICENESS) {
            tracing::debug!(%error, "building at full priority");
        }
        return;
    }
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
        tracing::debug!(?error, "building at full priority");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::thread::sched_getaffinity;
    use thread_priority::unix::thread_schedule_policy;

    use super::*;
    use crate::engine::cores::keep_to_last;

    #[test]
    fn builders_step_back_as_far_as_they_can_without_starving() {
        let policies = [false, true].map(|crowded| {
            let patient = std::thread::spawn(move || {
                step_back(crowded);
                thread_schedule_policy().unwrap()
            });
            patient.join().unwrap()
        });
        let [idle, other] = [NormalThreadSchedulePolicy::Idle, NormalThreadSchedulePolicy::Other].map(ThreadSchedulePolicy::Normal);
        assert_eq!(policies, [idle, other]);
    }

    #[test]
    fn a_core_whose_threads_never_rest_is_crowded() {
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let crowd = || {
                keep_to_last(1);
                while !enough.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            // Where a quota lets nobody choose a core, they are everywhere.
            let count = 2 + 2 * sched_getaffinity(None).unwrap().count();
            (0..count).for_each(|_| drop(scope.spawn(crowd)));
            let asking = scope.spawn(|| {
                keep_to_last(1);
                is_crowded()
            });
            let crowded = asking.join();
            // Before anything can fail: they would go on for ever.
            enough.store(true, Ordering::Relaxed);
            assert!(crowded.unwrap());
        });
    }
}

//! The traffic of a backend over the last ten minutes, for its picture.

use std::{collections::VecDeque, fmt, sync::Mutex};

use crate::{
    outcome::{StatusClass, Verdict, recording::BackendRecorder},
    util::lock,
};

/// How many intervals are remembered.
pub(crate) const HISTORY_INTERVALS: usize = 60;
/// The length of an interval in seconds.
pub(crate) const HISTORY_SECS: u32 = 10;

/// What happened within an interval.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) requests: u32,
    /// Requests that failed at this backend: answers of 500 and above.
    pub(crate) errors: u32,
    /// New sessions that it was assigned.
    pub(crate) assigned: u32,
}

/// The intervals that are over, oldest first. Requests do not touch it: the totals that they count are compared once
/// per interval.
#[derive(Default)]
pub(crate) struct History(Mutex<Intervals>);

#[derive(Default)]
struct Intervals {
    /// The totals at the end of the last interval; `None` before the first.
    totals: Option<Totals>,
    intervals: VecDeque<Interval>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    requests: u64,
    errors: u64,
    assigned: u64,
}

impl Totals {
    fn of(recorder: &BackendRecorder) -> Self {
        let mut totals = Self::default();
        recorder.requests().each(|verdict, _, class, count| {
            totals.requests += count;
            if class == StatusClass::ServerError {
                totals.errors += count;
            }
            if verdict == Verdict::Assigned {
                totals.assigned += count;
            }
        });
        totals
    }

    fn since(self, earlier: Self) -> Interval {
        let grown =
            |now: u64, before: u64| u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX);
        Interval {
            requests: grown(self.requests, earlier.requests),
            errors: grown(self.errors, earlier.errors),
            assigned: grown(self.assigned, earlier.assigned),
        }
    }
}

impl History {
    /// An interval is over.
    pub(crate) fn record(&self, recorder: &BackendRecorder) {
        let now = Totals::of(recorder);
        let mut history = lock(&self.0);
        if let Some(before) = history.totals.replace(now) {
            if history.intervals.len() == HISTORY_INTERVALS {
                history.intervals.pop_front();
            }
            history.intervals.push_back(now.since(before));
        }
    }

    /// The intervals that are over, oldest first.
    pub(crate) fn intervals(&self) -> Vec<Interval> {
        lock(&self.0).intervals.iter().copied().collect()
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Reason;

    #[test]
    fn an_interval_counts_requests_errors_and_new_sessions() {
        let (history, recorder) = (History::default(), BackendRecorder::default());
        recorder.request(Verdict::Pinned, None, StatusClass::ServerError);
        history.record(&recorder);
        recorder.request(Verdict::Assigned, None, StatusClass::Successful);
        recorder.request(Verdict::Assigned, None, StatusClass::ServerError);
        recorder.request(Verdict::Moved, Some(Reason::Down), StatusClass::ClientError);
        history.record(&recorder);
        let grown = Interval { requests: 3, errors: 1, assigned: 2 };
        assert_eq!(history.intervals(), [grown]);
    }

    #[test]
    fn an_interval_has_what_was_counted_since_the_one_before() {
        let (history, recorder) = (History::default(), BackendRecorder::default());
        history.record(&recorder);
        assert!(history.intervals().is_empty(), "the first total is no interval");
        history.record(&recorder);
        assert_eq!(history.intervals(), [Interval::default()]);
        let total = |requests| Totals { requests, errors: requests / 2, assigned: 1 };
        let grown = Interval { requests: 4, errors: 2, assigned: 0 };
        assert_eq!(total(10).since(total(6)), grown);
        for _ in 0..HISTORY_INTERVALS {
            history.record(&recorder);
        }
        assert_eq!(history.intervals().len(), HISTORY_INTERVALS);
    }
}

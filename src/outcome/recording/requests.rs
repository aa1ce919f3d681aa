//! Requests by verdict, reason and class of their status.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::outcome::{Reason, StatusClass, Verdict};

type ByClass = [AtomicU64; StatusClass::ALL.len()];
type ByVerdict = [ByClass; Verdict::ALL.len()];

/// Requests by verdict, reason and class of their status.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    without_reason: ByVerdict,
    /// Allocated with the first request of each reason.
    by_reason: [OnceLock<Box<ByVerdict>>; Reason::ALL.len()],
}

impl Requests {
    #[inline]
    pub(super) fn count(&self, verdict: Verdict, reason: Option<Reason>, class: StatusClass) {
        let counts = match reason {
            None => &self.without_reason,
            Some(reason) => self.with_reason(reason),
        };
        counts[verdict as usize][class as usize].fetch_add(1, Relaxed);
    }

    #[cold]
    fn with_reason(&self, reason: Reason) -> &ByVerdict {
        self.by_reason[reason as usize].get_or_init(Box::default)
    }

    /// Calls `tell` with every combination that has occurred, and its count.
    pub(crate) fn each(&self, mut tell: impl FnMut(Verdict, Option<Reason>, StatusClass, u64)) {
        let with_reason = Reason::ALL.iter().map(|reason| {
            (Some(*reason), self.by_reason[*reason as usize].get().map(|counts| &**counts))
        });
        for (reason, counts) in [(None, Some(&self.without_reason))].into_iter().chain(with_reason)
        {
            for (verdict, by_class) in Verdict::ALL.iter().zip(counts.into_iter().flatten()) {
                for (class, count) in StatusClass::ALL.iter().zip(by_class) {
                    match count.load(Relaxed) {
                        0 => {}
                        count => tell(*verdict, reason, *class, count),
                    }
                }
            }
        }
    }
}

//! What is decided about one request, as types that allow valid combinations only.

use crate::outcome::{Reason, Verdict};

/// What the inner service of the layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InnerRole {
    /// There is no inner service.
    None,
    /// It is the node itself, one of the backends.
    LocalNode,
    /// It answers when no backend can.
    LastResort,
}

/// How the session of a request was recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recognized {
    /// Nothing in the request leads to a backend of the pool.
    NoSession,
    /// A pin leads to a backend; `refresh` when the pin is due to be written anew.
    Pin { refresh: bool },
    /// The key of each request leads to a backend, and nothing is remembered.
    Key,
}

/// A move of the request's session to another backend, while the request is on its way there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relocation {
    /// None, or one that needs no preparation.
    #[default]
    None,
    /// The session could also stay.
    Voluntary,
    /// The session cannot stay, and the application's hook has been called for this request.
    HookCalled,
}

/// The outcome of the request as it would be counted now.
#[derive(Debug)]
pub(super) struct Decision {
    verdict: Verdict,
    reason: Option<Reason>,
    counted: bool,
}

impl Decision {
    #[inline]
    pub(super) fn new() -> Self {
        Self { verdict: Verdict::Assigned, reason: None, counted: false }
    }

    #[inline]
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    #[inline]
    pub(super) fn reason(&self) -> Option<Reason> {
        self.reason
    }

    #[inline]
    pub(super) fn is_pinned(&self) -> bool {
        self.verdict == Verdict::Pinned
    }

    /// The reason why a pin is not followed, or why none is usable.
    #[inline]
    pub(super) fn set_reason(&mut self, reason: Option<Reason>) {
        self.reason = reason;
    }

    /// The verdict, for the reason that is known.
    #[inline]
    pub(super) fn set_verdict(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }

    /// The verdict and its reason.
    pub(super) fn set(&mut self, verdict: Verdict, reason: Option<Reason>) {
        (self.verdict, self.reason) = (verdict, reason);
    }

    /// The outcome has been counted.
    #[inline]
    pub(super) fn mark_counted(&mut self) {
        self.counted = true;
    }

    #[inline]
    pub(super) fn is_counted(&self) -> bool {
        self.counted
    }
}

//! The types of the decisions about one request. They allow valid combinations only.

use crate::outcome::{Reason, TokenCause, Verdict};

/// The role of the layer's inner service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InnerRole {
    /// There is no inner service.
    None,
    /// It is the local node, one of the backends.
    LocalNode,
    /// It answers when no backend can.
    LastResort,
}

/// How the session of a request was recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recognized {
    /// No pin or key of the request identifies a backend of the pool.
    NoSession,
    /// A pin identifies the backend; `refresh` when the token should be written again.
    Pin { refresh: bool },
    /// An id of the application names the backend. The application remembers it, and it cannot be changed.
    Route,
    /// The key of each request identifies the backend, and no pin is stored.
    Key,
}

/// Whether a backend serves its own sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Serves,
    /// The deadline of its drain has passed.
    Drained,
    Disabled,
    /// It is suspect or down.
    Unhealthy,
}

/// A move of the session to another backend, while the request is being sent there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relocation {
    /// None, or one without the application's hook.
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
    token: Option<TokenCause>,
    counted: bool,
}

impl Decision {
    #[inline]
    pub(super) fn new() -> Self {
        Self { verdict: Verdict::Assigned, reason: None, token: None, counted: false }
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

    /// Sets the reason why a pin is not followed, or why none is valid.
    #[inline]
    pub(super) fn set_reason(&mut self, reason: Option<Reason>) {
        self.reason = reason;
    }

    /// Sets the verdict, and keeps the reason.
    #[inline]
    pub(super) fn set_verdict(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }

    /// Sets the verdict and its reason.
    pub(super) fn set(&mut self, verdict: Verdict, reason: Option<Reason>) {
        (self.verdict, self.reason) = (verdict, reason);
    }

    /// Why a token was written to the response, if one was.
    #[inline]
    pub(super) fn token(&self) -> Option<TokenCause> {
        self.token
    }

    #[inline]
    pub(super) fn set_token(&mut self, cause: TokenCause) {
        self.token = Some(cause);
    }

    /// Records that the outcome has been counted.
    #[inline]
    pub(super) fn mark_counted(&mut self) {
        self.counted = true;
    }

    #[inline]
    pub(super) fn is_counted(&self) -> bool {
        self.counted
    }
}

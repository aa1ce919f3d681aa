//! The recorders without the feature `metrics`: they record nothing and take no space.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::outcome::{Reason, StatusClass, TokenCause, Verdict};

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Timestamp(());

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Arrival(());

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending(());

impl Ending {
    pub(crate) const CONNECT_FAILED: Self = Self(());
    pub(crate) const BROKEN: Self = Self(());
    pub(crate) const NO_ANSWER: Self = Self(());
    pub(crate) const CLIENT_ERROR: Self = Self(());
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Connection {
    Refused,
    Broken,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct PoolRecorder(());

impl PoolRecorder {
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(())
    }

    #[inline]
    pub(crate) fn begun(&self, _: Timestamp, _: &Method, _https: bool) -> Arrival {
        Arrival(())
    }

    #[inline]
    pub(crate) fn attempt_failed(&self, _: Arrival, _: Option<Timestamp>, _: Ending) {}

    #[inline]
    pub(crate) fn ended(&self, _: Arrival, _: Option<StatusCode>) {}

    #[inline]
    pub(crate) fn waited(&self, _: Duration) {}

    #[inline]
    pub(crate) fn unanswered(&self, _: Verdict, _: Option<Reason>, _: StatusClass) {}

    #[inline]
    pub(crate) fn token_written(&self, _: TokenCause) {}

    #[inline]
    pub(crate) fn moved(&self, _: (u64, u64), _: Option<Reason>, _: impl Fn(u64) -> bool) {}

    #[inline]
    pub(crate) fn drained(&self, _: usize) {}
}

#[derive(Debug, Default)]
pub(crate) struct BackendRecorder(());

impl BackendRecorder {
    #[inline]
    pub(crate) fn join(&self, _: &PoolRecorder) {}

    #[inline]
    pub(crate) fn request(&self, _: Verdict, _: Option<Reason>, _: StatusClass) {}

    #[inline]
    pub(crate) fn head_arrived(
        &self,
        _: Arrival,
        _sent: Option<Timestamp>,
        _: StatusCode,
        _is_whole: impl FnOnce() -> bool,
    ) -> ResponseTimer {
        ResponseTimer(())
    }

    #[inline]
    pub(crate) fn connection(&self, _: Connection) {}

    #[inline]
    pub(crate) fn probed(&self, _succeeded: bool) {}

    #[inline]
    pub(crate) fn redialed(&self, _succeeded: bool) {}

    #[inline]
    pub(crate) fn ejected(&self) {}
}

#[cfg(feature = "redis")]
#[derive(Debug, Default)]
pub(crate) struct SharedHistogram(());

#[cfg(feature = "redis")]
impl SharedHistogram {
    #[inline]
    pub(crate) fn observe(&self, _: Duration) {}
}

#[derive(Debug, Default)]
pub(crate) struct ResponseTimer(());

impl ResponseTimer {
    #[inline]
    pub(crate) fn frame(&mut self) {}

    #[inline]
    pub(crate) fn waits(&mut self) {}

    #[inline]
    pub(crate) fn finish(&self, _: &BackendRecorder) {}
}

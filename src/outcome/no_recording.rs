//! The recorders without the feature `metrics`: they record nothing and take no space.

use std::time::Duration;

use crate::outcome::{Reason, StatusClass, TokenCause, Verdict};

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Timestamp(());

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
    pub(crate) fn ended(&self, _: Timestamp) {}

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
        _: Timestamp,
        _is_whole: impl FnOnce() -> bool,
    ) -> ResponseTimer {
        ResponseTimer(())
    }

    #[inline]
    pub(crate) fn connection(&self, _: Connection) {}

    #[inline]
    pub(crate) fn probed(&self, _succeeded: bool) {}

    #[inline]
    pub(crate) fn ejected(&self) {}
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

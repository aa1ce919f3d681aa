//! What an answer or a failure means: for its backend, and for the request.

use std::sync::Arc;

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;

use super::{core::Core, in_flight::InFlight, state::Dispatch};
use crate::{
    dispatch::{NextStep, TrialPermit},
    error::{
        BoxError, ClientError, NotSent, Refusal, SendCount, Shortage, Unanswered, is_disconnected,
        redialer,
    },
    health::{Answers, Failure, Judged, is_failure, record_failure},
    outcome::{Reason, StickyError},
    pool::{BackendState, Cause},
};

/// Who is told how answers end: known where a backend is known to be `Send + Sync`.
pub(crate) type AsAnswers<S> = fn(Arc<Core<S>>) -> Arc<dyn Answers>;

/// An answer is the end of every suspicion, unless answers are judged and this one is a failure, or may
/// become one: then it is to be watched until its end.
#[inline]
pub(crate) fn judge<S, RB: Body>(
    dispatch: &Dispatch<S>,
    answers: AsAnswers<S>,
    in_flight: &InFlight,
    trial: Option<TrialPermit>,
    response: &Response<RB>,
) -> Option<Judged> {
    if in_flight.is_outdated() {
        // It says nothing about the service that the backend has now.
        return None;
    }
    let state = in_flight.state();
    let (pool, health) = (dispatch.core().backends.pool(), &dispatch.core().options.health);
    let failure = is_failure(response.status(), response.headers(), dispatch.is_grpc());
    let look = trial.as_ref().map(TrialPermit::look);
    let mut judged = None;
    if health.counts_answers() {
        if failure {
            record_failure(pool, state, Failure::FailedAnswer, look, health);
        } else if !response.body().is_end_stream() {
            judged = Some(in_flight.judged(answers(dispatch.shared_core())));
        } else if health.success_rate.is_some() {
            state.answer_counts.count(false);
        }
    }
    if state.has_evidence() && !(failure && health.consecutive_failures > 0) {
        let now = Instant::now();
        pool.update(state, Cause::Answered, |sources| {
            sources.evidence.record_answer(look.is_some(), now);
            if look.is_some() || judged.is_none() {
                sources.evidence.ejection.record_success(look.is_some(), now);
            }
        });
    }
    drop(trial);
    judged
}

/// What follows a backend's error: the next step, if the request is here again and may be sent once more,
/// else the error.
pub(crate) fn failed<S: Clone, B: 'static>(
    dispatch: &mut Dispatch<S>,
    in_flight: InFlight,
    trial: Option<TrialPermit>,
    error: BoxError,
) -> Result<(NextStep<S>, Request<B>), StickyError> {
    let (state, outdated) = (&in_flight.state().clone(), in_flight.is_outdated());
    drop(in_flight);
    let record = |dispatch: &Dispatch<S>, failure| {
        if !outdated {
            let (core, look) = (dispatch.core(), trial.as_ref().map(TrialPermit::look));
            record_failure(core.backends.pool(), state, failure, look, &core.options.health);
        }
    };
    if ClientError::in_chain(error.as_ref()).is_some() {
        return Err(StickyError::Client { backend: state.id.clone(), source: error });
    }
    if let Some(shortage) = Shortage::in_chain(error.as_ref()) {
        return Err(dispatch.shortage(state, shortage, error));
    }
    let error = match error.downcast::<NotSent<Request<B>>>() {
        Ok(not_sent) => {
            let (request, source) = not_sent.into_parts();
            record(dispatch, connection_failure(&source));
            drop(trial);
            return match request {
                Some(request) => {
                    if outdated && let Some(next) = dispatch.retry_with_new_service(state) {
                        return Ok((next, request));
                    }
                    let next = dispatch.not_sent(state, Reason::ConnectFailed, source);
                    Ok((next, request))
                }
                None => Err(StickyError::NotSent { backend: state.id.clone(), source }),
            };
        }
        Err(error) => error,
    };
    let (request, source) = match error.downcast::<Unanswered<Request<B>>>() {
        Ok(unanswered) => {
            let (request, source) = unanswered.into_parts();
            // What refused a fresh connection has ended.
            let refusal = Refusal::in_chain(&source);
            record(dispatch, refusal.map_or_else(|| broken(&source, true), Failure::Refused));
            (request, source)
        }
        Err(source) => {
            let failure = is_disconnected(&source).then(|| broken(&source, false));
            record(dispatch, failure.unwrap_or(Failure::NoAnswer));
            (None, source)
        }
    };
    let on_trial = trial.is_some();
    drop(trial);
    match request {
        Some(request) => {
            let sendings = request.extensions().get::<SendCount>().copied();
            Ok((dispatch.unanswered(state, source, sendings, on_trial)?, request))
        }
        None => Err(StickyError::Backend { backend: state.id.clone(), source }),
    }
}

/// What a request that was not sent says of the backend: its connection was refused, or was accepted and
/// closed at once.
fn connection_failure(source: &BoxError) -> Failure {
    if is_disconnected(source) {
        broken(source, true)
    } else {
        Failure::Refused(Refusal::of(source))
    }
}

fn broken(source: &BoxError, surely: bool) -> Failure {
    Failure::Broken { is_conclusive: surely, redialer: redialer(source) }
}

impl<S: Send + Sync> Answers for Core<S> {
    fn passed(&self, state: &BackendState) {
        if self.options.health.success_rate.is_some() {
            state.answer_counts.count(false);
        }
        if state.has_evidence() {
            let now = Instant::now();
            self.backends.pool().update(state, Cause::Answered, |sources| {
                sources.evidence.ejection.record_success(false, now);
            });
        }
    }

    #[cold]
    fn broke_off(&self, state: &BackendState) {
        let (pool, settings) = (self.backends.pool(), &self.options.health);
        record_failure(pool, state, Failure::FailedAnswer, None, settings);
    }
}

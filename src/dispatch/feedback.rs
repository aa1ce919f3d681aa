//! Records what a response or a failure says about its backend, and finds the next step after a failure.

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
    outcome::{
        Reason, StickyError,
        recording::{Arrival, Connection, Ending},
    },
    pool::{BackendState, Cause},
};

/// Converts the core into the observer of responses. Created where `S` is known to be `Send + Sync`.
pub(crate) type AsAnswers<S> = fn(Arc<Core<S>>) -> Arc<dyn Answers>;

/// Records a response. It ends all evidence against its backend, unless responses are counted and this one
/// is a failure. If its body may still fail, returns what watches it until its end.
#[inline]
pub(crate) fn judge<S, RB: Body>(
    dispatch: &Dispatch<S>,
    answers: AsAnswers<S>,
    in_flight: &InFlight,
    trial: Option<TrialPermit>,
    response: &Response<RB>,
) -> Option<Judged> {
    if in_flight.is_outdated() {
        // It says nothing about the present service of the backend.
        return None;
    }
    let state = in_flight.state();
    let (pool, health) = (dispatch.core().backends.pool(), &dispatch.core().options.health);
    let failure = is_failure(response.status(), response.headers(), dispatch.is_grpc());
    let recheck = trial.as_ref().map(TrialPermit::recheck);
    let mut judged = None;
    if health.counts_answers() {
        if failure {
            record_failure(pool, state, Failure::FailedAnswer, recheck, health);
        } else if !response.body().is_end_stream() {
            judged = Some(in_flight.judged(answers(dispatch.shared_core())));
        } else if health.success_rate.is_some() {
            state.answer_counts.count(false);
        }
    }
    if state.has_evidence() && !(failure && health.consecutive_failures > 0) {
        let now = Instant::now();
        pool.update(state, Cause::Answered, |sources| {
            sources.evidence.record_answer(recheck.is_some(), now);
            if recheck.is_some() || judged.is_none() {
                sources.evidence.ejection.record_success(recheck.is_some(), now);
            }
        });
    }
    drop(trial);
    judged
}

/// The next step after a backend's error, if the backend has given the request back and it may be sent
/// again; else the error of the request.
pub(crate) fn failed<S: Clone, B: 'static>(
    dispatch: &mut Dispatch<S>,
    in_flight: InFlight,
    trial: Option<TrialPermit>,
    error: BoxError,
    arrived: Arrival,
) -> Result<(NextStep<S>, Request<B>), StickyError> {
    record_attempt::<S, B>(dispatch, arrived, &error);
    let (state, outdated) = (&in_flight.state().clone(), in_flight.is_outdated());
    let (precedes_recovery, generation) = (in_flight.precedes_recovery(), in_flight.generation());
    drop(in_flight);
    let slow_path = dispatch.slow_path();
    slow_path.failed_attempts += 1;
    slow_path.last_attempt = Some(generation);
    let record = |dispatch: &Dispatch<S>, failure| {
        count_connection(state, &failure);
        let is_broken = matches!(failure, Failure::Broken { .. });
        if !(outdated || (is_broken && precedes_recovery)) {
            let (core, recheck) = (dispatch.core(), trial.as_ref().map(TrialPermit::recheck));
            record_failure(core.backends.pool(), state, failure, recheck, &core.options.health);
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
            let Some(request) = request else {
                return Err(StickyError::NotSent { backend: state.id.clone(), source });
            };
            if outdated && let Some(next) = dispatch.retry_with_new_service(state) {
                return Ok((next, request));
            }
            return Ok((dispatch.not_sent(state, Reason::ConnectFailed, source), request));
        }
        Err(error) => error,
    };
    let (request, source) = match error.downcast::<Unanswered<Request<B>>>() {
        Ok(unanswered) => {
            let (request, source) = unanswered.into_parts();
            // A refused reconnect shows that the server is down.
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
    let Some(request) = request else {
        return Err(StickyError::Backend { backend: state.id.clone(), source });
    };
    let (on_trial, sends) = (trial.is_some(), request.extensions().get::<SendCount>().copied());
    drop(trial);
    Ok((dispatch.unanswered(state, source, sends, on_trial)?, request))
}

/// Records how long the attempt took that has failed, and why it has.
fn record_attempt<S, B: 'static>(dispatch: &mut Dispatch<S>, arrived: Arrival, error: &BoxError) {
    let (why, word) = if ClientError::in_chain(error.as_ref()).is_some() {
        (Ending::CLIENT_ERROR, "client-error")
    } else if is_disconnected(error) || error.is::<Unanswered<Request<B>>>() {
        (Ending::BROKEN, "broken")
    } else if error.is::<NotSent<Request<B>>>() {
        (Ending::CONNECT_FAILED, "connect-failed")
    } else {
        (Ending::NO_ANSWER, "no-answer")
    };
    let recorder = &dispatch.core().backends.pool().recorder;
    recorder.attempt_failed(arrived, dispatch.sent(), why);
    dispatch.attempt_failed(word);
}

fn count_connection(state: &BackendState, failure: &Failure) {
    match failure {
        Failure::Refused(_) => state.recorder.connection(Connection::Refused),
        Failure::Broken { .. } => state.recorder.connection(Connection::Broken),
        Failure::NoAnswer | Failure::FailedAnswer => {}
    }
}

/// The failure of a backend that did not take the request: it refused the connection, or accepted and
/// closed it.
fn connection_failure(source: &BoxError) -> Failure {
    if is_disconnected(source) {
        broken(source, true)
    } else {
        Failure::Refused(Refusal::of(source))
    }
}

fn broken(source: &BoxError, is_conclusive: bool) -> Failure {
    Failure::Broken { is_conclusive, redialer: redialer(source) }
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

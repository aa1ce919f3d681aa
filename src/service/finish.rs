//! The end of a request: the response of a backend or of the inner service, or an error.

use http::{Response, StatusCode};
use http_body::Body;

use super::{OnError, StickyBody};
use crate::{
    dispatch::{AsAnswers, Dispatch, InFlight, TrialPermit, judge},
    health::Judged,
    outcome::{StickyError, recording::Arrival},
    pool::UpgradeGuard,
};

/// A backend has answered: records its health and commits the pin. Returns what watches the body of a
/// response that may still fail.
#[inline]
pub(super) fn complete<S, RB: Body>(
    dispatch: &mut Dispatch<S>,
    answers: AsAnswers<S>,
    in_flight: &mut InFlight,
    trial: Option<TrialPermit>,
    arrived: Arrival,
    response: &mut Response<RB>,
) -> Option<Judged> {
    let (sent, status) = (dispatch.sent(), response.status());
    dispatch.attempt_answered(status);
    in_flight.head_arrived(arrived, sent, status, || response.body().is_end_stream());
    let judged = judge(dispatch, answers, in_flight, trial, response);
    dispatch.answered(in_flight.state(), true, response);
    dispatch.keep_affinity_state(in_flight);
    judged
}

/// The response of a backend. The request stays in flight until its body ends.
#[inline]
pub(super) fn answer<RB, IB>(
    response: Response<RB>,
    mut in_flight: Option<InFlight>,
    judged: Option<Judged>,
) -> Response<StickyBody<RB, IB>> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        hold_upgrade(&response, &mut in_flight);
    }
    response.map(|body| StickyBody::backend(body, in_flight, judged))
}

/// Keeps a request with an upgrade in flight until the upgraded connection ends.
#[cold]
fn hold_upgrade<B>(response: &Response<B>, in_flight: &mut Option<InFlight>) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(guard) = response.extensions().get::<UpgradeGuard>()
        && let Some(mut in_flight) = in_flight.take()
    {
        guard.set_drain_signal(in_flight.become_stream());
        guard.keep(in_flight);
    }
}

/// The response of the inner service, which is the local node if the request is in flight, else the last
/// resort.
pub(super) fn inner_answer<S, RB, IB: Body>(
    dispatch: &mut Dispatch<S>,
    arrived: Arrival,
    mut response: Response<IB>,
    mut in_flight: Option<InFlight>,
) -> Response<StickyBody<RB, IB>> {
    match &mut in_flight {
        Some(local) => {
            let (sent, status) = (dispatch.sent(), response.status());
            dispatch.attempt_answered(status);
            local.head_arrived(arrived, sent, status, || response.body().is_end_stream());
            dispatch.answered(local.state(), false, &mut response);
            dispatch.keep_affinity_state(local);
            hold_upgrade(&response, &mut in_flight);
        }
        None => dispatch.answered_by_last_resort(arrived, &mut response),
    }
    response.map(|body| StickyBody::inner(body, in_flight))
}

/// The error of a request in an inconsistent state: its future is polled again after a panic of a service, which
/// something around it has caught. An error is better than a request that never ends.
#[cold]
pub(super) fn lost() -> StickyError {
    let source = "the state of a request is inconsistent, after a panic or by a bug".into();
    StickyError::Inner { source }
}

/// Ends the request with an error.
#[cold]
pub(super) fn fail<E: OnError, RB, IB, S>(
    dispatch: &mut Dispatch<S>,
    arrived: Arrival,
    error: StickyError,
) -> Result<Response<StickyBody<RB, IB>>, E::Error> {
    dispatch.rejected(arrived, &error);
    let outcome = dispatch.outcome(error.backend());
    let must_clear = matches!(error, StickyError::UnknownSession { .. });
    let result = E::handle(error, dispatch.error_context());
    result.map(|mut response| {
        if must_clear {
            dispatch.clear_pin(&mut response);
        }
        if dispatch.core().options.info.outcome_extension {
            response.extensions_mut().insert(outcome);
        }
        response
    })
}

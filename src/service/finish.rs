//! How a request ends: with the answer of a backend or of the inner service, or with an error.

use http::{Response, StatusCode};
use http_body::Body;

use super::{OnError, StickyBody};
use crate::{
    dispatch::{AsAnswers, Dispatch, InFlight, TrialPermit, judge},
    health::Judged,
    outcome::StickyError,
    pool::UpgradeGuard,
};

/// A backend answered: its health and the pin are settled. Returns what watches the body of an answer that
/// may still become a failure.
#[inline]
pub(super) fn settle<S, RB: Body>(
    dispatch: &mut Dispatch<S>,
    answers: AsAnswers<S>,
    in_flight: &mut InFlight,
    trial: Option<TrialPermit>,
    response: &mut Response<RB>,
) -> Option<Judged> {
    let judged = judge(dispatch, answers, in_flight, trial, response);
    dispatch.answered(in_flight.state(), true, response);
    dispatch.keep_affinity_state(in_flight);
    judged
}

/// The answer of a backend, which stays in flight until its body ends.
#[inline]
pub(super) fn answer<RB, IB>(
    response: Response<RB>,
    mut in_flight: Option<InFlight>,
    judged: Option<Judged>,
) -> Response<StickyBody<RB, IB>> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        hold(&response, &mut in_flight);
    }
    response.map(|body| StickyBody::backend(body, in_flight, judged))
}

/// The request stays in flight until the upgraded connection ends, as others do until their body ends.
#[cold]
fn hold<B>(response: &Response<B>, in_flight: &mut Option<InFlight>) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(hold) = response.extensions().get::<UpgradeGuard>()
        && let Some(mut in_flight) = in_flight.take()
    {
        hold.set_drain_signal(in_flight.become_stream());
        hold.keep(in_flight);
    }
}

/// The answer of the inner service: as the local node, in flight there, or as the last resort.
pub(super) fn inner_answer<S, RB, IB>(
    dispatch: &mut Dispatch<S>,
    mut response: Response<IB>,
    mut in_flight: Option<InFlight>,
) -> Response<StickyBody<RB, IB>> {
    match &mut in_flight {
        Some(known) => {
            dispatch.answered(known.state(), false, &mut response);
            dispatch.keep_affinity_state(known);
            hold(&response, &mut in_flight);
        }
        None => dispatch.answered_by_last_resort(&mut response),
    }
    response.map(|body| StickyBody::inner(body, in_flight))
}

/// The error of a request whose state does not have what it needs. That would be a bug, and an error is better
/// than a request that never ends.
#[cold]
pub(super) fn lost() -> StickyError {
    debug_assert!(false, "the state of a request does not have what it needs");
    let source = "the state of a request does not have what it needs: a bug in tower-sticky".into();
    StickyError::Inner { source }
}

/// Ends the request with an error.
#[cold]
pub(super) fn fail<E: OnError, RB, IB, S>(
    dispatch: &mut Dispatch<S>,
    error: StickyError,
) -> Result<Response<StickyBody<RB, IB>>, E::Error> {
    dispatch.rejected(&error);
    let outcome = dispatch.outcome(error.backend());
    let unknown = matches!(error, StickyError::UnknownSession { .. });
    let result = E::settle(error, dispatch.error_context());
    result.map(|mut response| {
        if unknown {
            dispatch.forget(&mut response);
        }
        if dispatch.core().options.extensions {
            response.extensions_mut().insert(outcome);
        }
        response
    })
}

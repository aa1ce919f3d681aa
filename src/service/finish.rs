//! How the way of a request goes on or ends: after a backend that was not ready, with an answer, with an error.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::{OnError, StickyBody, ready::ReadyOutcome};
use crate::{
    dispatch::{Dispatch, InFlight, NextStep, WaitLimit},
    error::Shortage,
    outcome::{Reason, StickyError},
    pool::{BackendState, Readiness, UpgradeGuard},
};

/// What to do about a backend that did not become ready: its request is untouched.
pub(super) fn shut<S: Clone>(
    dispatch: &mut Dispatch<S>,
    gate: ReadyOutcome,
    (state, patience): (Arc<BackendState>, WaitLimit),
) -> NextStep<S> {
    match gate {
        ReadyOutcome::Failed(source) => {
            if let Some(shortage) = Shortage::in_chain(source.as_ref()) {
                return NextStep::Fail(dispatch.short(&state, shortage, source));
            }
            let pool = dispatch.core().backends.pool();
            pool.set_readiness(&state, Readiness::Failed);
            dispatch.not_sent(&state, Reason::NotReady, source)
        }
        ReadyOutcome::Busy | ReadyOutcome::Open(_) => dispatch.busy(&state, patience),
    }
}

/// An upgraded connection holds what its request occupies; other responses do until their body ends.
#[cold]
pub(super) fn hold<B>(response: &Response<B>, in_flight: &mut Option<InFlight>) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(hold) = response.extensions().get::<UpgradeGuard>()
        && let Some(mut in_flight) = in_flight.take()
    {
        hold.set_drain_signal(in_flight.become_stream());
        hold.keep(in_flight);
    }
}

pub(super) fn inner_answered<S, RB, IB>(
    dispatch: &mut Dispatch<S>,
    mut response: Response<IB>,
    mut in_flight: Option<InFlight>,
) -> Response<StickyBody<RB, IB>> {
    match &mut in_flight {
        Some(known) => {
            dispatch.answered(known.state(), false, &mut response);
            dispatch.settled(known);
            hold(&response, &mut in_flight);
        }
        None => dispatch.answered_by_last_resort(&mut response),
    }
    response.map(|body| StickyBody::inner(body, in_flight))
}

/// A step has not what it must have, which is a bug: better an error than a request that waits for ever.
#[cold]
pub(super) fn lost<E: OnError, RB, IB, S>(
    dispatch: &mut Dispatch<S>,
) -> Result<Response<StickyBody<RB, IB>>, E::Error> {
    debug_assert!(false, "a step of a request has lost what it needs");
    let source = "a step of the request has lost what it needs: a bug in tower-sticky".into();
    fail::<E, RB, IB, S>(dispatch, StickyError::Inner { source })
}

pub(super) fn fail<E: OnError, RB, IB, S>(
    dispatch: &mut Dispatch<S>,
    error: StickyError,
) -> Result<Response<StickyBody<RB, IB>>, E::Error> {
    dispatch.rejected(&error);
    let outcome = dispatch.outcome(error.backend());
    let unknown = matches!(error, StickyError::UnknownSession { .. });
    let result = E::settle(error, dispatch.asked());
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

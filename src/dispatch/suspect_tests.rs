//! Tests of races that no sequence of requests can bring about.

use std::sync::Arc;

use http::Request;

use super::{Core, Dispatch, NextStep};
use crate::{Backends, StickyLayer, affinity::Cookie, outcome::Reason, pool::BackendState};

type Service = tower::util::BoxCloneSyncService<Request<()>, (), std::io::Error>;

fn service() -> Service {
    Service::new(tower::service_fn(|_| async { Ok(()) }))
}

fn core() -> Arc<Core<Service>> {
    let backends = ["a", "b"].map(|id| (id, service()));
    let layer = StickyLayer::new(Backends::from_iter(backends), Cookie::plain("sid"));
    Arc::new(layer.into_service().core().clone())
}

fn backend(core: &Core<Service>, id: &str) -> Arc<BackendState> {
    let snapshot = core.backends.pool().load();
    let position = snapshot.index().position_of(id.as_bytes()).unwrap();
    snapshot.index().states()[position].clone()
}

fn tried(next: NextStep<Service>) -> String {
    match next {
        NextStep::Try(attempt) => attempt.state.id.to_string(),
        NextStep::Fail(error) => panic!("{error}"),
        _ => panic!("another step"),
    }
}

#[test]
fn suspect_that_recovers_while_its_session_leaves_is_tried() {
    let core = core();
    let (a, b) = (backend(&core, "a"), backend(&core, "b"));
    let mut dispatch = Dispatch::new(core, false, None);
    dispatch.set_expected_backend(a.tag);
    // It was suspect when its availability was read, and is ready since.
    let mut next = tried(dispatch.leave_suspect(&a));
    if next == "b" {
        next = tried(dispatch.not_sent(&b, Reason::ConnectFailed, "refused".into()));
    }
    assert_eq!(next, "a");
    assert!(dispatch.decision.is_pinned() && dispatch.decision.reason().is_none());
}

//! What the gateway adds to the admin interface of the library: URLs of backends, new backends, and the reload.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::sync::watch;
use tower_sticky::{
    PoolError,
    admin::{self, About, Access, Application, Change, NewBackend, Stage},
    metrics::Report,
};

use crate::{
    config::{
        self,
        file::{self, Zone},
    },
    fleet::Fleet,
    reload::Reloader,
    state::SavedMode,
};

/// The maximum number of connections to the admin interface.
pub(crate) const CONNECTIONS: u32 = 100;

/// Sets who may call, as the configuration says.
pub(crate) fn set_access(access: &Access, admin: &config::Admin) {
    access.set_token(admin.token.as_deref());
    access.set_hosts(&admin.hosts);
    access.set_metrics_open(admin.metrics_open);
}

/// The admin interface that is served on `addr`.
pub(crate) fn router(
    fleet: &Arc<Fleet>,
    reloader: Arc<Reloader>,
    stage: watch::Receiver<Stage>,
    access: Access,
    addr: SocketAddr,
) -> Router {
    let explainer = reloader.clone();
    let operated = Operated { fleet: fleet.clone(), reloader: reloader.clone() };
    admin::router(fleet.backends().clone())
        .application(operated)
        .explainer(move |request| {
            let reloader = explainer.clone();
            async move { reloader.explain(request).await }
        })
        .access(access)
        .address(addr)
        .stage(stage)
        .route("/reload", post(reload).with_state(reloader))
        .build()
}

/// Reads the file again.
async fn reload(State(reloader): State<Arc<Reloader>>) -> Response {
    match reloader.reload().await {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(error) => {
            let body = serde_json::json!({ "error": error.to_string() });
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

/// The backends, as the operator sees and changes them.
struct Operated {
    fleet: Arc<Fleet>,
    reloader: Arc<Reloader>,
}

impl Application for Operated {
    fn about(&self, id: &str) -> About {
        self.fleet.about(id)
    }

    fn put(&self, id: &str, new: &NewBackend) -> Result<bool, PoolError> {
        self.fleet.put(&file::Backend {
            weight: new.weight,
            max_connections: new.max_connections,
            backup: new.backup,
            zone: new.zone.clone().map(Zone),
            ..file::Backend::new(id, &new.url)
        })
    }

    fn remove(&self, id: &str) -> Option<Result<(), PoolError>> {
        Some(self.fleet.remove(id))
    }

    fn configuration(&self) -> Vec<(String, String)> {
        self.reloader.configuration()
    }

    fn report(&self, report: Report) -> Report {
        self.reloader.report(report)
    }

    fn changed(&self, id: &str, change: &Change) {
        let mut drains = self.fleet.drains();
        match change {
            Change::Mode(_) | Change::Removed => {
                drains.remove(id);
            }
            Change::Drain { deadline, then, hand_over, .. } => {
                drains.insert(id.to_owned(), SavedMode::draining(*deadline, *then, *hand_over));
            }
            _ => {}
        }
    }
}

//! `AdminRouter`: builds the router of the admin interface.

use std::{fmt, future::Future, net::SocketAddr, sync::Arc};

use axum::{
    Router, middleware,
    routing::{MethodRouter, get, post, put},
};
use http::Request;
use tokio::sync::{Semaphore, watch};

use super::{
    access::Access,
    api::{self, EVENTS, HEALTHZ, METRICS},
    application::Application,
    events,
    explain::explain,
    guard::{self, ICON, LOGIN, LOGOUT, SCRIPT, STYLE},
    moves_json::list_moves,
    openapi, pages,
    pool::AnyPool,
    session::Sessions,
    state::{Admin, Explainer, Stage},
    visit,
};
use crate::{dispatch::Explanation, pool::Backends, service::StickyLayer};

/// The calls in JSON, for whoever asks for another one.
const PATHS: [&str; 9] = [
    "/backends",
    "/backends/{id}",
    "/stats",
    "/moves",
    "/explain",
    "/openapi.json",
    METRICS,
    EVENTS,
    HEALTHZ,
];

/// How many clients may follow the events. They stay connected, and others must still get in.
const LISTENERS: usize = 64;

/// The admin interface of a pool: see [`admin`](crate::admin).
pub fn router<S>(backends: Backends<S>) -> AdminRouter
where
    S: Clone + Send + Sync + 'static,
{
    AdminRouter {
        title: format!("tower-sticky: {}", backends.name()),
        pool: Arc::new(backends),
        application: Arc::new(()),
        explainer: None,
        access: Access::new(),
        stage: None,
        read_only: false,
        routes: Vec::new(),
    }
}

/// Builds the router of the admin interface, from [`router`].
#[must_use = "nothing is served before the router is built"]
pub struct AdminRouter {
    pool: Arc<dyn AnyPool>,
    application: Arc<dyn Application>,
    explainer: Option<Arc<Explainer>>,
    title: String,
    access: Access,
    stage: Option<watch::Receiver<Stage>>,
    read_only: bool,
    routes: Vec<(String, MethodRouter)>,
}

impl AdminRouter {
    /// Refuses every change with 403.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The token that each call needs, but for `GET /healthz`, as `Authorization: Bearer …`. Default: none.
    pub fn token(self, token: &str) -> Self {
        self.access.set_token(Some(token));
        self
    }

    /// Lets clients on other machines call without a token: the application protects the router itself.
    pub fn without_token(self) -> Self {
        self.access.set_open();
        self
    }

    /// Further names and IP addresses, without ports, by which it is reached. Default: none.
    pub fn hosts<H: Into<String>>(self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.access.set_hosts(hosts);
        self
    }

    /// The address that it is served on. Default: unknown.
    pub fn address(self, address: SocketAddr) -> Self {
        self.access.set_address(address);
        self
    }

    /// Whether `GET /metrics` needs no token; default `false`.
    pub fn metrics_open(self, open: bool) -> Self {
        self.access.set_metrics_open(open);
        self
    }

    /// Uses these rules of access, which can be changed later, in place of those that were set before.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// The name on each page. Default: the name of the pool.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// The layer by which tokens are explained: see [`StickyLayer::explain`]. Default: none, and nothing is
    /// explained.
    pub fn layer<S, E>(self, layer: &StickyLayer<S, E>) -> Self
    where
        S: Clone + Send + Sync + 'static,
        E: 'static,
    {
        let layer = layer.clone();
        self.explainer(move |request| {
            let layer = layer.clone();
            async move { layer.explain(&request).await }
        })
    }

    /// As [`layer`](Self::layer), for a layer that changes at run time.
    pub fn explainer<F, T>(mut self, explain: F) -> Self
    where
        F: Fn(Request<()>) -> T + Send + Sync + 'static,
        T: Future<Output = Explanation> + Send + 'static,
    {
        self.explainer = Some(Arc::new(move |request| Box::pin(explain(request))));
        self
    }

    /// What the application adds. Default: nothing.
    pub fn application(mut self, application: impl Application) -> Self {
        self.application = Arc::new(application);
        self
    }

    /// What `GET /healthz` answers by: 200 while the application serves, and 503 afterwards. Default: always 200.
    pub fn stage(mut self, stage: watch::Receiver<Stage>) -> Self {
        self.stage = Some(stage);
        self
    }

    /// Adds a call of the application's own, such as `POST /reload`, with the same rules of access. It may not
    /// have the path of another call.
    pub fn route(mut self, path: impl Into<String>, methods: MethodRouter) -> Self {
        self.routes.push((path.into(), methods));
        self
    }

    /// The router, to be merged or nested into another one.
    pub fn build<T: Clone + Send + Sync + 'static>(self) -> Router<T> {
        let own = self.routes.iter().map(|(path, _)| path.as_str());
        let paths: Vec<_> = PATHS.into_iter().chain(own).collect();
        let admin = Admin {
            pool: self.pool,
            application: self.application,
            stage: self.stage,
            listeners: Arc::new(Semaphore::new(LISTENERS)),
            access: self.access,
            sessions: Arc::new(Sessions::new()),
            explainer: self.explainer,
            title: self.title.into(),
            read_only: self.read_only,
            paths: paths.join(", ").into(),
        };
        let own = self.routes.into_iter();
        own.fold(json().merge(html()), |router, (path, methods)| {
            router.route(&path, methods.with_state(()))
        })
        .fallback(api::nothing)
        .method_not_allowed_fallback(api::wrong_method)
        .with_state(admin.clone())
        .layer(middleware::from_fn_with_state(admin.clone(), guard::check))
        .layer(middleware::from_fn_with_state(admin, visit::prepare))
    }
}

/// The calls in JSON.
fn json() -> Router<Admin> {
    Router::new()
        .route("/backends", get(api::list))
        .route("/backends/{id}", put(api::replace).patch(api::change).delete(api::remove))
        .route("/stats", get(api::totals))
        .route("/moves", get(list_moves))
        .route("/explain", post(explain))
        .route("/openapi.json", get(openapi::describe))
        .route(EVENTS, get(events::listen))
        .route(HEALTHZ, get(api::healthz))
        .route(METRICS, get(api::show_metrics))
}

/// The pages.
fn html() -> Router<Admin> {
    Router::new()
        .route("/", get(pages::show_overview))
        .route("/view/moves", get(pages::show_moves))
        .route("/view/configuration", get(pages::show_configuration))
        .route("/view/explain", get(pages::show_explain).post(pages::explain_form))
        .route("/view/backends/{id}", get(pages::show_backend))
        .route("/view/backends/{id}/{action}", get(pages::ask).post(pages::act))
        .route(LOGIN, get(pages::show_login).post(pages::login))
        .route(LOGOUT, post(pages::logout))
        .route(STYLE, get(pages::style))
        .route(SCRIPT, get(pages::script))
        .route(ICON, get(pages::icon))
}

impl fmt::Debug for AdminRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminRouter")
            .field("access", &self.access)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

//! The pages of the dashboard: what a browser gets, and sends back.

use axum::{
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};

use super::{
    application::Change,
    explain::parse_request,
    filter::MoveFilter,
    guard::equal,
    page::{
        Action, Frame, Live, Page, Selection, backend_page, configuration_page, confirmation,
        explain_page, fragment, moves_page, overview,
    },
    patch::Deadline,
    session,
    state::Admin,
    visit::{Visit, ask_to_log_in},
};
use crate::{
    outcome::Failover,
    pool::{Mode, PoolError},
};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");
const ICON: &str = include_str!("page/icon.svg");

type Visited = axum::Extension<Visit>;

pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) async fn icon() -> Response {
    asset("image/svg+xml", ICON)
}

fn asset(media_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "max-age=300"),
    ];
    (headers, content).into_response()
}

pub(super) async fn show_overview(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
    RawQuery(query): RawQuery,
) -> Response {
    let (mut selection, mut is_fragment) = (Selection::default(), false);
    for (name, value) in pairs(query.as_deref().unwrap_or_default().as_bytes()) {
        match &*name {
            "q" => selection.search = value,
            "only" => selection.only = value,
            "page" => selection.page = value.parse().unwrap_or(0),
            "fragment" => is_fragment = true,
            _ => {}
        }
    }
    let content = overview(&visit.frame, &admin.view(), &selection, visit.now);
    if is_fragment {
        return fragment(content);
    }
    visit.frame.page(Page::Overview, "Overview", Live::Yes, &content)
}

pub(super) async fn show_moves(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.as_deref().unwrap_or_default();
    let value = |wanted: &str| {
        let mut pairs = pairs(query.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value)
    };
    let page = value("page").and_then(|page| page.parse().ok()).unwrap_or(0);
    let filter = MoveFilter::parse(query);
    let moves = filter.select(admin.pool.moves());
    let content = moves_page(&visit.frame, &filter, page, &moves, visit.now);
    if value("fragment").is_some() {
        return fragment(content);
    }
    visit.frame.page(Page::Moves, "Moves", Live::Yes, &content)
}

pub(super) async fn show_configuration(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
) -> Response {
    let content = configuration_page(&admin.application.configuration());
    visit.frame.page(Page::Configuration, "Configuration", Live::No, &content)
}

pub(super) async fn show_backend(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let view = admin.view();
    let Some(backend) = view.backend(&id) else {
        return unknown(&visit.frame, id);
    };
    let about_it = |record: &crate::pool::MoveRecord| {
        let from = record.from.as_ref().is_some_and(|from| from.as_str() == id);
        from || record.to.as_str() == id
    };
    let moves: Vec<_> =
        view.moves.iter().filter(|record| about_it(record)).take(100).cloned().collect();
    let content = backend_page(&visit.frame, backend, &moves, visit.now);
    if query.is_some_and(|query| query.contains("fragment=")) {
        return fragment(content);
    }
    visit.frame.page(Page::Other, &format!("Backend {id}"), Live::Yes, &content)
}

fn unknown(frame: &Frame, id: String) -> Response {
    frame.problem(StatusCode::NOT_FOUND, &PoolError::Unknown(id).to_string())
}

/// Asks before a backend is changed.
pub(super) async fn ask(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
    Path((id, action)): Path<(String, String)>,
) -> Response {
    let Some(action) = Action::parse(&action) else {
        return visit.frame.problem(StatusCode::NOT_FOUND, "There is no such page.");
    };
    confirm(&admin, &visit, id, action, None)
}

fn confirm(
    admin: &Admin,
    visit: &Visit,
    id: String,
    action: Action,
    problem: Option<&str>,
) -> Response {
    if admin.read_only {
        return visit.frame.problem(StatusCode::FORBIDDEN, "This dashboard is read-only.");
    }
    let view = admin.view();
    let Some(backend) = view.backend(&id) else {
        return unknown(&visit.frame, id);
    };
    let content = confirmation(&visit.frame, &view, backend, action, problem);
    let status = if problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let name = format!("{} {id}", action.verb());
    visit.frame.page_with(status, Page::Other, &name, Live::No, &content)
}

/// Changes a backend, as a form has asked for.
pub(super) async fn act(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
    Path((id, action)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(action) = Action::parse(&action) else {
        return visit.frame.problem(StatusCode::NOT_FOUND, "There is no such page.");
    };
    let form = Form::parse(&body);
    if let Some(refused) = refuse_foreign(&admin, &visit, &headers, &form) {
        return refused;
    }
    let change = match change(action, &form) {
        Ok(change) => change,
        Err(problem) => return confirm(&admin, &visit, id, action, Some(&problem)),
    };
    let changed = match change {
        Change::Removed => admin.remove(&id),
        change => admin.change(&id, &change),
    };
    match changed {
        Ok(()) if action == Action::Remove => Redirect::to(&visit.frame.link("/")).into_response(),
        Ok(()) => Redirect::to(&visit.frame.backend_link(&id, "")).into_response(),
        Err(PoolError::Unknown(id)) => unknown(&visit.frame, id),
        Err(error) => confirm(&admin, &visit, id, action, Some(&error.to_string())),
    }
}

/// The change that a form asks for.
fn change(action: Action, form: &Form) -> Result<Change, String> {
    Ok(match action {
        Action::Enable => Change::Mode(Mode::Active),
        Action::Disable => Change::Mode(Mode::Disabled),
        Action::Remove => Change::Removed,
        Action::Weigh => Change::Weight(form.number("weight")?),
        Action::Limit => Change::Limit(form.number("max_connections")?),
        Action::Drain => {
            let deadline = match form.get("deadline").trim() {
                "" => None,
                text => Some(Deadline::parse(text)?.0),
            };
            let then = match form.get("then") {
                "borrow" => Failover::Borrow,
                "reject" => Failover::Reject,
                _ => Failover::Repin,
            };
            Change::Drain { deadline, then, hand_over: None }
        }
    })
}

pub(super) async fn show_explain(axum::Extension(visit): Visited) -> Response {
    let content = explain_page(&visit.frame, None);
    visit.frame.page(Page::Explain, "Explain a token", Live::No, &content)
}

pub(super) async fn explain_form(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = Form::parse(&body);
    if let Some(refused) = refuse_foreign(&admin, &visit, &headers, &form) {
        return refused;
    }
    let result = match parse_request(form.get("text")) {
        Ok(request) => admin.explain(request).await,
        Err(problem) => Err(problem),
    };
    let content = explain_page(&visit.frame, Some(&result));
    visit.frame.page(Page::Explain, "Explain a token", Live::No, &content)
}

pub(super) async fn show_login(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
) -> Response {
    if admin.access.rules().token.is_none() {
        return Redirect::to(&visit.frame.link("/")).into_response();
    }
    ask_to_log_in(&visit.frame, None)
}

pub(super) async fn login(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
    body: Bytes,
) -> Response {
    let home = Redirect::to(&visit.frame.link("/"));
    let Some(token) = admin.access.rules().token.clone() else {
        return home.into_response();
    };
    let form = Form::parse(&body);
    if !equal(form.get("token").as_bytes(), token.as_bytes()) {
        tracing::warn!("a login at the admin interface was refused");
        return ask_to_log_in(&visit.frame, Some("This is not the admin token."));
    }
    let base = &visit.frame.base;
    match admin.sessions.issue(&token, base, visit.https, visit.now) {
        Some(cookie) => ([(header::SET_COOKIE, cookie)], home).into_response(),
        None => visit.frame.problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "This machine has no random numbers for a session.",
        ),
    }
}

pub(super) async fn logout(
    State(admin): State<Admin>,
    axum::Extension(visit): Visited,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = refuse_foreign(&admin, &visit, &headers, &Form::parse(&body)) {
        return refused;
    }
    let cookie = session::end(&visit.frame.base, visit.https);
    let home = Redirect::to(&visit.frame.link("/"));
    ([(header::SET_COOKIE, cookie)], home).into_response()
}

/// Refuses a form that was not shown by us to this browser.
fn refuse_foreign(
    admin: &Admin,
    visit: &Visit,
    headers: &HeaderMap,
    form: &Form,
) -> Option<Response> {
    if admin.sessions.is_form_token(form.get("form_token"), headers, visit.now) {
        return None;
    }
    let message = "The form is too old, or not from this page. Go back, load the page again, and repeat this.";
    Some(visit.frame.problem(StatusCode::FORBIDDEN, message))
}

/// The fields of a form.
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(body: &[u8]) -> Self {
        Self(pairs(body).collect())
    }

    /// The value of a field; empty if it is not there.
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, String> {
        let text = self.get(name).trim();
        text.parse().map_err(|_| format!("{text:?} is not a whole number from 0 on."))
    }
}

fn pairs(encoded: &[u8]) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(encoded).map(|(name, value)| (name.into_owned(), value.into_owned()))
}

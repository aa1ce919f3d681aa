//! The frame of every page.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::words;

/// Only our own style and script, and nothing inline.
pub(in crate::admin) const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// How often a page without JavaScript loads itself again, in seconds.
const REFRESH_SECS: u32 = 10;

/// What the frame of a page needs.
#[derive(Debug, Clone)]
pub(in crate::admin) struct Frame {
    /// Where the router is mounted: empty, or a path without a slash at its end.
    pub(in crate::admin) base: String,
    pub(in crate::admin) title: String,
    /// Whether somebody has logged in, and may log out.
    pub(in crate::admin) can_log_out: bool,
    pub(in crate::admin) read_only: bool,
    /// For forms; empty where there are none.
    pub(in crate::admin) form_token: String,
}

/// A page of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Page {
    Overview,
    Moves,
    Explain,
    Configuration,
    /// One that is not in the navigation.
    Other,
}

impl Page {
    const LINKED: [(Self, &'static str, &'static str); 4] = [
        (Self::Overview, "/", "Overview"),
        (Self::Moves, "/view/moves", "Moves"),
        (Self::Explain, "/view/explain", "Explain"),
        (Self::Configuration, "/view/configuration", "Configuration"),
    ];
}

/// How a page is kept up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Live {
    /// It shows numbers that change.
    Yes,
    /// It has a form that must not be disturbed, or shows nothing that changes.
    No,
}

impl Frame {
    /// A link within the router.
    pub(in crate::admin) fn link(&self, path: &str) -> String {
        if path == "/" && !self.base.is_empty() {
            return self.base.clone();
        }
        format!("{}{path}", self.base)
    }

    /// The page of a backend, or one below it.
    pub(in crate::admin) fn backend_link(&self, id: &str, action: &str) -> String {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        self.link(&format!("/view/backends/{id}{action}"))
    }

    /// A page with this name and content.
    pub(in crate::admin) fn page(
        &self,
        page: Page,
        name: &str,
        live: Live,
        content: &Markup,
    ) -> Response {
        self.page_with(StatusCode::OK, page, name, live, content)
    }

    pub(in crate::admin) fn page_with(
        &self,
        status: StatusCode,
        page: Page,
        name: &str,
        live: Live,
        content: &Markup,
    ) -> Response {
        let events = self.link("/events");
        let markup = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    title { (name) " · " (self.title) }
                    link rel="icon" href=(self.link("/view/icon.svg"));
                    link rel="stylesheet" href=(self.link("/view/style.css"));
                    @if live == Live::Yes {
                        script src=(self.link("/view/script.js")) defer {}
                        noscript { meta http-equiv="refresh" content=(REFRESH_SECS); }
                    }
                }
                body {
                    a.skip href="#content" { "Skip to the content" }
                    @if live == Live::Yes { p.skip #news role="status" {} }
                    (self.header(page))
                    main #content data-live=[(live == Live::Yes).then_some(&events)] {
                        (content)
                    }
                    footer {
                        "tower-sticky " (env!("CARGO_PKG_VERSION"))
                        @if self.read_only { " · read-only" }
                    }
                }
            }
        };
        respond(status, markup.into_string())
    }

    fn header(&self, current: Page) -> Markup {
        html! {
            header.top {
                strong { (self.title) }
                nav aria-label="Pages" {
                    ul {
                        @for (page, path, name) in Page::LINKED {
                            li {
                                a href=(self.link(path)) aria-current=[(page == current).then_some("page")] { (name) }
                            }
                        }
                        @if self.can_log_out {
                            li {
                                form method="post" action=(self.link("/view/logout")) {
                                    (self.token_field())
                                    button.quiet type="submit" { "Log out" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// The field that says that a form came from here.
    pub(in crate::admin) fn token_field(&self) -> Markup {
        html! { input type="hidden" name="form_token" value=(self.form_token); }
    }

    /// A page that says what is wrong.
    pub(in crate::admin) fn problem(&self, status: StatusCode, message: &str) -> Response {
        let content = html! {
            h1 { "This did not work" }
            p.note.bad role="alert" { (message) }
            p { a href=(self.link("/")) { "To the overview" } }
        };
        self.page_with(status, Page::Other, "Error", Live::No, &content)
    }
}

/// The head of a table that becomes a list on small screens.
pub(super) fn column_names(names: &[&str]) -> Markup {
    html! {
        thead role="rowgroup" {
            tr role="row" { @for name in names { th scope="col" role="columnheader" { (name) } } }
        }
    }
}

/// Links to the pages before and after this one of a long list, if it has more than one.
pub(super) fn pages(
    label: &str,
    (page, pages): (usize, usize),
    of: &str,
    link: impl Fn(usize) -> String,
) -> Markup {
    html! {
        @if pages > 1 {
            nav aria-label=(label) {
                p {
                    "Page " (page + 1) " of " (pages) ", " (of) ". "
                    @if page > 0 { a href=(link(page - 1)) { "Previous" } " " }
                    @if page + 1 < pages { a href=(link(page + 1)) { "Next" } }
                }
            }
        }
    }
}

/// A part of a page that replaces an older one.
pub(in crate::admin) fn fragment(content: Markup) -> Response {
    respond(StatusCode::OK, content.into_string())
}

fn respond(status: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, html).into_response()
}

/// A time.
pub(in crate::admin) fn time(at: std::time::SystemTime) -> Markup {
    html! { time datetime=(words::rfc3339(at)) { (words::date_and_time(at)) } }
}

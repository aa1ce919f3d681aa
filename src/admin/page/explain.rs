//! Explains a token: whose it is, and what would happen to it now.

use maud::{Markup, html};

use super::layout::Frame;
use crate::dispatch::Explanation;

/// The form, and the explanation or what is wrong with what was pasted. What was pasted is not shown again: it may
/// be a usable token.
pub(in crate::admin) fn explain_page(
    frame: &Frame,
    result: Option<&Result<Explanation, String>>,
) -> Markup {
    html! {
        h1 { "Explain a token" }
        p.soft {
            "Paste a cookie (" code { "NAME=VALUE" } "), a header (" code { "Name: value" }
            "), a client address, or the head of a request. Nothing is sent to a backend, nothing is counted, and no session is touched."
        }
        form method="post" action=(frame.link("/view/explain")) {
            (frame.token_field())
            p {
                label for="text" { "Cookie, header, client address, or head of a request" }
                textarea #text name="text" required spellcheck="false" autocomplete="off" {}
            }
            button type="submit" { "Explain" }
        }
        @match result {
            None => {}
            Some(Err(problem)) => p.note.bad role="alert" { (problem) },
            Some(Ok(explanation)) => (answer(explanation)),
        }
    }
}

fn answer(explanation: &Explanation) -> Markup {
    html! {
        h2 #answer { "What would happen now" }
        section.card aria-labelledby="answer" {
            p { strong { (explanation.forecast) } }
        }
        h2 #found { "What the request carries" }
        @if explanation.findings.is_empty() {
            p.card { "Nothing that this pool recognizes: it would be a new session." }
        }
        @for finding in &explanation.findings {
            section.card aria-label=(finding.carrier) {
                dl.rows {
                    @for (name, value) in finding.rows() { dt { (name) } dd { (value) } }
                }
            }
        }
    }
}

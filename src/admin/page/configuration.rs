//! The configuration in force, and the login.

use maud::{Markup, html};

use super::layout::Frame;

/// The configuration in force, as the application has given it.
pub(in crate::admin) fn configuration_page(settings: &[(String, String)]) -> Markup {
    html! {
        h1 { "Configuration in force" }
        @if settings.is_empty() {
            p.card { "The application does not say how it is configured." }
        } @else {
            p.soft { "Secrets are not shown." }
            table aria-label="Configuration" {
                thead { tr { th scope="col" { "Key" } th scope="col" { "Value" } } }
                tbody {
                    @for (key, value) in settings {
                        tr { th scope="row" { code { (key) } } td { code { (value) } } }
                    }
                }
            }
        }
    }
}

/// Asks for the token.
pub(in crate::admin) fn login_page(frame: &Frame, problem: Option<&str>) -> Markup {
    html! {
        h1 { "Log in" }
        @if let Some(problem) = problem { p.note.bad role="alert" { (problem) } }
        section.card aria-label="Log in" {
            form method="post" action=(frame.link("/view/login")) {
                p {
                    label for="token" { "Admin token" }
                    input #token name="token" type="password" autocomplete="current-password" required autofocus;
                }
                button type="submit" { "Log in" }
            }
        }
    }
}

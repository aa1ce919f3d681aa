//! The pages of the dashboard, as HTML.

mod action;
mod backend;
mod backends;
mod cells;
mod configuration;
mod drains;
mod explain;
mod layout;
mod moves;
mod overview;
mod sparkline;
mod totals;
pub(super) mod words;

pub(super) use self::{
    action::{Action, confirmation},
    backend::backend_page,
    backends::Selection,
    configuration::{configuration_page, login_page},
    explain::explain_page,
    layout::{Frame, Live, Page, fragment},
    moves::moves_page,
    overview::overview,
};

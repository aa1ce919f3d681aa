//! The pages of the dashboard, as HTML.

mod action;
mod configuration;
mod explain;
mod layout;
mod moves;
mod overview;
mod sparkline;
pub(super) mod words;

pub(super) use self::{
    action::{Action, confirmation},
    configuration::{configuration_page, login_page},
    explain::explain_page,
    layout::{Frame, Live, Page, fragment},
    moves::moves_page,
    overview::{Selection, backend_page, overview},
};

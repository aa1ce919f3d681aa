//! `[[affinity]]`: how a session is recognised. Several sections are a chain.

mod build;
mod checked;
mod keys;
mod own_id;
mod section;
mod store;
mod stores;
mod warnings;

pub(crate) use self::stores::{KeptSecrets, Stores};
pub(super) use self::{
    build::{Context, chain},
    section::Section,
    warnings::warnings,
};

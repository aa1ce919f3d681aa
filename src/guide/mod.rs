//! How the crate is built, and how it is extended: for maintainers, and for users who look inside.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("extend.md")]
pub mod extend {}

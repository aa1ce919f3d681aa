//! `Route`: sessions whose ids name their backend.

mod bound;
mod builder;
mod codes;
mod separator;

pub use self::builder::Route;

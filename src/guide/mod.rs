//! Longer texts: for operators, for users who come from another proxy, and for contributors.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[cfg(feature = "admin")]
#[doc = include_str!("dashboard.md")]
pub mod dashboard {}

#[doc = include_str!("extend.md")]
pub mod extend {}

#[doc = include_str!("failures.md")]
pub mod failures {}

#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("migration.md")]
pub mod migration {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("session_data.md")]
pub mod session_data {}

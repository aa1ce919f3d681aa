//! Property tests: invariants under random inputs of clients, backends and operators.
//!
//! The inputs are the same in every run. `PROPTEST_CASES` sets their number, and
//! `PROPTEST_RNG_SEED` changes them.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod caching;
mod cookie_model;
mod cookies;
mod pool;
mod support;
mod tokens;

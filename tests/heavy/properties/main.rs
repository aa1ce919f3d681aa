//! What must hold whatever a client, a backend or an operator does, tried with many random inputs.
//!
//! The inputs are the same in every run. `PROPTEST_CASES` asks for more of them, and
//! `PROPTEST_RNG_SEED` for others.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod caching;
mod cookies;
mod pool;
mod support;
mod tokens;

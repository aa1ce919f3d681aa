//! The pool changes while sessions send requests: a model predicts the outcome of each request, and the
//! counters of the pool must agree with it.

mod invariants;
mod model;
mod node;
mod operations;

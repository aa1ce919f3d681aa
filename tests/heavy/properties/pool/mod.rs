//! The pool under an operator's hands while sessions send requests: a model says what each request
//! must become, and the pool's own counters must agree with it.

mod invariants;
mod model;
mod node;
mod operations;

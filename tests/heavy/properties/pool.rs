//! The pool: to be written.

//! The gateway with programs of other projects at its ends: curl, openssl, nginx, HAProxy, and gRPC and
//! a validator in Python.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod curl;
mod grpcio;
mod haproxy;
mod nginx;
mod openapi;
mod openssl;
mod python;
mod support;

//! The service in process: its contract with Tower, and every decision case by case.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod address_changed;
mod affinity;
mod chain;
mod contract;
mod corners;
mod drain;
mod envelope;
mod envelope_carriers;
mod evenness;
mod failover;
mod feed;
mod fenced_cache;
mod hand_over;
mod health;
mod held;
mod home_wait;
mod keys;
mod learned;
mod learned_store;
mod local;
mod outlier;
mod overload;
mod probes;
mod rebalance;
mod redial;
mod session_data;
mod session_info;
mod shortage;
mod slow_start;
mod streams;
mod strict;
mod support;
mod suspects;
mod taken_out;
mod tiers;
mod words;

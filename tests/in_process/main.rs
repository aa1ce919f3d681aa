//! The service in process: the contract with Tower, and every decision, case by case.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

#[path = "../support/unending.rs"]
mod unending;

mod access_log;
mod address_changed;
mod admin;
mod bounded_load;
mod chain;
mod chain_tokens;
mod client_ip;
mod contract;
mod cookie;
mod disabled;
mod discovery;
mod discovery_counters;
mod discovery_ends;
mod drain;
mod drain_streams;
mod driver_change;
mod envelope;
mod envelope_carriers;
mod envelope_query;
mod evenness;
mod explain;
mod failover;
mod fenced_cache;
mod handoff;
mod header;
mod health;
mod home_wait;
mod keys;
mod learned;
mod learned_paths;
mod learned_store;
mod least_sessions;
mod local_node;
mod metric_words;
mod metrics;
mod outcome_details;
mod outlier;
mod overload;
mod probe_requests;
mod probe_tasks;
mod probes;
mod rebalance;
mod redial;
mod route;
mod session_actions;
mod session_counts;
mod session_data;
mod session_info;
mod session_service;
mod shortage;
mod slow_start;
mod spans;
mod streams;
mod strict;
mod support;
mod suspects;
mod tiers;
mod token_expiry;
mod trials;
mod update;
mod wait_queue;

//! `AccessLog`: writes records as lines.

use std::{cell::RefCell, fmt};

use super::{
    clf,
    file::LogFile,
    haproxy, json,
    record::{AccessRecord, OnAccess},
};
use crate::util::{Rng, string_enum::words};

words! {
    /// The format of the lines.
    Format {
        /// An object with these fields, without those that are not known: `time`, `client`, `method`, `host`, `path`,
        /// `protocol`, `status`, `bytes`, `end`, `wait_ms`, `first_byte_ms`, `duration_ms`, `backend`, `outcome`,
        /// `reason`, `session`, `epoch`, `attempts`, `token` and `request_id`.
        Json = "json",
        /// The Common Log Format of NCSA's httpd.
        Common = "common",
        /// The same with referer and user agent.
        Combined = "combined",
        /// HAProxy's HTTP log format, with its termination and cookie flags.
        Haproxy = "haproxy",
    }
}

/// Writes records as lines to a [`LogFile`].
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    file: LogFile,
    name: String,
    with_query: bool,
    /// Of 2^32 records so many are written.
    share: u64,
    rng: Rng,
}

impl AccessLog {
    /// A log of all records, without the queries of their targets.
    pub fn new(format: Format, file: LogFile) -> Self {
        let (name, share) = ("tower-sticky".to_owned(), 1 << 32);
        Self { format, file, name, with_query: false, share, rng: Rng::new() }
    }

    /// What stands for the frontend and the backend in HAProxy's format; default `tower-sticky`. Spaces and what
    /// is not printable become `_`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        let printable = |c: char| if c.is_ascii_graphic() { c } else { '_' };
        self.name = name.chars().map(printable).collect();
        self
    }

    /// Whether queries are written; default `false`, because they often contain what a log should not have.
    #[must_use]
    pub fn query(mut self, with_query: bool) -> Self {
        self.with_query = with_query;
        self
    }

    /// The share of the records that is written, chosen by chance; default 1.0. Those that are
    /// [notable](AccessRecord::is_notable) are always written.
    #[must_use]
    pub fn sample(mut self, share: f64) -> Self {
        self.share = (share.clamp(0.0, 1.0) * (1u64 << 32) as f64) as u64;
        self
    }

    /// Appends the line of a record.
    pub fn format(&self, record: &AccessRecord, out: &mut Vec<u8>) {
        match self.format {
            Format::Json => json::write(out, record, self.with_query),
            Format::Common => clf::write(out, record, self.with_query, false),
            Format::Combined => clf::write(out, record, self.with_query, true),
            Format::Haproxy => haproxy::write(out, record, self.with_query, &self.name),
        }
    }

    fn is_sampled(&self) -> bool {
        self.share == 1 << 32 || self.rng.next() >> 32 < self.share
    }
}

impl OnAccess for AccessLog {
    fn record(&self, record: &AccessRecord) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        if !record.is_notable() && !self.is_sampled() {
            return;
        }
        // While a thread ends, there is no line to be reused.
        let reused = LINE.try_with(|line| {
            line.try_borrow_mut().map(|mut line| {
                line.clear();
                self.format(record, &mut line);
                self.file.write(&line);
            })
        });
        if !matches!(reused, Ok(Ok(()))) {
            let mut line = Vec::new();
            self.format(record, &mut line);
            self.file.write(&line);
        }
    }
}

//! Durations of requests by method, scheme and status, as OpenTelemetry's conventions for HTTP want them.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use super::{HistogramTotals, histogram::Histogram};
use crate::util::{
    KnownMethod,
    shards::{Access, Sharded},
};

/// How many combinations of method, scheme and status a thread tells apart. In the last ones the status is
/// [`OTHER_STATUS`], so that a backend cannot make up series.
const SLOTS: usize = 64;
const SLOTS_WITH_STATUS: usize = SLOTS - 2 * KnownMethod::ALL.len();

/// Stands for the statuses that have no slot of their own.
const OTHER_STATUS: u16 = 999;

/// How many kinds of requests there are.
const KINDS: usize = 32;

/// Method and scheme of a request, in 5 bits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestKind(u8);

impl RequestKind {
    pub(crate) const BITS: u32 = 5;

    #[inline]
    pub(crate) fn new(method: KnownMethod, https: bool) -> Self {
        Self(method as u8 | u8::from(https) << 4)
    }

    #[inline]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self((bits % KINDS as u64) as u8)
    }

    #[inline]
    pub(super) fn bits(self) -> u64 {
        u64::from(self.0)
    }

    pub(crate) fn method(self) -> &'static str {
        let method = KnownMethod::ALL.get(usize::from(self.0 & 15));
        method.copied().unwrap_or(KnownMethod::Other).as_str()
    }

    pub(crate) fn scheme(self) -> &'static str {
        if self.0 >> 4 == 0 { "http" } else { "https" }
    }
}

/// How a request ended: with a status, or without one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ending(u16);

impl Ending {
    /// The client has left before an answer.
    pub(crate) const CANCELED: Self = Self(1);
    /// The connection was refused, or could not be made in time.
    pub(crate) const CONNECT_FAILED: Self = Self(2);
    /// The connection ended before an answer.
    pub(crate) const BROKEN: Self = Self(3);
    /// There was no valid answer in time.
    pub(crate) const NO_ANSWER: Self = Self(4);
    /// The body of the request has failed.
    pub(crate) const CLIENT_ERROR: Self = Self(5);

    #[inline]
    pub(crate) fn status(status: http::StatusCode) -> Self {
        Self(status.as_u16())
    }

    /// The values of `http_response_status_code` and `error_type`.
    pub(crate) fn labels(self) -> (String, String) {
        let error = match self {
            Self::CANCELED => "canceled",
            Self::CONNECT_FAILED => "connect-failed",
            Self::BROKEN => "broken",
            Self::NO_ANSWER => "no-answer",
            Self::CLIENT_ERROR => "client-error",
            Self(OTHER_STATUS) => return ("other".to_owned(), String::new()),
            Self(status) => {
                let error = if status >= 500 { status.to_string() } else { String::new() };
                return (status.to_string(), error);
            }
        };
        (String::new(), error.to_owned())
    }
}

/// Durations by kind and ending, in the shard of each thread.
#[derive(Debug, Default)]
pub(super) struct ByRequest(Sharded<OnceLock<Box<Table>>>);

#[derive(Debug)]
struct Table {
    /// Requests that have begun.
    begun: [AtomicU64; KINDS],
    slots: [Slot; SLOTS],
    used: AtomicU32,
}

#[derive(Debug, Default)]
struct Slot {
    /// Ending and kind, plus one; 0 for none.
    key: AtomicU32,
    histogram: Histogram,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            begun: Default::default(),
            slots: std::array::from_fn(|_| Slot::default()),
            used: AtomicU32::new(0),
        }
    }
}

/// Durations, and how many requests of each kind have not ended.
#[derive(Debug, Default)]
pub(crate) struct ByRequestTotals {
    pub(crate) durations: BTreeMap<(RequestKind, Ending), HistogramTotals>,
    pub(crate) active: BTreeMap<RequestKind, u64>,
}

impl ByRequest {
    /// A request has begun.
    #[inline]
    pub(super) fn begin(&self, kind: RequestKind) {
        self.0.with(|shard, access| {
            let table = shard.get_or_init(Box::default);
            access.add(&table.begun[kind.bits() as usize % KINDS], 1);
        });
    }

    /// A request has ended.
    #[inline]
    pub(super) fn observe(&self, kind: RequestKind, ending: Ending, nanos: u64) {
        self.0.with(|shard, access| {
            let table = shard.get_or_init(Box::default);
            table.histogram(kind, ending, access).observe(nanos, access);
        });
    }

    pub(super) fn totals(&self) -> ByRequestTotals {
        let mut totals = ByRequestTotals::default();
        for table in self.0.iter().filter_map(OnceLock::get) {
            for slot in &table.slots {
                if let Some(key) = slot.key.load(Relaxed).checked_sub(1) {
                    let (ending, kind) = (Ending((key >> RequestKind::BITS) as u16), key);
                    let kind = RequestKind::from_bits(u64::from(kind));
                    let observed = HistogramTotals::of([&slot.histogram].into_iter());
                    totals.durations.entry((kind, ending)).or_default().add(&observed);
                }
            }
        }
        // Read after those that have ended, so that none is missing that has not.
        for table in self.0.iter().filter_map(OnceLock::get) {
            for (bits, begun) in (0..).zip(&table.begun) {
                match begun.load(Relaxed) {
                    0 => {}
                    begun => {
                        *totals.active.entry(RequestKind::from_bits(bits)).or_default() += begun;
                    }
                }
            }
        }
        for ((kind, _), ended) in &totals.durations {
            if let Some(active) = totals.active.get_mut(kind) {
                *active = active.saturating_sub(ended.count());
            }
        }
        totals
    }

    /// All durations together.
    pub(super) fn all(&self) -> HistogramTotals {
        let tables = self.0.iter().filter_map(OnceLock::get);
        HistogramTotals::of(tables.flat_map(|table| &table.slots).map(|slot| &slot.histogram))
    }
}

impl Table {
    #[inline]
    fn histogram(&self, kind: RequestKind, ending: Ending, access: Access) -> &Histogram {
        let key = u32::from(ending.0) << RequestKind::BITS | kind.bits() as u32;
        let start = start(key);
        // Most requests of a thread are alike.
        match self.slots[start].key.load(Relaxed) == key + 1 {
            true => &self.slots[start].histogram,
            false => self.search(key, access),
        }
    }

    #[cold]
    fn search(&self, key: u32, access: Access) -> &Histogram {
        let start = start(key);
        for step in 0..SLOTS {
            let slot = &self.slots[(start + step) % SLOTS];
            match slot.key.load(Relaxed) {
                found if found == key + 1 => return &slot.histogram,
                0 if !self.has_room(key) => break,
                0 if slot.claim(key, access) => {
                    self.used.fetch_add(1, Relaxed);
                    return &slot.histogram;
                }
                _ => {}
            }
        }
        let other = u32::from(OTHER_STATUS) << RequestKind::BITS;
        let other = other | (key % KINDS as u32);
        // There is a slot for each kind, so that this ends.
        if other == key { &self.slots[start].histogram } else { self.search(other, access) }
    }

    /// Whether there is a slot for `key`: those with a status leave some to the others.
    fn has_room(&self, key: u32) -> bool {
        let is_other = key >> RequestKind::BITS == u32::from(OTHER_STATUS);
        is_other || (self.used.load(Relaxed) as usize) < SLOTS_WITH_STATUS
    }
}

impl Slot {
    /// Takes the free slot. Whether it is of `key` now.
    fn claim(&self, key: u32, access: Access) -> bool {
        match access {
            Access::Exclusive => {
                self.key.store(key + 1, Relaxed);
                true
            }
            Access::Shared => {
                let claimed = self.key.compare_exchange(0, key + 1, Relaxed, Relaxed);
                claimed.is_ok() || claimed == Err(key + 1)
            }
        }
    }
}

#[inline]
fn start(key: u32) -> usize {
    // Fibonacci hashing (Knuth, volume 3, section 6.4).
    (key.wrapping_mul(0x9e37_79b9) >> 26) as usize % SLOTS
}

//! Where a session goes when its backend is gone: the same backend on every gateway.

use std::sync::Arc;

use super::chance::mix;
use crate::backend::BackendState;

/// The position of the backend that ranks first for `key` by weighted rendezvous hashing (Thaler and
/// Ravishankar 1998; weights after Schindelhauer and Schomaker 2005): the highest
/// `weight / -log2(u)`, where `u` is a hash of key and backend in (0, 1).
///
/// In integers throughout, so that every platform agrees. `None` when there is no candidate.
pub(crate) fn rendezvous(key: u64, candidates: &[Arc<BackendState>]) -> Option<usize> {
    let key = mix(key);
    let mut best: Option<(usize, Score)> = None;
    for (position, state) in candidates.iter().enumerate() {
        let score = Score { cost: neg_log2(mix(key ^ state.tag)), weight: state.weight().max(1) };
        if best.is_none_or(|(_, highest)| score.beats(highest)) {
            best = Some((position, score));
        }
    }
    best.map(|(position, _)| position)
}

#[derive(Clone, Copy)]
struct Score {
    cost: u64,
    weight: u32,
}

impl Score {
    /// `weight / cost`, compared by multiplying out.
    fn beats(self, other: Self) -> bool {
        let ours = u128::from(self.weight) * u128::from(other.cost);
        let theirs = u128::from(other.weight) * u128::from(self.cost);
        ours > theirs
    }
}

const FRACTION_BITS: u32 = 32;

/// `-log2((h + 1) / 2^64)` with 32 fractional bits, at least 1: by table and linear interpolation,
/// exact to about 2^-22, and the same everywhere.
fn neg_log2(h: u64) -> u64 {
    let h = h.saturating_add(1);
    let zeros = h.leading_zeros();
    // The bits below the leading one: the table's index, then the place between two entries.
    let mantissa = if zeros == 63 { 0 } else { h << (zeros + 1) };
    let index = (mantissa >> (64 - TABLE_BITS)) as usize;
    let between = (mantissa << TABLE_BITS) >> 32;
    let (low, high) = (LOG2[index], LOG2[index + 1]);
    let fraction = low + (((high - low) * between) >> 32);
    let log2 = (u64::from(63 - zeros) << FRACTION_BITS) + fraction;
    ((64 << FRACTION_BITS) - log2).max(1)
}

const TABLE_BITS: u32 = 10;
const TABLE_LEN: usize = (1 << TABLE_BITS) + 1;

/// `log2(1 + i / 1024)` with 32 fractional bits, computed when the crate is compiled.
static LOG2: [u64; TABLE_LEN] = {
    let mut table = [0; TABLE_LEN];
    let mut i = 0;
    while i < TABLE_LEN {
        table[i] = log2_fixed((1 << 62) + ((i as u64) << (62 - TABLE_BITS)));
        i += 1;
    }
    table
};

/// `log2(x / 2^62)` of a number in [1, 2], with 32 fractional bits, by squaring: each square that
/// reaches 2 is one bit of the result.
const fn log2_fixed(x: u64) -> u64 {
    if x == 1 << 63 {
        return 1 << FRACTION_BITS;
    }
    let mut x = x as u128;
    let mut result = 0;
    let mut bit = 0;
    while bit < FRACTION_BITS {
        x = (x * x) >> 62;
        result <<= 1;
        if x >= 1 << 63 {
            x >>= 1;
            result |= 1;
        }
        bit += 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::states;

    #[test]
    fn the_logarithm_is_right() {
        for h in [0, 1, 2, 3, 1 << 20, 12_345_678_901, 1 << 63, u64::MAX - 1, u64::MAX] {
            let expected = 64.0 - ((h as f64) + 1.0).log2();
            let got = neg_log2(h) as f64 / (1u64 << FRACTION_BITS) as f64;
            assert!((got - expected).abs() < 1e-6, "-log2 of {h}: {got}, expected {expected}");
        }
    }

    fn places(states: &[Arc<BackendState>], keys: u64) -> Vec<usize> {
        (0..keys).map(|key| rendezvous(key, states).unwrap()).collect()
    }

    #[test]
    fn weights_order_and_departures() {
        let states = states(&[1, 1, 2]);
        let before = places(&states, 40_000);
        for (backend, expected) in [(0, 10_000), (1, 10_000), (2, 20_000)] {
            let got = before.iter().filter(|&&place| place == backend).count();
            assert!(got.abs_diff(expected) < 400, "{got} is not about {expected}");
        }
        let reversed: Vec<_> = states.iter().rev().cloned().collect();
        for (key, &place) in before.iter().enumerate() {
            assert_eq!(2 - rendezvous(key as u64, &reversed).unwrap(), place, "any order");
            let without = rendezvous(key as u64, &states[..2]).unwrap();
            assert!(place == 2 || without == place, "only the sessions of the departed move");
        }
    }

    #[test]
    fn the_ranking_never_changes() {
        let states = states(&[1, 2, 3, 1, 1]);
        // The same as `weight / -log2(u)` in floating point gives, in another implementation (Python).
        let golden = [4, 0, 1, 1, 2, 2, 1, 2, 2, 2, 1, 1, 0, 2, 3, 1];
        assert_eq!(places(&states, 16), golden);
    }
}

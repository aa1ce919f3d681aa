//! A logarithm in integers. Floating point differs between platforms, but gateways must agree.

/// The number of fractional bits of a result.
pub(super) const FRACTION_BITS: u32 = 32;

/// `-log2((h + 1) / 2^64)` with 32 fractional bits, at least 1: by table and linear interpolation,
/// exact to about 2^-22, and the same everywhere. It never grows with `h`.
pub(super) fn neg_log2(h: u64) -> u64 {
    let h = h.saturating_add(1);
    let zeros = h.leading_zeros();
    // The bits below the leading one: the table's index, then the position between two entries.
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
    use crate::hash::mixing::testing::Numbers;

    #[test]
    fn the_logarithm_is_accurate() {
        for h in [0, 1, 2, 3, 1 << 20, 12_345_678_901, 1 << 63, u64::MAX - 1, u64::MAX] {
            let expected = 64.0 - ((h as f64) + 1.0).log2();
            let got = neg_log2(h) as f64 / (1u64 << FRACTION_BITS) as f64;
            assert!((got - expected).abs() < 1e-6, "-log2 of {h}: {got}, expected {expected}");
        }
    }

    #[test]
    fn it_never_grows_with_its_argument() {
        let mut numbers = Numbers(1);
        for _ in 0..200_000 {
            let h = numbers.next() >> numbers.below(64);
            let higher = h.saturating_add(numbers.next() >> numbers.below(64));
            assert!(neg_log2(higher) <= neg_log2(h), "{h} and {higher}");
        }
        for shift in 0..64 {
            let h = 1u64 << shift;
            assert!(neg_log2(h) <= neg_log2(h - 1), "at the power of two {h}");
        }
    }
}

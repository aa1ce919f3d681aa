//! Mixing of 64-bit numbers.

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on
/// every bit of `x`, and no two numbers have the same result.
#[inline]
pub(crate) const fn mix(x: u64) -> u64 {
    finish(fold(x))
}

/// The first step of [`mix`]. A value that is hashed with many keys can be folded once, because
/// `fold(a ^ b)` is `fold(a) ^ fold(b)`.
#[inline]
pub(super) const fn fold(x: u64) -> u64 {
    x ^ (x >> 30)
}

/// The number whose [`fold`] is `x`.
pub(super) const fn unfold(x: u64) -> u64 {
    x ^ (x >> 30) ^ (x >> 60)
}

/// All steps of [`mix`] but the first.
#[inline]
pub(super) const fn finish(mut x: u64) -> u64 {
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::mix;

    /// Members named like the backends of a pool, `b0`, `b1` and so on, with the weights given.
    pub(crate) fn members(weights: impl IntoIterator<Item = u32>) -> Vec<(u64, u32)> {
        let tag = |i: usize| crate::id::BackendId::new(format!("b{i}")).unwrap().tag();
        weights.into_iter().enumerate().map(|(i, weight)| (tag(i), weight)).collect()
    }

    /// A seeded sequence of numbers.
    pub(crate) struct Numbers(pub(crate) u64);

    impl Numbers {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(self.0)
        }

        pub(crate) fn below(&mut self, bound: usize) -> usize {
            (self.next() % bound as u64) as usize
        }

        pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
            for i in (1..list.len()).rev() {
                list.swap(i, self.below(i + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_inputs_mix_to_the_same_number() {
        let mut numbers = testing::Numbers(5);
        for _ in 0..10_000 {
            let (a, b) = (numbers.next(), numbers.next() >> numbers.below(64));
            assert_eq!(finish(fold(a) ^ fold(b)), mix(a ^ b));
            assert_eq!(unfold(fold(b)), b);
        }
    }
}

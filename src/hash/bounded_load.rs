//! Consistent hashing with bounded loads.

/// Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): a key goes to
/// the first member of its rank that holds less than `c` times its share of the load.
///
/// Each gateway knows only its own load, so two gateways may choose different members for a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BoundedLoad {
    percent: u32,
}

impl BoundedLoad {
    /// With `c` in percent: 125 lets a member hold 25 % more than its share. Below 100 some
    /// keys would have no member, so it counts as 100. The closer to 100, the more keys go to another
    /// member than the first of their rank.
    pub(crate) fn new(percent: u32) -> Self {
        Self { percent: percent.max(100) }
    }

    /// The bound for one more unit of load among members that hold `load` and weigh `weight`
    /// together: those that the key can go to, and no others.
    ///
    /// When loads change while they are read, it may admit no member. Use the first of the rank then.
    pub(crate) fn bound(self, load: u64, weight: u64) -> Bound {
        let total = u128::from(load) + 1;
        Bound { percented: total * u128::from(self.percent), divisor: u128::from(weight) * 100 }
    }
}

/// The bound of each member for the current load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    /// All load, the new one included, times `c` in percent.
    percented: u128,
    /// All weight, times 100.
    divisor: u128,
}

impl Bound {
    /// The most that a member of `weight` may hold: `c` times its share, rounded up.
    pub(crate) fn most(&self, weight: u32) -> u64 {
        let most = self.percented.saturating_mul(u128::from(weight)).div_ceil(self.divisor.max(1));
        most.try_into().unwrap_or(u64::MAX)
    }

    /// Whether a member of `weight` that holds `load` may take one more.
    pub(crate) fn admits(&self, load: u64, weight: u32) -> bool {
        load < self.most(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{
        Ranking,
        mixing::testing::{Numbers, members},
    };

    /// Assigns `keys` one after the other. Returns the loads, and how many keys did not go to the first of
    /// their rank.
    fn assign(weights: &[u32], percent: u32, keys: impl Iterator<Item = u64>) -> (Vec<u64>, usize) {
        let ranking = Ranking::new(members(weights.iter().copied()));
        let total = weights.iter().map(|&weight| u64::from(weight)).sum();
        let (mut loads, mut displaced) = (vec![0; weights.len()], 0);
        for (placed, key) in (0..).zip(keys) {
            let bound = BoundedLoad::new(percent).bound(placed, total);
            let member = ranking.first_where(key, |at| bound.admits(loads[at], weights[at]));
            let member = member.expect("c of at least 1 leaves room for every key");
            displaced += usize::from(ranking.first(key) != Some(member));
            loads[member] += 1;
        }
        (loads, displaced)
    }

    #[test]
    fn no_member_is_above_its_bound() {
        for percent in [100, 105, 125, 200] {
            for keys in [1, 7, 100, 5000] {
                let weights = [1; 16];
                let mut numbers = Numbers(u64::from(percent));
                let (loads, _) = assign(&weights, percent, (0..keys).map(|_| numbers.next()));
                let most = (u64::from(percent) * keys).div_ceil(100 * 16);
                assert!(loads.iter().all(|&load| load <= most), "{loads:?}, at most {most}");
                assert_eq!(loads.iter().sum::<u64>(), keys);
            }
        }
    }

    #[test]
    fn a_single_key_is_spread_over_members() {
        let weights = [1, 2, 4, 8];
        let (loads, _) = assign(&weights, 125, std::iter::repeat_n(7, 1200));
        for (&load, &weight) in loads.iter().zip(&weights) {
            let most = (1200 * 125 * u64::from(weight)).div_ceil(100 * 15);
            assert!(load <= most, "{loads:?}: weight {weight} may hold {most}");
        }
    }

    #[test]
    fn few_keys_are_displaced() {
        let mut numbers = Numbers(3);
        let (_, displaced) = assign(&[1; 16], 125, (0..20_000).map(|_| numbers.next()));
        assert!(displaced < 200, "{displaced} of 20,000 keys are not on the first of their rank");
    }

    #[test]
    fn extreme_values_do_not_overflow() {
        let bound = BoundedLoad::new(0).bound(u64::MAX, u64::MAX);
        assert!(bound.most(u32::MAX) > 0);
        assert_eq!(BoundedLoad::new(u32::MAX).bound(u64::MAX, 1).most(u32::MAX), u64::MAX);
        assert_eq!(BoundedLoad::new(125).bound(0, 0).most(0), 0, "weight 0 takes nothing");
        assert_eq!(BoundedLoad::new(125).bound(7, 4).most(1), 3, "1.25 · 8 / 4 is 2.5");
    }
}

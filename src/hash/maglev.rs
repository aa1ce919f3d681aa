//! Maglev hashing: a lookup table, for pools with thousands of backends.

use std::{cmp::Reverse, collections::BinaryHeap, fmt, sync::Arc};

use super::{Ranking, mixing::mix};

/// How many slots a table has: a prime, at least a hundred times as many as there are members for
/// shares that are exact to 1 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Slots {
    /// 65,537 slots, 256 KiB: for up to about 600 members.
    #[default]
    Small,
    /// 655,373 slots, 2.5 MiB: for up to about 6,000 members.
    Large,
}

impl Slots {
    fn count(self) -> u32 {
        match self {
            Self::Small => 65_537,
            Self::Large => 655_373,
        }
    }
}

/// A Maglev table (Eisenbud et al. 2016, section 3.4): each member has a permutation of all slots,
/// and the members alternate in claiming the next free slot of their permutation. So shares are as even
/// as possible, and a lookup takes the same time for any number of members.
///
/// A member claims slots at a rate in proportion to its weight; each gets at least one slot while there
/// are any.
///
/// When a member joins or leaves, a few keys move between the other members, unlike with
/// [`Ranking`]. When members fail, the table does not change and their keys try other slots. So no other
/// key moves, and all keys return when the members do.
#[derive(Clone)]
pub(crate) struct Maglev {
    ranking: Arc<Ranking>,
    /// The position of each slot's member.
    slots: Box<[u32]>,
}

/// How many slots a key tries before it follows the rank.
const TRIES: u64 = 8;

impl Maglev {
    /// Builds the table of the members of `ranking`, in an order on which all gateways agree. This takes
    /// milliseconds: do it once per change of the members.
    pub(crate) fn new(ranking: Arc<Ranking>, slots: Slots) -> Self {
        Self { slots: fill(&ranking, slots.count()), ranking }
    }

    /// The ranking of its members.
    pub(crate) fn ranking(&self) -> &Ranking {
        &self.ranking
    }

    /// The position of the member that `key` belongs to; `None` when there is none.
    #[inline]
    pub(crate) fn slot(&self, key: u64) -> Option<usize> {
        // Multiplication spreads keys over the slots as a remainder would, and takes less time.
        let slot = (u128::from(mix(key)) * self.slots.len() as u128) >> 64;
        self.slots.get(slot as usize).map(|&position| position as usize)
    }

    /// The position of the first member that `admits` among those that `key` tries: its own slot,
    /// some slots of keys derived from it, and at last the rank.
    ///
    /// `admits` must give the same answer for the same position while the call lasts.
    #[inline]
    pub(crate) fn first_where(
        &self,
        key: u64,
        mut admits: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let own = self.slot(key)?;
        if admits(own) { Some(own) } else { self.next_where(key, admits) }
    }

    /// The position of each slot's member.
    #[cfg(test)]
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().map(|&position| position as usize)
    }

    #[cold]
    fn next_where(&self, key: u64, mut admits: impl FnMut(usize) -> bool) -> Option<usize> {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        (1..TRIES)
            .filter_map(|i| self.slot(mix(key ^ GAMMA.wrapping_mul(i))))
            .find(|&position| admits(position))
            .or_else(|| self.ranking.first_where(key, admits))
    }
}

impl fmt::Debug for Maglev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maglev")
            .field("members", &self.ranking.len())
            .field("slots", &self.slots.len())
            .finish()
    }
}

/// The slots, claimed by the members of `ranking`.
fn fill(ranking: &Ranking, count: u32) -> Box<[u32]> {
    let mut groups: Vec<Group> = ranking.by_weight().map(Group::of(count)).collect();
    let Some(heaviest) = groups.first().map(|group| group.weight) else {
        return Box::default();
    };
    // The round of each group's next claim. The heaviest members claim in every round. Claim `k` of
    // the others is in round `k · heaviest / weight`, so all claim in the first round.
    let mut claims: BinaryHeap<_> = (0..groups.len()).map(|group| Reverse((0, group))).collect();
    let mut slots = Claims::new(count);
    while let Some(mut next) = claims.peek_mut() {
        let Reverse((_, index)) = *next;
        let Some(group) = groups.get_mut(index) else {
            break;
        };
        for walk in &mut group.walks {
            if slots.free == 0 {
                return slots.positions;
            }
            slots.claim(walk);
        }
        group.claimed += 1;
        *next = Reverse((group.claimed * heaviest / group.weight, index));
    }
    slots.positions
}

/// The members of one weight.
struct Group {
    weight: u64,
    walks: Vec<Walk>,
    /// How many slots each has claimed.
    claimed: u64,
}

impl Group {
    fn of<M: Iterator<Item = (usize, u64)>>(count: u32) -> impl Fn((u32, M)) -> Self {
        move |(weight, members)| Self {
            weight: u64::from(weight),
            walks: members.map(|(position, tag)| Walk::new(position, tag, count)).collect(),
            claimed: 0,
        }
    }
}

/// A member's permutation of the slots: from an offset in steps of a skip, both from its tag.
struct Walk {
    position: u32,
    at: u32,
    skip: u32,
}

impl Walk {
    fn new(position: usize, tag: u64, count: u32) -> Self {
        // Two functions of the tag, which is a hash itself: any two constants do.
        const OFFSET: u64 = u64::from_le_bytes(*b"maglev/o");
        const SKIP: u64 = u64::from_le_bytes(*b"maglev/s");
        let modulus = u64::from(count);
        Self {
            position: position as u32,
            at: (mix(tag ^ OFFSET) % modulus) as u32,
            skip: (mix(tag ^ SKIP) % (modulus - 1) + 1) as u32,
        }
    }
}

/// The slots while they are being claimed.
struct Claims {
    positions: Box<[u32]>,
    /// A bit for each claimed slot. Most checks are of claimed slots, and the bits fit in the L1 cache.
    taken: Box<[u64]>,
    free: u32,
}

impl Claims {
    fn new(count: u32) -> Self {
        Self {
            positions: vec![0; count as usize].into(),
            taken: vec![0; count.div_ceil(64) as usize].into(),
            free: count,
        }
    }

    /// Claims the next free slot of the walk, which visits every slot because `count` is a prime.
    fn claim(&mut self, walk: &mut Walk) {
        let count = self.positions.len() as u32;
        for _ in 0..count {
            let slot = walk.at;
            walk.at += walk.skip;
            if walk.at >= count {
                walk.at -= count;
            }
            let (word, bit) = ((slot / 64) as usize, 1 << (slot % 64));
            if self.taken[word] & bit == 0 {
                self.taken[word] |= bit;
                self.positions[slot as usize] = walk.position;
                self.free -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mixing::testing::{Numbers, members};

    fn ranking(weights: impl IntoIterator<Item = u32>) -> Arc<Ranking> {
        Arc::new(Ranking::new(members(weights)))
    }

    fn shares(slots: &[u32], members: usize) -> Vec<u32> {
        let mut shares = vec![0; members];
        slots.iter().for_each(|&position| shares[position as usize] += 1);
        shares
    }

    #[test]
    fn the_table_is_stable() {
        // By another implementation (Python).
        let weighted = ranking([1, 2, 3, 1, 1]);
        assert_eq!(*fill(&weighted, 13), [0, 2, 0, 2, 3, 2, 4, 1, 1, 1, 3, 4, 2]);
        let equal = [
            2, 4, 1, 4, 1, 3, 1, 2, 0, 0, 4, 3, 2, 2, 0, 3, 1, 4, 2, 0, 0, 3, 4, 3, 0, 1, 3, 1, 0,
            0, 2, 3, 3, 4, 1, 2, 1, 1, 4, 4, 4, 2, 3, 2, 2, 0, 0, 3, 1, 3, 4, 0, 4,
        ];
        assert_eq!(*fill(&ranking([1; 5]), 53), equal);
        let maglev = Maglev::new(weighted, Slots::Small);
        assert_eq!(shares(&maglev.slots, 5), [8192, 16384, 24577, 8192, 8192]);
        let all = maglev.slots.iter().fold(0, |hash, &slot| mix(hash ^ u64::from(slot)));
        assert_eq!(all, 0x45d3_8390_799b_7b1f, "all slots");
        let members = |alive: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..16).map(|key| maglev.first_where(key, alive).unwrap()).collect()
        };
        let own = [1, 2, 1, 4, 0, 2, 1, 4, 4, 2, 3, 0, 0, 1, 1, 1];
        assert_eq!(members(&|_| true), own);
        let without = [1, 0, 1, 4, 0, 0, 1, 4, 4, 0, 3, 0, 0, 1, 1, 1];
        assert_eq!(members(&|at| at != 2), without);
        assert_eq!(members(&|at| at == 3), [3; 16]);
    }

    #[test]
    fn shares_follow_the_weights() {
        let mut numbers = Numbers(1);
        for _ in 0..10 {
            let weights: Vec<_> =
                (0..numbers.below(60) + 1).map(|_| numbers.below(9) as u32 + 1).collect();
            let total: u32 = weights.iter().sum();
            let shares = shares(&fill(&ranking(weights.iter().copied()), 65_537), weights.len());
            for (share, weight) in shares.iter().zip(&weights) {
                let exact = 65_537.0 * f64::from(*weight) / f64::from(total);
                let off = (f64::from(*share) - exact).abs();
                assert!(off < 10.0, "{share} slots for {weight} of {total}");
            }
        }
    }

    #[test]
    fn extreme_weights_and_sizes() {
        assert_eq!(Maglev::new(ranking([]), Slots::Small).first_where(1, |_| true), None);
        assert_eq!(Maglev::new(ranking([0, 1]), Slots::Small).slot(1), Some(1));
        assert_eq!(Maglev::new(ranking([1, 1]), Slots::Small).first_where(1, |_| false), None);
        let shares = shares(&fill(&ranking([u32::MAX, 1, 1]), 65_537), 3);
        assert_eq!(shares, [65_535, 1, 1], "the lightest members have a slot");
        let many = Maglev::new(ranking((0..20).map(|_| 1)), Slots::Small);
        assert_eq!(fill(many.ranking(), 13).len(), 13, "more members than slots");
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let mut numbers = Numbers(2);
        let members = members((0..50).map(|i| i % 4));
        let one = fill(&Ranking::new(members.iter().copied()), 65_537);
        let mut shuffled: Vec<_> = members.iter().copied().enumerate().collect();
        numbers.shuffle(&mut shuffled);
        let other = fill(&Ranking::new(shuffled.iter().map(|&(_, member)| member)), 65_537);
        let other = other.iter().map(|&at| shuffled[at as usize].0 as u32);
        assert!(one.iter().copied().eq(other), "the same tables");
    }

    #[test]
    fn failures_move_no_other_keys_and_shares_stay_even() {
        let maglev = Maglev::new(ranking([1; 20]), Slots::Small);
        let mut got = [0; 20];
        for key in 0..50_000 {
            let own = maglev.slot(key);
            let one_down = maglev.first_where(key, |at| at != 3).unwrap();
            let two_down = maglev.first_where(key, |at| at != 3 && at != 7).unwrap();
            assert!(own == Some(3) || own == Some(one_down));
            assert!(one_down == 7 || one_down == two_down);
            got[two_down] += 1;
        }
        let average = 50_000 / 18;
        let even = |&got: &i32| (got - average).abs() < average / 10;
        assert_eq!((got[3], got[7]), (0, 0));
        assert_eq!(got.iter().filter(|got| even(got)).count(), 18, "{got:?}");
    }
}

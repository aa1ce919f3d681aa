//! Weighted rendezvous hashing over a table of members.

use std::fmt;

use super::{
    log2::neg_log2,
    mixing::{finish, fold, mix, unfold},
};

/// The members of a pool, ready to be ranked for any key by weighted rendezvous hashing (Thaler and
/// Ravishankar 1998; weights after Schindelhauer and Schomaker 2005): the highest
/// `weight / -log2(u)` is first, where `u` is a hash of key and member in (0, 1). So each member
/// gets keys in proportion to its weight, and when one joins or leaves, or changes its weight, no
/// key moves between the others.
///
/// Built once per change of the members and shared. Members of one weight are ranked by `u`
/// alone, so only the best of each distinct weight needs a logarithm.
///
/// Equal scores are ordered by `u`, and members of equal tags by position. So the order in which members
/// joined does not matter while their tags differ.
#[derive(Clone, Default)]
pub(crate) struct Ranking {
    /// Members of one weight each, the heaviest first: it is the most likely to have the first in rank.
    classes: Box<[Class]>,
    len: usize,
    signature: u64,
}

/// The members of one weight, in the order of their tags.
#[derive(Clone)]
struct Class {
    weight: u32,
    /// The tags, [folded](fold).
    tags: Box<[u64]>,
    /// The position of each in the list from which the ranking was built.
    positions: Box<[u32]>,
}

impl Ranking {
    /// Builds the ranking of the tags and weights of all members. Those of weight 0 are not ranked, but count in the
    /// positions. At most 2^32 members.
    pub(crate) fn new(members: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let members: Vec<_> = members.into_iter().collect();
        let signature = signature(members.iter().copied());
        let mut sorted: Vec<(u32, u64, u32)> = (0u32..)
            .zip(&members)
            .filter(|&(_, &(_, weight))| weight > 0)
            .map(|(position, &(tag, weight))| (weight, tag, position))
            .collect();
        sorted.sort_unstable_by_key(|&(weight, tag, position)| {
            (std::cmp::Reverse(weight), tag, position)
        });
        let classes = sorted
            .chunk_by(|one, other| one.0 == other.0)
            .filter_map(|class| {
                Some(Class {
                    weight: class.first()?.0,
                    tags: class.iter().map(|&(_, tag, _)| fold(tag)).collect(),
                    positions: class.iter().map(|&(_, _, position)| position).collect(),
                })
            })
            .collect();
        Self { classes, len: sorted.len(), signature }
    }

    /// How many members are ranked.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A hash of the members, their weights and their order. What was built for one list is valid for
    /// another one with the same signature.
    pub(crate) fn signature(&self) -> u64 {
        self.signature
    }

    /// The members, by weight, the heaviest first, and then in the order of their tags: each weight
    /// with the positions and tags of its members.
    pub(super) fn by_weight(
        &self,
    ) -> impl Iterator<Item = (u32, impl Iterator<Item = (usize, u64)>)> {
        self.classes.iter().map(|class| {
            let members = class.positions.iter().zip(&class.tags);
            let members = members.map(|(&position, &tag)| (position as usize, unfold(tag)));
            (class.weight, members)
        })
    }

    /// The position and the weight of every member that can be first.
    pub(crate) fn members(&self) -> impl Iterator<Item = (usize, u32)> {
        self.classes.iter().flat_map(|class| {
            class.positions.iter().map(|&position| (position as usize, class.weight))
        })
    }

    /// The position of the member that ranks first for `key`; `None` when there is none.
    #[inline]
    pub(crate) fn first(&self, key: u64) -> Option<usize> {
        let key = fold(mix(key));
        let (mut winner, others) = self.classes.split_first()?;
        let (mut at, hash) = highest(key, &winner.tags);
        if !others.is_empty() {
            let mut best = Contender::new(hash, winner.weight);
            for class in others {
                let (index, hash) = highest(key, &class.tags);
                let contender = Contender::new(hash, class.weight);
                if contender.beats(best) {
                    (best, at, winner) = (contender, index, class);
                }
            }
        }
        winner.positions.get(at).map(|&position| position as usize)
    }

    /// The position of the member that ranks first for `key` among those that `admits`.
    ///
    /// `admits` is called only for members that rank before all admitted ones so far: once when the first
    /// is admitted, and a few times when most are. It must return the same value for the same position
    /// during the call.
    #[inline]
    pub(crate) fn first_where(
        &self,
        key: u64,
        mut admits: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let first = self.first(key)?;
        if admits(first) { Some(first) } else { self.next_where(key, first, admits) }
    }

    #[cold]
    fn next_where(
        &self,
        key: u64,
        refused: usize,
        mut admits: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let key = fold(mix(key));
        let mut best: Option<(usize, Contender)> = None;
        for class in &self.classes {
            // A member with a lower hash than this cannot be first.
            let mut floor = 0;
            for (&tag, &position) in class.tags.iter().zip(&class.positions) {
                let (hash, position) = (finish(key ^ tag), position as usize);
                if hash < floor || position == refused {
                    continue;
                }
                let contender = Contender::new(hash, class.weight);
                if best.is_some_and(|(_, best)| !contender.beats(best)) {
                    floor = hash;
                } else if admits(position) {
                    floor = hash;
                    best = Some((position, contender));
                }
            }
        }
        best.map(|(position, _)| position)
    }
}

impl fmt::Debug for Ranking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranking").field("members", &self.len).finish_non_exhaustive()
    }
}

/// The position of the member that ranks first for `key`, without a table: for a list of tags and
/// weights that is used once. The same as [`Ranking::first`].
pub(crate) fn first_of(key: u64, members: impl IntoIterator<Item = (u64, u32)>) -> Option<usize> {
    let key = mix(key);
    let mut best: Option<(usize, Contender)> = None;
    for (position, (tag, weight)) in members.into_iter().enumerate() {
        let hash = mix(key ^ tag);
        // Members of one weight need no logarithm.
        let loses = |(_, best): (usize, Contender)| best.weight == weight && hash <= best.hash;
        if weight == 0 || best.is_some_and(loses) {
            continue;
        }
        let contender = Contender::new(hash, weight);
        if best.is_none_or(|(_, best)| contender.beats(best)) {
            best = Some((position, contender));
        }
    }
    best.map(|(position, _)| position)
}

/// See [`Ranking::signature`]; for a list whose ranking is not made yet.
pub(crate) fn signature(members: impl IntoIterator<Item = (u64, u32)>) -> u64 {
    members
        .into_iter()
        .fold(0, |state, (tag, weight)| mix(mix(state ^ tag).wrapping_add(u64::from(weight) + 1)))
}

/// Index and hash of the member with the highest hash; key and tags are folded.
#[inline]
fn highest(key: u64, tags: &[u64]) -> (usize, u64) {
    let mut best = (0, 0);
    let mut offer = |index, tag| {
        let hash = finish(key ^ tag);
        if hash > best.1 {
            best = (index, hash);
        }
    };
    // Four at a time, so that the processor computes several hashes in parallel.
    let (fours, rest) = tags.as_chunks::<4>();
    let mut index = 0;
    for &[a, b, c, d] in fours {
        offer(index, a);
        offer(index + 1, b);
        offer(index + 2, c);
        offer(index + 3, d);
        index += 4;
    }
    for &tag in rest {
        offer(index, tag);
        index += 1;
    }
    best
}

#[derive(Debug, Clone, Copy)]
struct Contender {
    hash: u64,
    cost: u64,
    weight: u32,
}

impl Contender {
    fn new(hash: u64, weight: u32) -> Self {
        Self { hash, cost: neg_log2(hash), weight }
    }

    /// By `weight / cost`, compared by multiplying out, then by the hash itself, which no two tags
    /// share under one key. Among members of one weight the hash alone says the same, because the
    /// cost never grows with it.
    fn beats(self, other: Self) -> bool {
        let ours = u128::from(self.weight) * u128::from(other.cost);
        let theirs = u128::from(other.weight) * u128::from(self.cost);
        ours > theirs || (ours == theirs && self.hash > other.hash)
    }
}

#[cfg(test)]
mod tests;

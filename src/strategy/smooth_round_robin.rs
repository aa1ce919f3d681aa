//! Smooth weighted round robin, for strategies.

use std::{collections::HashMap, hash::BuildHasherDefault, sync::Mutex};

use super::traits::{Candidate, Candidates};
use crate::{pool::TagHasher, util::lock};

/// The sum of the credits that the candidates gain with each choice, and that the chosen one pays. It is
/// constant, so that choices among different sets of candidates have the same total.
const CHOICE_COST: u64 = 1 << 52;

/// How many credits of absent backends are kept, in addition to as many as there are candidates.
const SPARE_CREDITS: usize = 64;

/// nginx's smooth weighted round robin, by backend instead of position: each eligible candidate gains
/// credits by its share, and the one with the most credits is chosen and pays for the turn.
///
/// The candidates may differ between choices. An absent backend gains no credits, and the others get its
/// turns by share.
#[derive(Debug, Default)]
pub(super) struct SmoothRoundRobin {
    /// The credits by tag. An entry is allocated when a backend is seen for the first time.
    credits: Mutex<HashMap<u64, i64, BuildHasherDefault<TagHasher>>>,
}

impl SmoothRoundRobin {
    /// The position of the next candidate among the eligible ones; `None` if there is none.
    pub(super) fn next(
        &self,
        candidates: &Candidates<'_>,
        is_eligible: impl Fn(Candidate<'_>) -> bool,
    ) -> Option<usize> {
        let eligible = || candidates.iter().enumerate().filter(|(_, one)| is_eligible(*one));
        let total: u64 = eligible().map(|(_, one)| one.share()).sum();
        let rate = (CHOICE_COST / total.max(1)).max(1);
        let mut credits = lock(&self.credits);
        if credits.len() > candidates.len() * 2 + SPARE_CREDITS {
            credits.retain(|&tag, _| candidates.iter().any(|one| one.tag() == tag));
        }
        let (mut best, mut total_gain) = (None, 0);
        for (position, one) in eligible() {
            let gain = one.share().saturating_mul(rate) as i64;
            let credit = credits.entry(one.tag()).or_insert(0);
            *credit = credit.saturating_add(gain);
            total_gain += gain;
            if best.is_none_or(|(_, _, most)| *credit > most) {
                best = Some((position, one.tag(), *credit));
            }
        }
        let (position, tag, credit) = best?;
        credits.insert(tag, credit.saturating_sub(total_gain));
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::traits::testing::states;

    #[test]
    fn turns_of_an_absent_backend_go_to_all_others() {
        let states = states(&[1, 1, 1, 1]);
        let (round_robin, all) = (SmoothRoundRobin::default(), Candidates::new(&states));
        let mut got = [0; 4];
        for _ in 0..1200 {
            // The third one is chosen and refuses, so another one is chosen.
            let mut chosen = round_robin.next(&all, |_| true).unwrap();
            if chosen == 2 {
                chosen = round_robin.next(&all, |one| one.id().as_str() != "b2").unwrap();
            }
            got[chosen] += 1;
        }
        assert_eq!(got, [400, 400, 0, 400]);
        let back: Vec<_> = (0..4).filter_map(|_| round_robin.next(&all, |_| true)).collect();
        assert_eq!(
            back.iter().filter(|&&one| one == 2).count(),
            1,
            "it does not get its missed turns back"
        );
    }

    #[test]
    fn credits_of_removed_backends_are_dropped() {
        let round_robin = SmoothRoundRobin::default();
        let many = states(&[1; 200]);
        round_robin.next(&Candidates::new(&many), |_| true);
        let few = many.len() - SPARE_CREDITS;
        round_robin.next(&Candidates::new(&many[..few / 2]), |_| true);
        assert_eq!(lock(&round_robin.credits).len(), 200, "as many are kept, and some to spare");
        round_robin.next(&Candidates::new(&many[..2]), |_| true);
        assert_eq!(lock(&round_robin.credits).len(), 2);
        assert_eq!(
            round_robin.next(&Candidates::new(&many), |_| false),
            None,
            "no candidate is eligible"
        );
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let states = states(&[u32::MAX; 8]);
        let round_robin = SmoothRoundRobin::default();
        let all = Candidates::new(&states);
        let got: Vec<_> = (0..8).filter_map(|_| round_robin.next(&all, |_| true)).collect();
        assert_eq!(got, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}

//! Random choice of candidates, weighted by share.

use super::traits::Candidates;
use crate::util::Rng;

/// The position of a random candidate, weighted by share; 0 when there is none.
pub(super) fn choose_weighted(rng: &Rng, candidates: &Candidates<'_>) -> usize {
    draw(rng, candidates, |_| true).unwrap_or(0)
}

/// The positions of two different random candidates, each weighted by share; `None` when there is only
/// one.
pub(super) fn choose_two_weighted(
    rng: &Rng,
    candidates: &Candidates<'_>,
) -> Option<(usize, usize)> {
    let first = draw(rng, candidates, |_| true)?;
    let second = draw(rng, candidates, |position| position != first)?;
    Some((first, second))
}

/// The position of a random candidate, weighted by share, among the positions that `is_eligible` accepts.
fn draw(
    rng: &Rng,
    candidates: &Candidates<'_>,
    is_eligible: impl Fn(usize) -> bool,
) -> Option<usize> {
    let eligible = || candidates.iter().enumerate().filter(|(position, _)| is_eligible(*position));
    let total: u64 = eligible().map(|(_, candidate)| candidate.share()).sum();
    let mut remaining = rng.below(total.max(1) as usize) as u64;
    let mut last = None;
    for (position, candidate) in eligible() {
        match remaining.checked_sub(candidate.share()) {
            Some(rest) => remaining = rest,
            None => return Some(position),
        }
        // Other threads may have reduced shares since the sum, so the loop may end without a choice.
        last = Some(position);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::traits::testing::states;

    #[test]
    fn two_choices_are_different_and_follow_the_shares() {
        let states = states(&[2, 1, 1]);
        let (rng, all) = (Rng::seeded(7), Candidates::new(&states));
        let mut first = [0_usize; 3];
        for _ in 0..40_000 {
            let (a, b) = choose_two_weighted(&rng, &all).unwrap();
            assert_ne!(a, b);
            first[a] += 1;
        }
        for (got, expected) in first.into_iter().zip([20_000, 10_000, 10_000]) {
            assert!(got.abs_diff(expected) < 400, "{got} is not about {expected}");
        }
        assert_eq!(choose_two_weighted(&rng, &Candidates::new(&states[..1])), None);
    }
}

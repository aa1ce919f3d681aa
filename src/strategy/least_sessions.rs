//! `LeastSessions`: the backend with the fewest sessions.

use std::cmp::Ordering;

use super::{
    least_connections::LeastConnections,
    traits::{Candidate, Candidates, Strategy},
};
use crate::util::Rng;

/// With more candidates, the better of two random ones is chosen (Mitzenmacher 2001).
const ALL: usize = 200;

/// Fewest sessions: the backend with the fewest live sessions per weight. Of several the one with the fewest requests
/// in flight per weight, and of those a random one.
///
/// A session counts until it has been idle for the affinity's timeout. A session whose client has not sent its token
/// back counts for a minute. With more than 200 backends the better of two random ones is chosen.
///
/// It is better than [`LeastConnections`] when sessions are long and their requests short: sessions stay where they
/// are, so that the distribution of new sessions decides the load of hours, and a moment without requests says
/// nothing about it. It is for WebSockets that come and go, uploads in parts, shopping carts and games. It is not
/// better when most sessions consist of one request, or when a few sessions cause most of the load.
///
/// Each gateway counts the sessions that it has seen. When clients are distributed over the gateways, the whole is even,
/// too. With plain tokens, and with affinities that remember nothing, sessions cannot be told apart: then it is least
/// connections.
///
/// # Example
///
/// ```
/// use tower_sticky::{Backends, KeyRing, StickyLayer, affinity, strategy::LeastSessions};
/// # fn layer<S>(backends: Backends<S>) -> Result<StickyLayer<S>, tower_sticky::ConfigError> {
/// let keys = KeyRing::generate()?; // in production KeyRing::from_env("STICKY_KEY")
/// let sticky = StickyLayer::new(backends, affinity::Cookie::sealed("SERVER_ID", keys))
///     .strategy(LeastSessions::new());
/// # Ok(sticky)
/// # }
/// ```
#[derive(Debug)]
pub struct LeastSessions {
    rng: Rng,
    unknown: LeastConnections,
}

impl LeastSessions {
    /// Creates the strategy with a random seed.
    pub fn new() -> Self {
        Self { rng: Rng::new(), unknown: LeastConnections::new() }
    }

    /// Creates the strategy with a seed: the same seed makes the same choices.
    pub fn seeded(seed: u64) -> Self {
        Self { rng: Rng::seeded(seed), unknown: LeastConnections::new() }
    }

    /// The best of all candidates; `None` when the sessions of one cannot be told apart.
    fn best(&self, candidates: &Candidates<'_>) -> Option<usize> {
        let mut best: Option<(usize, Candidate<'_>, u64)> = None;
        let mut ties = 1;
        for (position, candidate) in candidates.iter().enumerate() {
            let sessions = candidate.sessions()?;
            let order = match &best {
                None => Ordering::Less,
                Some((_, least, of_least)) => compare((&candidate, sessions), (least, *of_least)),
            };
            // Each of the equal ones is chosen with the same probability.
            let is_chosen = match order {
                Ordering::Less => {
                    ties = 1;
                    true
                }
                Ordering::Equal => {
                    ties += 1;
                    self.rng.below(ties) == 0
                }
                Ordering::Greater => false,
            };
            if is_chosen {
                best = Some((position, candidate, sessions));
            }
        }
        best.map(|(position, ..)| position)
    }

    /// The better of two random candidates.
    fn better_of_two(&self, candidates: &Candidates<'_>) -> Option<usize> {
        let first = self.rng.below(candidates.len());
        let other = self.rng.below(candidates.len() - 1);
        let other = if other < first { other } else { other + 1 };
        let (one, two) = (candidates.get(first)?, candidates.get(other)?);
        let order = compare((&one, one.sessions()?), (&two, two.sessions()?));
        Some(if order == Ordering::Greater { other } else { first })
    }
}

/// Compares by sessions per share, then by requests in flight per share. An empty candidate counts with the session
/// that it would get.
fn compare(one: (&Candidate<'_>, u64), two: (&Candidate<'_>, u64)) -> Ordering {
    let scaled =
        |sessions: u64, by: &Candidate<'_>| u128::from(sessions + 1) * u128::from(by.share());
    scaled(one.1, two.0).cmp(&scaled(two.1, one.0)).then_with(|| {
        let (load, other) = (one.0.load(), two.0.load());
        other.less_than(load).cmp(&load.less_than(other))
    })
}

impl Default for LeastSessions {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for LeastSessions {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let chosen = match candidates.len() {
            ..=ALL => self.best(candidates),
            _ => self.better_of_two(candidates),
        };
        let Some(chosen) = chosen else { return self.unknown.choose(candidates) };
        if let Some(candidate) = candidates.get(chosen) {
            candidate.place();
        }
        chosen
    }

    fn wants_sessions(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::traits::testing::{Entered, shares, states};

    #[test]
    fn sessions_are_distributed_by_weight() {
        let states = states(&[1, 1, 2]);
        assert_eq!(shares(&LeastSessions::seeded(1), &states, 400), [100, 100, 200]);
        states[0].session_load.set(Some(150));
        states[1].session_load.set(Some(100));
        states[2].session_load.set(Some(200));
        let got = shares(&LeastSessions::seeded(1), &states, 150);
        assert_eq!(got, [0, 50, 100], "the others catch up");
    }

    #[test]
    fn of_equal_backends_the_one_with_fewer_requests_is_chosen_and_then_a_random_one() {
        let states = states(&[1; 4]);
        let strategy = LeastSessions::seeded(1);
        let _held = [0, 1].map(|busy| Entered::new(states[busy].clone()));
        let mut first = [0_usize; 4];
        for _ in 0..1000 {
            first[strategy.choose(&Candidates::new(&states))] += 1;
            states.iter().for_each(|state| state.session_load.set(Some(0)));
        }
        assert_eq!(first[..2], [0, 0]);
        assert!(first[2].abs_diff(500) < 60, "{first:?}");
    }

    #[test]
    fn each_of_equal_backends_is_chosen_equally_often() {
        let states = states(&[1; 4]);
        let strategy = LeastSessions::seeded(1);
        let mut chosen = [0_usize; 4];
        for _ in 0..4000 {
            chosen[strategy.choose(&Candidates::new(&states))] += 1;
            states.iter().for_each(|state| state.session_load.set(Some(0)));
        }
        assert!(chosen.iter().all(|chosen| chosen.abs_diff(1000) < 150), "{chosen:?}");
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed| -> Vec<usize> {
            let (states, strategy) = (states(&[1; 4]), LeastSessions::seeded(seed));
            (0..64).map(|_| strategy.choose(&Candidates::new(&states))).collect()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }

    #[test]
    fn the_two_are_never_the_same() {
        let states = states(&[1; 2]);
        states[0].session_load.set(Some(1));
        let strategy = LeastSessions::seeded(1);
        for _ in 0..50 {
            assert_eq!(strategy.better_of_two(&Candidates::new(&states)), Some(1));
        }
    }

    #[test]
    fn without_known_sessions_it_is_least_connections() {
        let states = states(&[1; 3]);
        states[2].session_load.set(None);
        let strategy = LeastSessions::seeded(1);
        let _held = Entered::new(states[0].clone());
        assert_eq!(shares(&strategy, &states, 10), [0, 5, 5]);
        assert_eq!(states[1].session_load.get(), Some(0), "none was placed by number");
    }

    #[test]
    fn many_backends_are_filled_evenly_by_two_choices() {
        let states = states(&vec![1; 300]);
        let got = shares(&LeastSessions::seeded(1), &states, 30_000);
        let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
        assert!(most - least <= 12, "{least} to {most} of 100 each");
        let placed: u64 = states.iter().filter_map(|state| state.session_load.get()).sum();
        assert_eq!(placed, 30_000, "each was placed by number");
    }

    #[test]
    fn each_of_many_backends_is_one_of_the_two_equally_often() {
        let states = states(&[1; 201]);
        for empty in [0, 100, 200] {
            states.iter().for_each(|state| state.session_load.set(Some(1_000_000)));
            let (strategy, mut chosen) = (LeastSessions::seeded(1), 0_usize);
            for _ in 0..20_100 {
                states[empty].session_load.set(Some(0));
                chosen += usize::from(strategy.choose(&Candidates::new(&states)) == empty);
            }
            assert!(chosen.abs_diff(200) < 60, "{empty}: {chosen} of 2 / 201");
        }
    }
}

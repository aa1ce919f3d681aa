//! The order in which backends are considered for a new session.

use std::sync::Arc;

use super::{Availability, BackendState};

/// Backends with the same priority for a new session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tier<'a> {
    /// There is at least one.
    pub(crate) states: &'a [Arc<BackendState>],
    /// Whether they are backups, which are used when no primary backend is up.
    pub(crate) backup: bool,
}

impl Tier<'_> {
    /// Whether its backends are ready and not busy.
    pub(crate) fn is_ready(&self) -> bool {
        self.states.first().is_some_and(|state| state.availability() == Availability::Ready)
    }
}

/// The backends that may take a new session, by priority: ready ones in the own zone, ready ones in other
/// zones, busy ones; all primaries before any backup. Suspects are left out, and no tier is empty.
#[derive(Debug)]
pub(super) enum Tiers {
    /// All members are in one tier, as most of the time. Thousands need not be copied for a snapshot then.
    One {
        backup: bool,
    },
    Several(Box<[(Vec<Arc<BackendState>>, bool)]>),
}

impl Tiers {
    /// The tiers of the members `states`.
    pub(super) fn of(states: &[Arc<BackendState>], own_zone: Option<&str>) -> Self {
        let ranks = || states.iter().map(|state| rank(state, own_zone));
        let first = ranks().next().flatten();
        if let Some(rank) = first
            && ranks().all(|other| other == first)
        {
            return Self::One { backup: is_of_backups(rank) };
        }
        let mut tiers: [Vec<Arc<BackendState>>; 6] = Default::default();
        // Most backends are ready, and a vector of thousands that grows is copied often.
        tiers[0].reserve_exact(states.len());
        for (state, rank) in states.iter().zip(ranks()) {
            if let Some(rank) = rank {
                tiers[rank].push(state.clone());
            }
        }
        let tiers = tiers.into_iter().enumerate().filter(|(_, tier)| !tier.is_empty());
        Self::Several(tiers.map(|(rank, tier)| (tier, is_of_backups(rank))).collect())
    }

    /// The tier at `position` of the members `states`.
    #[inline]
    pub(super) fn get<'a>(
        &'a self,
        position: usize,
        states: &'a [Arc<BackendState>],
    ) -> Option<Tier<'a>> {
        match self {
            Self::One { backup } => (position == 0).then_some(Tier { states, backup: *backup }),
            Self::Several(tiers) => {
                let (states, backup) = tiers.get(position)?;
                Some(Tier { states, backup: *backup })
            }
        }
    }
}

/// The position of a backend's tier among all six; `None` if it takes no new sessions.
fn rank(state: &BackendState, own_zone: Option<&str>) -> Option<usize> {
    if !state.may_take_new_sessions() {
        return None;
    }
    let rank = match state.availability() {
        Availability::Ready if own_zone.is_none() || state.is_in(own_zone) => 0,
        Availability::Ready => 1,
        Availability::Busy => 2,
        Availability::Suspect | Availability::Down => return None,
    };
    Some(rank + if state.is_backup() { 3 } else { 0 })
}

/// Whether the tier at this position among all six consists of backups.
fn is_of_backups(rank: usize) -> bool {
    rank >= 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pool::Mode, strategy::testing::states};

    /// The positions of the members in each tier.
    fn positions(tiers: &Tiers, members: &[Arc<BackendState>]) -> Vec<(Vec<usize>, bool)> {
        let position = |state: &Arc<BackendState>| {
            members.iter().position(|member| Arc::ptr_eq(member, state)).unwrap()
        };
        let tiers = (0..).map_while(|i| tiers.get(i, members));
        tiers.map(|tier| (tier.states.iter().map(position).collect(), tier.backup)).collect()
    }

    #[test]
    fn members_of_one_tier_are_not_copied() {
        let members = states(&[1, 2, 3]);
        let tiers = Tiers::of(&members, None);
        assert!(matches!(tiers, Tiers::One { backup: false }));
        assert_eq!(positions(&tiers, &members), [(vec![0, 1, 2], false)]);
        members.iter().for_each(|state| state.set_backup(true));
        assert_eq!(positions(&Tiers::of(&members, None), &members), [(vec![0, 1, 2], true)]);
    }

    #[test]
    fn primaries_come_before_backups_and_others_are_left_out() {
        let members = states(&[1, 1, 0, 1, 1]);
        members[1].set_backup(true);
        members[3].set_mode(Mode::Draining);
        let tiers = Tiers::of(&members, None);
        assert_eq!(positions(&tiers, &members), [(vec![0, 4], false), (vec![1], true)]);
    }

    #[test]
    fn backends_of_the_own_zone_come_first() {
        let members = states(&[1, 1, 1]);
        members[2].set_zone(Some("x".to_owned()));
        let tiers = Tiers::of(&members, Some("x"));
        assert_eq!(positions(&tiers, &members), [(vec![2], false), (vec![0, 1], false)]);
    }

    #[test]
    fn without_a_backend_for_new_sessions_there_is_no_tier() {
        for weights in [&[][..], &[0, 0]] {
            let members = states(weights);
            assert_eq!(positions(&Tiers::of(&members, None), &members), []);
        }
    }
}

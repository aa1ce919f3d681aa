//! What must hold after every operation, whatever the operations are.

use http::header;
use proptest::prelude::*;
use tower_sticky::{Mode, Outcome, Verdict};

use super::{
    model::{Answered, Expected, IDS, Model},
    operations::{Operation, operation},
};
use crate::support::config;

impl Model {
    /// The backend that received a request since `before`.
    pub(crate) fn served_since(&self, before: usize) -> Result<Option<usize>, TestCaseError> {
        let log = self.log.lock().unwrap();
        let served = &log.served[before..];
        prop_assert!(served.len() <= 1, "a request is executed at most once");
        for (id, number) in served {
            let member = self.members.get(id);
            prop_assert!(member.is_some(), "{} is not in the pool", IDS[*id]);
            prop_assert_eq!(*number, member.unwrap().service, "its newest service");
            let out = matches!(member.unwrap().mode, Mode::Disabled | Mode::Drained);
            prop_assert!(!out, "what is taken out gets nothing");
        }
        Ok(served.first().map(|(id, _)| *id))
    }

    pub(crate) fn check(
        &mut self,
        session: usize,
        expected: &Expected,
        served: Option<usize>,
        answered: &Answered,
    ) -> Result<(), TestCaseError> {
        let outcome = Outcome::of(answered.extensions()).unwrap();
        let named = outcome.backend().map(|id| id.as_str());
        let set = answered.headers().get(header::SET_COOKIE);
        let token = set.map(|set| set.to_str().unwrap()["sid=".len()..][..90].to_owned());
        *self.counts.entry(outcome.verdict().as_str()).or_default() += 1;
        self.tokens += u64::from(token.is_some());
        match expected {
            Expected::Rejected(reason) => {
                prop_assert_eq!(answered.status().as_u16(), 503);
                prop_assert_eq!(outcome.verdict(), Verdict::Rejected);
                prop_assert_eq!(outcome.reason(), *reason);
                prop_assert_eq!((served, token), (None, None));
                return Ok(());
            }
            Expected::Pinned(id) => {
                prop_assert_eq!(outcome.verdict(), Verdict::Pinned);
                prop_assert_eq!(served, Some(*id));
                prop_assert_eq!(outcome.reason(), None);
            }
            Expected::One(verdict, reason, ids) => {
                prop_assert_eq!(outcome.verdict(), *verdict);
                prop_assert_eq!(outcome.reason(), *reason);
                prop_assert!(ids.contains(&served.unwrap()), "{:?} of {:?}", served, ids);
            }
        }
        prop_assert_eq!(answered.status().as_u16(), 200);
        prop_assert_eq!(named, served.map(|id| IDS[id]), "the outcome names who served it");
        match outcome.verdict() {
            Verdict::Assigned | Verdict::Moved => {
                prop_assert!(token.is_some(), "the new pin is on the answer");
                self.sessions[session] = Some((token.unwrap(), served.unwrap()));
            }
            _ => prop_assert_eq!(token, None, "nothing changed"),
        }
        Ok(())
    }

    pub(crate) fn check_pool(&self) -> Result<(), TestCaseError> {
        let status = self.backends.snapshot();
        prop_assert_eq!(status.backends.len(), self.members.len());
        for (id, member) in &self.members {
            let backend = self.backends.get(IDS[*id]).unwrap();
            prop_assert_eq!(backend.in_flight, member.in_flight, "in flight on {}", IDS[*id]);
            prop_assert_eq!(backend.waiting, 0);
            prop_assert_eq!(
                (backend.mode, backend.weight, backend.limit),
                (member.mode, member.weight, member.limit)
            );
        }
        let stats = status.stats;
        prop_assert_eq!(stats.violations(), 0);
        prop_assert_eq!(stats.requests(), self.sent - self.started.len() as u64);
        for verdict in Verdict::ALL {
            let counted = self.counts.get(verdict.as_str()).copied().unwrap_or_default();
            prop_assert_eq!(stats.outcome(*verdict), counted, "{}", verdict);
        }
        prop_assert_eq!(stats.tokens_issued(), self.tokens);
        Ok(())
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn every_request_has_the_expected_outcome(
        operations in prop::collection::vec(operation(), 1..80),
        strategy in 0..4usize,
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        // The clock is paused.
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new(strategy);
            for id in 0..2 {
                model.apply(&Operation::Insert(id)).await?;
            }
            for operation in &operations {
                model.apply(operation).await?;
            }
            while !model.started.is_empty() {
                model.apply(&Operation::Answer(0)).await?;
            }
            while !model.open.is_empty() {
                model.apply(&Operation::Close(0)).await?;
            }
            for backend in model.backends.iter() {
                prop_assert_eq!(backend.in_flight, 0, "nothing is left in flight");
            }
            Ok(())
        })?;
    }
}

#[test]
fn parallel_requests_of_a_session_of_a_removed_backend_agree() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for gone in [Operation::Mode(0, Mode::Disabled), Operation::Remove(0)] {
            let mut model = Model::new(0);
            for id in 0..4 {
                model.apply(&Operation::Insert(id)).await.unwrap();
            }
            // Round robin: the first session is on the first backend.
            model.apply(&Operation::Request(0)).await.unwrap();
            model.apply(&gone).await.unwrap();
            for _ in 0..6 {
                model.apply(&Operation::Start(0)).await.unwrap();
            }
            let places: Vec<_> = model.started.iter().map(|started| started.occupied.id).collect();
            let one_place = places.iter().all(|id| *id == places[0]);
            assert!(one_place, "after {gone:?} one session is on the backends {places:?}");
        }
    });
}

//! When a suspect backend is looked at again, and that it is looked at by one at a time.

use std::time::Duration;

use tokio::time::Instant;

use crate::hash::mix;

/// The schedule of the looks at one suspect: after `first`, then after twice as long each time, up to
/// `longest`. A look is a redial in the background, or a request that tries the backend.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Looks that failed since the backend became suspect.
    failed: u32,
    /// Whether any has, also one that was begun early.
    in_vain: bool,
    /// When the next one is due; `None` while the backend is well.
    due: Option<Instant>,
    /// When it would be if nobody were in a hurry; `None` if nobody is.
    planned: Option<Instant>,
    /// How many have begun. The last one is under way if fewer have ended.
    begun: u64,
    ended: u64,
    /// Whether the one that is under way is a request.
    by_request: bool,
}

/// A look that is under way, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LookId(u64);

/// How long to wait between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
    /// Makes the variation differ between backends and between processes.
    pub(crate) seed: u64,
}

impl Backoff {
    /// The pause after so many failed looks; by chance up to a fifth shorter.
    fn pause(&self, failed: u32, number: u64) -> Duration {
        let whole = self.first.saturating_mul(1 << failed.min(16)).min(self.longest);
        shortened(whole, self.seed ^ number)
    }
}

/// `whole`, less a part of up to a fifth that `seed` decides.
fn shortened(whole: Duration, seed: u64) -> Duration {
    let part = mix(seed) as f64 / u64::MAX as f64;
    whole.mul_f64(1.0 - 0.2 * part)
}

impl Looks {
    /// The backend is suspect: it is to be looked at, unless that is planned already.
    pub(crate) fn plan(&mut self, backoff: &Backoff, now: Instant) {
        if self.due.is_none() {
            self.due = Some(now + backoff.pause(self.failed, self.begun));
        }
    }

    /// A quick look, as it is not known whether the backend has ended: not at once, when it may just be
    /// about to.
    pub(crate) fn plan_quick(&mut self, now: Instant) {
        const QUICK: Duration = Duration::from_millis(10);
        let quick = now + QUICK;
        self.due = Some(self.due.map_or(quick, |due| due.min(quick)));
    }

    /// The next look is not due before it would be if the last failure had been at `failed`.
    pub(crate) fn postpone(&mut self, backoff: &Backoff, failed: Instant) {
        self.due = Some(failed + backoff.pause(self.failed, self.begun));
        self.planned = None;
    }

    /// Whoever wants to know waits for the answer: the next look is due at once.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.advance(now);
    }

    /// Somebody waits for the backend to return: the next look is due within 25 to 50 ms.
    pub(crate) fn soon(&mut self, seed: u64, now: Instant) {
        const SOON: Duration = Duration::from_millis(45);
        self.advance(now + shortened(SOON, seed ^ self.begun));
    }

    /// The next look is due at `at`, if it would be later.
    fn advance(&mut self, at: Instant) {
        if let Some(due) = self.due.filter(|due| *due > at) {
            self.planned.get_or_insert(due);
            self.due = Some(at);
        }
    }

    /// The backend is well, as far as looks can tell.
    pub(crate) fn rest(&mut self) {
        (self.failed, self.in_vain, self.due, self.planned) = (0, false, None, None);
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.begun > self.ended
    }

    /// Whether a request tries the backend now.
    pub(crate) fn is_tried(&self) -> bool {
        self.is_under_way() && self.by_request
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.in_vain
    }

    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended
    }

    /// Begins the one look that may be under way.
    pub(crate) fn begin(&mut self, by_request: bool) -> Option<LookId> {
        if self.is_under_way() {
            return None;
        }
        self.begun += 1;
        self.by_request = by_request;
        Some(LookId(self.begun))
    }

    /// The look found the backend as it was: the next one is due later. One that was begun early, because
    /// somebody was in a hurry or had nobody else to ask, is one more: those that are planned come as if
    /// it had not been.
    pub(crate) fn fail(&mut self, id: LookId, backoff: &Backoff, now: Instant) {
        if id.0 != self.begun {
            return;
        }
        self.in_vain = true;
        match self.planned.take().or(self.due).filter(|planned| *planned > now) {
            Some(planned) => self.due = Some(planned),
            None => {
                self.failed = self.failed.saturating_add(1);
                self.due = Some(now + backoff.pause(self.failed, self.begun));
            }
        }
    }

    /// The look is over, with whatever result, or without one.
    pub(crate) fn end(&mut self, id: LookId) {
        if id.0 == self.begun {
            self.ended = self.begun;
        }
    }

    /// Another service is looked at from now on: what is under way says nothing about it.
    pub(crate) fn forget(&mut self) {
        self.rest();
        self.ended = self.begun;
        self.begun += 1;
        self.ended += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1), seed: 7 };

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest() {
        let mut looks = Looks::default();
        looks.plan(&BACKOFF, Instant::now());
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let pause = looks.due().expect("it is suspect") - Instant::now();
            let (least, most) = (whole * 8 / 10, whole);
            assert!((least..=most).contains(&(pause.as_millis() as u64)), "{pause:?} of {whole}");
            let planned = looks.due();
            looks.plan(&BACKOFF, Instant::now());
            assert_eq!(looks.due(), planned, "more of the same evidence changes nothing");
            tokio::time::advance(pause).await;
            assert!(looks.is_due(Instant::now()));
            let id = looks.begin(false).expect("nobody looks");
            looks.fail(id, &BACKOFF, Instant::now());
            looks.end(id);
        }
        looks.rest();
        assert_eq!((looks.due(), looks.has_failed()), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_looks_and_only_at_the_same_service() {
        let mut looks = Looks::default();
        looks.plan(&BACKOFF, Instant::now());
        let old = looks.begin(true).unwrap();
        assert!(looks.is_tried() && looks.begin(false).is_none());
        looks.forget();
        assert!(!looks.is_under_way());
        let new = looks.begin(false).unwrap();
        looks.plan(&BACKOFF, Instant::now());
        let due = looks.due();
        looks.fail(old, &BACKOFF, Instant::now());
        looks.end(old);
        assert!(looks.is_under_way() && looks.due() == due, "the old one says nothing");
        looks.end(new);
        assert!(!looks.is_under_way());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_not_kept_waiting() {
        let mut looks = Looks::default();
        looks.soon(1, Instant::now());
        assert_eq!(looks.due(), None, "it is well");
        let slow = Backoff { first: Duration::from_secs(5), ..BACKOFF };
        looks.plan(&slow, Instant::now());
        looks.soon(1, Instant::now());
        let pause = looks.due().unwrap() - Instant::now();
        assert!((25..=50).contains(&(pause.as_millis() as u64)), "{pause:?}");
        looks.hurry(Instant::now());
        assert!(looks.is_due(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn looks_in_a_hurry_are_more_looks_and_put_none_off() {
        let mut looks = Looks::default();
        looks.plan(&BACKOFF, Instant::now());
        let planned = looks.due();
        for (by_request, hurries) in [(false, true), (true, true), (true, false), (true, false)] {
            if hurries {
                looks.hurry(Instant::now());
                looks.hurry(Instant::now());
            }
            let id = looks.begin(by_request).unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
            looks.fail(id, &BACKOFF, Instant::now());
            looks.end(id);
            assert_eq!(looks.due(), planned, "as if there had been no hurry");
            assert!(looks.has_failed());
        }
        looks.hurry(Instant::now());
        let id = looks.begin(false).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        looks.fail(id, &BACKOFF, Instant::now());
        assert!(looks.due() > planned, "it took until the planned one, and is that one");
    }
}

//! One choice of a backend, shared by parallel first requests of a session.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use crate::util::lock;

/// The choices of first requests in progress, by key.
///
/// Parallel first requests agree if their key's rank decides. With a bound on the load they may not: the
/// backend may admit the first of them and not the second. So the first request chooses, and the others
/// use its choice while any of them is in progress.
#[derive(Default)]
pub(crate) struct SharedChoices {
    choices: Arc<Mutex<HashMap<u64, Choice>>>,
}

struct Choice {
    /// The tag of the chosen backend.
    tag: u64,
    requests: usize,
}

/// One of the first requests of a key that share a choice, until it is dropped.
pub(crate) struct SharedChoice {
    key: u64,
    tag: u64,
    choices: Arc<Mutex<HashMap<u64, Choice>>>,
}

impl SharedChoices {
    /// Uses the current choice for `key`, or else makes one with `choose`, which returns the tag of a
    /// backend.
    pub(crate) fn join(
        &self,
        key: u64,
        choose: impl FnOnce() -> Option<u64>,
    ) -> Option<SharedChoice> {
        let mut choices = lock(&self.choices);
        let tag = match choices.get_mut(&key) {
            Some(choice) => {
                choice.requests += 1;
                choice.tag
            }
            None => {
                let tag = choose()?;
                choices.insert(key, Choice { tag, requests: 1 });
                tag
            }
        };
        Some(SharedChoice { key, tag, choices: self.choices.clone() })
    }
}

impl SharedChoice {
    /// The tag of the chosen backend.
    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }
}

impl Drop for SharedChoice {
    fn drop(&mut self) {
        let mut choices = lock(&self.choices);
        if let Some(choice) = choices.get_mut(&self.key) {
            choice.requests -= 1;
            if choice.requests == 0 {
                choices.remove(&self.key);
            }
        }
    }
}

impl fmt::Debug for SharedChoices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = lock(&self.choices).len();
        f.debug_struct("SharedChoices").field("count", &count).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_first_requests_share_one_choice() {
        let choices = SharedChoices::default();
        let first = choices.join(7, || Some(1)).unwrap();
        let second = choices.join(7, || Some(2)).unwrap();
        let other = choices.join(8, || Some(3)).unwrap();
        assert_eq!((first.tag(), second.tag(), other.tag()), (1, 1, 3));
        drop(first);
        assert_eq!(
            choices.join(7, || Some(2)).unwrap().tag(),
            1,
            "a first request is still in progress"
        );
        drop(second);
        assert_eq!(
            choices.join(7, || Some(2)).unwrap().tag(),
            2,
            "after all have ended, the next request chooses"
        );
        drop(other);
        assert!(choices.join(9, || None).is_none());
        assert_eq!(format!("{choices:?}"), "SharedChoices { count: 0 }", "no choice is kept");
    }
}

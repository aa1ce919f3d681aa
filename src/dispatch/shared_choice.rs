//! One first choice, shared by all first requests of a session that are under way together.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use crate::util::lock;

/// The choices that are being made now, by key.
///
/// The rank alone makes parallel first requests agree. A bound on the load does not: it may admit the
/// first of them and not the second. So the first one chooses, and the others follow while any of
/// them is under way.
#[derive(Default)]
pub(crate) struct SharedChoices {
    open: Arc<Mutex<HashMap<u64, Open>>>,
}

struct Open {
    position_tag: u64,
    followers: usize,
}

/// A place among the first requests of a key, until it is dropped.
pub(crate) struct SharedChoice {
    key: u64,
    tag: u64,
    open: Arc<Mutex<HashMap<u64, Open>>>,
}

impl SharedChoices {
    /// Joins the choice that is open for `key`, or opens it with what `choose` says: the tag of a
    /// backend.
    pub(crate) fn join(
        &self,
        key: u64,
        choose: impl FnOnce() -> Option<u64>,
    ) -> Option<SharedChoice> {
        let mut open = lock(&self.open);
        let tag = match open.get_mut(&key) {
            Some(choice) => {
                choice.followers += 1;
                choice.position_tag
            }
            None => {
                let tag = choose()?;
                open.insert(key, Open { position_tag: tag, followers: 1 });
                tag
            }
        };
        Some(SharedChoice { key, tag, open: self.open.clone() })
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
        let mut open = lock(&self.open);
        if let Some(choice) = open.get_mut(&self.key) {
            choice.followers -= 1;
            if choice.followers == 0 {
                open.remove(&self.key);
            }
        }
    }
}

impl fmt::Debug for SharedChoices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstChoices").field("open", &lock(&self.open).len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_share_the_first_choice_while_it_is_open() {
        let choices = SharedChoices::default();
        let first = choices.join(7, || Some(1)).unwrap();
        let second = choices.join(7, || Some(2)).unwrap();
        let other = choices.join(8, || Some(3)).unwrap();
        assert_eq!((first.tag(), second.tag(), other.tag()), (1, 1, 3));
        drop(first);
        assert_eq!(choices.join(7, || Some(2)).unwrap().tag(), 1, "one is still under way");
        drop(second);
        assert_eq!(choices.join(7, || Some(2)).unwrap().tag(), 2, "all have ended: chosen anew");
        drop(other);
        assert!(choices.join(9, || None).is_none());
        assert_eq!(format!("{choices:?}"), "FirstChoices { open: 0 }", "nothing is left behind");
    }
}

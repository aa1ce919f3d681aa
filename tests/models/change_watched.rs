//! Models of waiting for a change of a backend: the change is read, or the wait is noticed.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use crate::{support::check, watchers::Watchers};

struct Backend {
    version: AtomicUsize,
    watchers: Watchers,
    notified: AtomicBool,
}

impl Backend {
    fn change(&self) {
        self.version.store(1, Relaxed);
        Watchers::after_change();
        if self.watchers.any() {
            self.notified.store(true, Relaxed);
        }
    }

    /// Begins to wait, and returns whether it has seen the change.
    fn watch(&self) -> bool {
        self.watchers.begin();
        self.version.load(Relaxed) == 1
    }
}

#[test]
fn no_change_is_missed() {
    check(|| {
        let backend = Arc::new(Backend {
            version: AtomicUsize::new(0),
            watchers: Watchers::new(),
            notified: AtomicBool::new(false),
        });
        let other = backend.clone();
        let change = thread::spawn(move || other.change());
        let is_seen = backend.watch();
        change.join().expect("no thread panics");
        assert!(is_seen || backend.notified.load(Relaxed), "it would wait for ever");
        backend.watchers.end();
        assert!(!backend.watchers.any());
    });
}

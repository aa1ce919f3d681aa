//! The outcome of a request whose future is dropped, for whoever drops it.

use std::cell::RefCell;

use super::Outcome;

thread_local! {
    static WATCH: RefCell<Watch> = const { RefCell::new(Watch::Off) };
}

/// Whether somebody wants the outcome of the future that is being dropped on this thread.
enum Watch {
    Off,
    On(Option<Box<Outcome>>),
}

/// Calls `drop_future`, and returns the outcome of the request that is given up by it. A dropped future cannot
/// return anything, and a place for the outcome in each request would cost every request an allocation.
pub(crate) fn outcome_of(drop_future: impl FnOnce()) -> Option<Outcome> {
    let before = WATCH.with(|watch| watch.replace(Watch::On(None)));
    drop_future();
    match WATCH.with(|watch| watch.replace(before)) {
        Watch::On(outcome) => outcome.map(|outcome| *outcome),
        Watch::Off => None,
    }
}

/// Tells the outcome of a request that is given up, if somebody wants it.
pub(crate) fn tell(outcome: impl FnOnce() -> Outcome) {
    // The thread may be ending, and then nobody asks.
    let _ = WATCH.try_with(|watch| {
        if let Ok(mut watch) = watch.try_borrow_mut()
            && matches!(*watch, Watch::On(_))
        {
            *watch = Watch::On(Some(Box::new(outcome())));
        }
    });
}

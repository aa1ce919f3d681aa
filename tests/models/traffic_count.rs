//! The count of requests in flight.

use loom::{sync::Arc, thread};

use crate::{requests::RequestCounter, support::check};

// Loom overlooks orders of a thread's write whose thread has read the same before: so who leaves does
// not look, and who looks is another.

#[test]
fn who_is_in_flight_counts_whoever_else_leaves() {
    check(|| {
        let requests = Arc::new(RequestCounter::new());
        let other = thread::spawn({
            let requests = requests.clone();
            move || {
                requests.enter();
                requests.leave();
            }
        });
        requests.enter();
        let seen = requests.in_flight();
        assert!((1..=2).contains(&seen), "one who is in flight counts, and sees {seen}");
        requests.leave();
        other.join().expect("no thread fails");
        assert_eq!((requests.in_flight(), requests.requests()), (0, 2));
    });
}

#[test]
fn whoever_looks_sees_no_less_than_none_and_no_more_than_came() {
    check(|| {
        let requests = Arc::new(RequestCounter::new());
        let threads = [(); 2].map(|()| {
            let requests = requests.clone();
            thread::spawn(move || {
                requests.enter();
                requests.leave();
            })
        });
        let seen = requests.in_flight();
        assert!(seen <= 2, "no more than came are in flight, not {seen}");
        for thread in threads {
            thread.join().expect("no thread fails");
        }
        assert_eq!(requests.in_flight(), 0);
    });
}

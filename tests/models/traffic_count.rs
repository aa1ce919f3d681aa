//! The count of requests in flight.

use loom::{sync::Arc, thread};

use crate::{support::check, traffic::Traffic};

#[test]
fn no_count_is_less_than_none_or_more_than_came() {
    check(|| {
        let traffic = Arc::new(Traffic::new());
        let threads = [(); 2].map(|()| {
            let traffic = traffic.clone();
            thread::spawn(move || {
                traffic.enter();
                let seen = traffic.in_flight();
                assert!((1..=2).contains(&seen), "one who is in flight counts, and sees {seen}");
                traffic.leave();
            })
        });
        let seen = traffic.in_flight();
        assert!(seen <= 2, "no more than came are in flight, not {seen}");
        for thread in threads {
            thread.join().expect("no thread fails");
        }
        assert_eq!((traffic.in_flight(), traffic.requests()), (0, 2));
    });
}

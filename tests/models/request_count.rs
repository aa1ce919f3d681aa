//! Models of the counter of requests in flight.

use loom::{sync::Arc, thread};

use crate::{requests::RequestCounter, support::check};

// Loom misses some orders of a write in a thread that has read the same atomic before, so the threads that
// leave do not read.

#[test]
fn request_in_flight_is_counted_while_another_one_leaves() {
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
        assert!((1..=2).contains(&seen), "one or two requests are in flight, not {seen}");
        requests.leave();
        other.join().expect("no thread panics");
        assert_eq!((requests.in_flight(), requests.requests()), (0, 2));
    });
}

#[test]
fn count_is_between_zero_and_the_number_of_requests() {
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
        assert!(seen <= 2, "at most two requests are in flight, not {seen}");
        for thread in threads {
            thread.join().expect("no thread panics");
        }
        assert_eq!(requests.in_flight(), 0);
    });
}

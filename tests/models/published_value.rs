//! Models of a value that is published while others read it.

use loom::{sync::Arc, thread};

use crate::{support::check, versioned::Versioned};

#[test]
fn value_is_at_least_as_new_as_the_version_read_before() {
    check(|| {
        let published = Arc::new(Versioned::new(0_u64));
        let changing = thread::spawn({
            let published = published.clone();
            move || {
                for value in 1..=2 {
                    published.publish(std::sync::Arc::new(value), true);
                }
            }
        });
        let version = published.version();
        let value = *published.load();
        assert!(value >= version, "value {value} is older than version {version}");
        // As a request does just before it is sent.
        let again = published.version();
        if again != version {
            let value = *published.load();
            assert!(value >= again, "value {value} is older than version {again}");
        }
        changing.join().expect("no thread panics");
        assert_eq!((published.version(), *published.load()), (2, 2));
    });
}

#[test]
fn reader_never_sees_an_older_value_again() {
    check(|| {
        let published = Arc::new(Versioned::new(0_u64));
        let readers = [(); 2].map(|()| {
            let published = published.clone();
            thread::spawn(move || {
                let (first, second) = (*published.load(), *published.load());
                assert!(first <= second, "{second} was published before {first}");
            })
        });
        published.publish(std::sync::Arc::new(1), false);
        for thread in readers {
            thread.join().expect("no thread panics");
        }
    });
}

//! What is published while others look: nobody who looks again works with what is outdated.

use loom::{sync::Arc, thread};

use crate::{support::check, versioned::Versioned};

#[test]
fn who_knows_the_newest_version_has_the_newest_picture() {
    check(|| {
        let published = Arc::new(Versioned::new(0_u64));
        let changing = thread::spawn({
            let published = published.clone();
            move || {
                for picture in 1..=2 {
                    published.publish(std::sync::Arc::new(picture), true);
                }
            }
        });
        let version = published.version();
        let picture = *published.load();
        assert!(picture >= version, "picture {picture} is older than version {version}");
        // As a request does at the moment at which it is sent.
        let again = published.version();
        if again != version {
            let picture = *published.load();
            assert!(picture >= again, "picture {picture} is older than version {again}");
        }
        changing.join().expect("no thread fails");
        assert_eq!((published.version(), *published.load()), (2, 2));
    });
}

#[test]
fn nobody_goes_back_to_an_older_picture() {
    check(|| {
        let published = Arc::new(Versioned::new(0_u64));
        let looking = [(); 2].map(|()| {
            let published = published.clone();
            thread::spawn(move || {
                let (first, second) = (*published.load(), *published.load());
                assert!(first <= second, "{second} was published before {first}");
            })
        });
        published.publish(std::sync::Arc::new(1), false);
        for thread in looking {
            thread.join().expect("no thread fails");
        }
    });
}

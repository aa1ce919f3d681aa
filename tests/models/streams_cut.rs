//! Models of cutting off streams: every reader is woken. And of their ends: the session is not idle in between.

use std::{
    future::poll_fn,
    task::{Poll, Waker},
};

use loom::{
    future::block_on,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use crate::{
    streams::{OpenStreams, StreamId},
    support::check,
};

/// Registers a stream.
fn register(streams: &OpenStreams) -> Option<StreamId> {
    let mut stream = None;
    assert!(streams.register(&mut stream, 0, || 0, Waker::noop()), "no stream is cut off yet");
    stream
}

/// Reads until the stream is cut off. A reader that is not woken is reported as a deadlock.
fn read(streams: &OpenStreams, mut stream: Option<StreamId>) {
    block_on(poll_fn(|cx| {
        let cut = stream.as_ref().is_some_and(|stream| streams.is_cut(stream));
        if cut || !streams.register(&mut stream, 0, || 0, cx.waker()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }));
    streams.end(stream.expect("the stream is registered"));
}

#[test]
fn all_readers_are_woken() {
    check(|| {
        let streams = Arc::new(OpenStreams::new());
        let readers = [(); 2].map(|()| {
            let stream = register(&streams);
            let streams = streams.clone();
            thread::spawn(move || read(&streams, stream))
        });
        assert_eq!(streams.cut(), 2, "both streams are cut off");
        for reader in readers {
            reader.join().expect("no thread panics");
        }
        assert_eq!(streams.len(), 0);
    });
}

#[test]
fn stream_is_cut_off_while_another_one_ends() {
    check(|| {
        let streams = Arc::new(OpenStreams::new());
        let (ends, stays) = (register(&streams), register(&streams));
        let ending = thread::spawn({
            let streams = streams.clone();
            move || {
                streams.end(ends.expect("the stream is registered"));
                // The next stream may reuse its key. It is cut off only if it is registered before that.
                let next = streams.register(&mut None, 0, || 0, Waker::noop());
                assert!(next, "a new stream is not cut off when it is registered");
            }
        });
        let reading = thread::spawn({
            let streams = streams.clone();
            move || read(&streams, stays)
        });
        let cut = streams.cut();
        assert!((1..=3).contains(&cut), "{cut} streams were cut off");
        ending.join().expect("no thread panics");
        reading.join().expect("no thread panics");
        assert_eq!(streams.len(), 1, "the stream that was registered last is open");
    });
}

/// The end of a stream is recorded before the stream is removed.
#[test]
fn who_does_not_find_the_stream_of_a_session_finds_its_end() {
    const SESSION: u64 = 7;
    check(|| {
        let ended = Arc::new((OpenStreams::new(), AtomicBool::new(false)));
        let mut stream = None;
        assert!(ended.0.register(&mut stream, SESSION, || 0, Waker::noop()));
        let other = ended.clone();
        let ends = thread::spawn(move || {
            let (streams, is_recorded) = &*other;
            is_recorded.store(true, Relaxed);
            streams.end(stream.expect("the stream is registered"));
        });
        let (streams, is_recorded) = &*ended;
        assert!(streams.has_session(SESSION) || is_recorded.load(Relaxed));
        ends.join().expect("no thread panics");
        assert!(!streams.has_session(SESSION));
    });
}

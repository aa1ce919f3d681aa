//! Whoever reads a stream is woken when it is cut off.

use std::{
    future::poll_fn,
    task::{Poll, Waker},
};

use loom::{future::block_on, sync::Arc, thread};

use crate::{
    streams::{OpenStreams, StreamId},
    support::check,
};

/// A stream that has begun.
fn begun(streams: &OpenStreams) -> Option<StreamId> {
    let mut stream = None;
    assert!(streams.register(&mut stream, 0, || 0, Waker::noop()), "nothing is cut off yet");
    stream
}

/// Reads until the stream is cut off. A reader that is never woken shows as a deadlock.
fn read(streams: &OpenStreams, mut stream: Option<StreamId>) {
    block_on(poll_fn(|cx| {
        let cut = stream.as_ref().is_some_and(|stream| streams.is_cut(stream));
        if cut || !streams.register(&mut stream, 0, || 0, cx.waker()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }));
    streams.end(stream.expect("it has begun"));
}

#[test]
fn no_reader_is_left_waiting() {
    check(|| {
        let streams = Arc::new(OpenStreams::new());
        let readers = [(); 2].map(|()| {
            let stream = begun(&streams);
            let streams = streams.clone();
            thread::spawn(move || read(&streams, stream))
        });
        assert_eq!(streams.cut(), 2, "both had begun");
        for reader in readers {
            reader.join().expect("no thread fails");
        }
        assert_eq!(streams.len(), 0);
    });
}

#[test]
fn streams_that_end_meanwhile_leave_the_others_to_be_cut_off() {
    check(|| {
        let streams = Arc::new(OpenStreams::new());
        let (ends, stays) = (begun(&streams), begun(&streams));
        let ending = thread::spawn({
            let streams = streams.clone();
            move || {
                streams.end(ends.expect("it has begun"));
                // Its place may go to one that begins now, which is cut off only if it was there.
                let next = streams.register(&mut None, 0, || 0, Waker::noop());
                assert!(next, "one that begins is never cut off before");
            }
        });
        let reading = thread::spawn({
            let streams = streams.clone();
            move || read(&streams, stays)
        });
        let cut = streams.cut();
        assert!((1..=3).contains(&cut), "{cut} were cut off");
        ending.join().expect("no thread fails");
        reading.join().expect("no thread fails");
        assert_eq!(streams.len(), 1, "the one that began last is there");
    });
}

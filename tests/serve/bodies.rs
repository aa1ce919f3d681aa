//! How the bodies of requests are read.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, mpsc},
};
use tower::service_fn;
use tower_sticky::serve::{RequestBody, Server};

use crate::support::{any_port, connect, response};

/// Reads are small until so much of a request has passed.
const SMALL_UNTIL: usize = 256 << 10;
const SMALL: usize = 16 << 10;
const LENGTH: usize = 8 << 20;

async fn next_length(body: &mut RequestBody) -> Option<usize> {
    let frame = body.frame().await?.expect("the client sends everything");
    Some(frame.into_data().map_or(0, |data| data.len()))
}

/// The largest frame among the first after an answer that came before the end of the request.
async fn largest_after_an_early_answer() -> usize {
    let (answered, (largest, mut seen)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let has_answer = answered.clone();
    let app = service_fn(move |request: Request<RequestBody>| {
        let (has_answer, largest) = (has_answer.clone(), largest.clone());
        async move {
            let mut body = request.into_body();
            let mut read = 0;
            while read < 2 * SMALL_UNTIL {
                read += next_length(&mut body).await.expect("there is more");
            }
            drop(tokio::spawn(async move {
                has_answer.notified().await;
                // These may have been read before the answer was sent.
                for _ in 0..2 {
                    next_length(&mut body).await;
                }
                let (mut most, mut read) = (0, 0);
                while read < SMALL_UNTIL / 2 {
                    let length = next_length(&mut body).await.expect("there is more");
                    (most, read) = (most.max(length), read + length);
                }
                let _ = largest.send(most);
                while next_length(&mut body).await.is_some() {}
            }));
            Ok::<_, Infallible>(Response::new("early".to_owned()))
        }
    });
    let server = Server::new(app).listener(any_port().await).start().unwrap();
    let (mut read, mut write) = connect(&server).await.into_split();
    let upload = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LENGTH}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![b'x'; LENGTH]).await.unwrap();
        write
    });
    assert!(response(&mut read).await.ends_with("early"));
    answered.notify_one();
    let most = seen.recv().await.unwrap();
    drop(upload.await.unwrap());
    most
}

#[tokio::test]
async fn an_early_answer_does_not_make_the_reads_of_its_request_small() {
    // A machine with much else to do may pause the upload, and reads are small after a pause.
    for _ in 0..20 {
        if largest_after_an_early_answer().await > SMALL {
            return;
        }
    }
    panic!("all reads are small");
}

//! The page `model_workers`: streamed responses by a key in a header.

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, extract::Request};
use bytes::Bytes;
use http::Method;

use crate::{client::send, page, server_thread::Server};

const WORDS: [&str; 4] = ["all ", "work ", "and ", "play"];

/// A worker that streams its name and some words.
fn worker(name: &'static str) -> Server {
    let complete = move |_: Request| async move {
        let words = [name, ": "].into_iter().chain(WORDS);
        let words = tokio_stream::iter(words.map(|word| Ok::<_, Infallible>(Bytes::from(word))));
        Body::from_stream(tokio_stream::StreamExt::then(words, async |word| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            word
        }))
    };
    let app = Router::new().fallback(complete);
    Server::start(async move |listener| axum::serve(listener, app).await)
}

#[tokio::test]
async fn conversations_stay_with_a_worker_and_return_to_it() {
    let names = ["one", "two", "three"];
    let mut workers = names.map(worker);
    let ports = workers.each_ref().map(|worker| worker.addr.port());
    let gateway = page::gateway("model_workers.md", 0, &ports).await;
    let ask = async |conversation: &str| {
        let headers = [("x-conversation-id", conversation)];
        let answer = send(gateway.addr, Method::POST, "/complete", &headers, "a prompt").await;
        let text = answer.text();
        let (name, words) = text.split_once(": ").unwrap();
        assert_eq!(words, WORDS.concat(), "the whole response arrives");
        name.to_owned()
    };
    let conversations: Vec<_> = (0..30).map(|number| format!("conversation {number}")).collect();
    let mut homes = Vec::new();
    for conversation in &conversations {
        let home = ask(conversation).await;
        for _ in 0..3 {
            assert_eq!(ask(conversation).await, home, "every turn has its worker");
        }
        homes.push(home);
    }
    for name in names {
        assert!(homes.iter().filter(|home| *home == name).count() >= 3, "{homes:?}");
    }
    workers[0].kill();
    for (conversation, home) in conversations.iter().zip(&homes) {
        let now = ask(conversation).await;
        assert_eq!(now != *home, home == "one", "only conversations of the dead worker move");
        assert_eq!(ask(conversation).await, now, "they stay with the next one");
    }
}

//! Conversations that stay with one model worker, because its cache holds their beginning.
//!
//! The key of a conversation is in the JSON body. A middleware reads it with an Axum extractor and puts it into an
//! extension, and `Key::extension` hashes it to a worker. Responses are streamed. At the end a worker dies in the middle
//! of a response: the conversation goes on with another worker, which has to read it from the start.
//!
//! ```text
//! cargo run --example model_cache
//! ```

#![allow(missing_docs, unreachable_pub)]

#[path = "support/server.rs"]
mod server;

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::Request,
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use server::Server;
use tokio_stream::StreamExt;
use tower::ServiceExt;
use tower_sticky::{Backends, StickyLayer, affinity, proxy::Upstream};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const WORKERS: [&str; 3] = ["worker-1", "worker-2", "worker-3"];
const WORDS: [&str; 4] = ["all", "work", "and", "play"];
/// A response is streamed, and so a worker can die in the middle of it.
const PAUSE: Duration = Duration::from_millis(20);
/// The body of a request is kept in memory while its key is read, so it needs a limit.
const LARGEST: usize = 1 << 20;

/// What a client sends: the conversation so far.
#[derive(Serialize, Deserialize)]
struct Prompt {
    conversation: String,
    messages: Vec<String>,
}

/// The key, as an extension of the request.
#[derive(Clone)]
struct Conversation(String);

/// Reads the key from the body, and sends the same bytes on.
async fn read_conversation(request: Request, next: Next) -> Response {
    #[derive(Deserialize)]
    struct Key {
        conversation: String,
    }
    let (mut parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, LARGEST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    match serde_json::from_slice::<Key>(&bytes) {
        Ok(key) => drop(parts.extensions.insert(Conversation(key.conversation))),
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

/// A gateway in front of these workers. A worker with more than 1.25 times its share of the requests in flight passes a
/// conversation on to the next in its rank, where its cache is cold.
fn gateway(workers: Backends<Upstream>) -> Router {
    let by_conversation = affinity::Key::extension(|key: &Conversation| key.0.clone().into_bytes())
        .balance_factor(1.25);
    let sticky = StickyLayer::new(workers, by_conversation).into_service();
    Router::new().fallback_service(sticky).layer(from_fn(read_conversation))
}

/// A worker: it remembers how many messages of each conversation it has read, and reads only the rest.
fn worker(name: &'static str) -> Router {
    let cache = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let complete = move |Json(prompt): Json<Prompt>| async move {
        let count = prompt.messages.len();
        let cached = cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(prompt.conversation, count)
            .unwrap_or(0);
        let first = format!("{name} read {} of {count} messages:", count - cached.min(count));
        let words = std::iter::once(first).chain(WORDS.map(|word| format!(" {word}")));
        let words = tokio_stream::iter(words.map(|word| Ok::<_, Infallible>(Bytes::from(word))));
        Body::from_stream(words.then(async |word| {
            tokio::time::sleep(PAUSE).await;
            word
        }))
    };
    Router::new().route("/complete", post(complete))
}

/// The next piece of a response, or what is wrong.
async fn piece(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    body.frame().await.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// Asks for the response to a conversation.
async fn ask(gateway: &Router, conversation: &str, messages: usize) -> Fallible<Body> {
    let messages = (0..messages).map(|number| format!("message {number}")).collect();
    let prompt = Prompt { conversation: conversation.to_owned(), messages };
    let request = Request::post("/complete")
        .header("host", "models.example")
        .header("content-type", "application/json")
        .body(Body::from(serde_json::to_vec(&prompt)?))?;
    let response = gateway.clone().oneshot(request).await?;
    if !response.status().is_success() {
        return Err(response.status().to_string().into());
    }
    Ok(response.into_body())
}

/// A whole response.
async fn complete(gateway: &Router, conversation: &str, messages: usize) -> Fallible<String> {
    let body = ask(gateway, conversation, messages).await?.collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let backends = Backends::new();
    let mut workers = HashMap::new();
    for name in WORKERS {
        let app = worker(name);
        let server = Server::start(async move |listener| axum::serve(listener, app).await);
        backends.insert(name, Upstream::new(&server.url())?)?;
        workers.insert(name.to_owned(), server);
    }
    let gateway = gateway(backends);

    for turn in 1..=3 {
        for conversation in ["red", "green", "blue"] {
            println!("{conversation}: {}", complete(&gateway, conversation, 2 * turn - 1).await?);
        }
    }

    let mut body = ask(&gateway, "red", 7).await?;
    let first = piece(&mut body).await.ok_or("a response has pieces")??;
    let first = String::from_utf8_lossy(&first).into_owned();
    let name = first.split(' ').next().unwrap_or_default();
    if let Some(server) = workers.get_mut(name) {
        server.kill();
    }
    println!("{name} dies");
    let end = loop {
        match piece(&mut body).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => break "broken off",
            None => break "complete",
        }
    };
    println!("the response is {end}");
    // What was sent cannot be sent again by the gateway. The client asks once more.
    println!("red: {}", complete(&gateway, "red", 7).await?);
    println!("red: {}", complete(&gateway, "red", 9).await?);
    Ok(())
}

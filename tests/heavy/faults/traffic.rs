//! Sessions that always send requests, and their responses.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tower_sticky_heavy_tests::until;

use crate::session::{Answer, Session};

/// A response, and the steps of the test meanwhile.
#[derive(Debug)]
pub struct Record {
    pub posts: bool,
    pub answer: Answer,
    /// The step of the test when the request was sent, and when its response had arrived.
    pub steps: [usize; 2],
}

#[derive(Default)]
pub struct Traffic {
    over: AtomicBool,
    pub step: AtomicUsize,
    records: Mutex<BTreeMap<usize, Vec<Record>>>,
    count: AtomicUsize,
    clients: Mutex<Vec<JoinHandle<()>>>,
}

impl Traffic {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Lets a session send one request after the other: a GET, then a POST with a body that comes in one
    /// piece, and so on.
    pub fn start(self: &Arc<Self>, mut session: Session) {
        let this = self.clone();
        let mut clients = self.clients.lock().unwrap();
        let id = clients.len();
        clients.push(tokio::spawn(async move {
            for round in 0.. {
                let posts = round % 2 == 1;
                let begun = this.step.load(SeqCst);
                let body = vec![1; 1 + round * 7919 % 3_000];
                let answer = if posts { session.post(body).await } else { session.get("/").await };
                let record = Record { posts, answer, steps: [begun, this.step.load(SeqCst)] };
                this.records.lock().unwrap().entry(id).or_default().push(record);
                this.count.fetch_add(1, SeqCst);
                if this.over.load(SeqCst) {
                    return;
                }
            }
        }));
    }

    /// The number of responses so far.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// Waits for some more responses.
    pub async fn more(&self, answers: usize) {
        let count = self.count() + answers;
        until("there are answers", || self.count() >= count).await;
    }

    /// Ends the traffic, and returns the responses of each session.
    pub async fn end(&self) -> BTreeMap<usize, Vec<Record>> {
        self.over.store(true, SeqCst);
        let clients = std::mem::take(&mut *self.clients.lock().unwrap());
        join_all(clients).await.into_iter().for_each(|client| client.unwrap());
        std::mem::take(&mut *self.records.lock().unwrap())
    }
}

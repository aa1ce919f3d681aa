//! Permanent clients, and clients with short sessions.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::{task::JoinSet, time::sleep};
use tower_sticky_heavy_tests::client::Client;

use crate::{
    exchange::{Exchange, Visitor},
    kind::Kind,
    random::Random,
};

const REGULARS: usize = 12;

/// All requests of one client, in order.
pub struct Life {
    pub user: String,
    pub exchanges: Vec<Exchange>,
}

pub struct Clients {
    over: Arc<AtomicBool>,
    tasks: JoinSet<Vec<Life>>,
}

impl Clients {
    /// The permanent clients.
    pub fn regulars(kind: &Kind, random: &mut Random) -> Vec<Visitor> {
        (0..REGULARS).map(|_| Visitor::new(kind.clone(), random.fork())).collect()
    }

    /// Starts the permanent clients, which send all the time, and short-lived ones one after the other.
    pub fn start(
        gateway: SocketAddr,
        kind: &Kind,
        regulars: Vec<Visitor>,
        random: &mut Random,
    ) -> Self {
        let (over, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for visitor in regulars {
            let over = over.clone();
            tasks.spawn(async move { vec![stay(gateway, visitor, &over).await] });
        }
        tasks.spawn(come_and_go(gateway, kind.clone(), random.fork(), over.clone()));
        Self { over, tasks }
    }

    /// Lets all clients finish, and returns their requests.
    pub async fn end(self) -> Vec<Life> {
        self.over.store(true, Relaxed);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

async fn stay(gateway: SocketAddr, mut visitor: Visitor, over: &AtomicBool) -> Life {
    let (mut client, mut exchanges) = (Client::new(gateway), Vec::new());
    while !over.load(Relaxed) {
        let exchange = visitor.ask(&mut client, 0).await;
        let broken = exchange.answer.is_err();
        exchanges.push(exchange);
        // Sometimes a client pauses for longer.
        let rests = visitor.random.among(0..40) == 0;
        let rest = if rests || broken { 20..300 } else { 0..8 };
        sleep(visitor.random.millis(rest)).await;
    }
    Life { user: visitor.user, exchanges }
}

async fn come_and_go(
    gateway: SocketAddr,
    kind: Kind,
    mut random: Random,
    over: Arc<AtomicBool>,
) -> Vec<Life> {
    let mut lives = Vec::new();
    while !over.load(Relaxed) {
        let (mut client, mut exchanges) = (Client::new(gateway), Vec::new());
        let mut visitor = Visitor::new(kind.clone(), random.fork());
        for _ in 0..3 {
            exchanges.push(visitor.ask(&mut client, 0).await);
        }
        lives.push(Life { user: visitor.user, exchanges });
        sleep(random.millis(1..10)).await;
    }
    lives
}

//! Many concurrent customers, who check the acknowledged items in their carts.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use axum::http::{Method, StatusCode};
use tokio::task::JoinSet;
use tower_sticky::{NoInner, StickyService, proxy::Upstream};
use tower_sticky_heavy_tests::until;

use super::shops::{Answer, Client};

/// The number of concurrent customers.
const CONCURRENCY: usize = 64;

type Gateway = StickyService<Upstream, NoInner>;

/// A customer, whose items are consecutive numbers.
#[derive(Default)]
struct Customer {
    client: Client,
    /// The items that a shop has acknowledged.
    acknowledged: Vec<String>,
    /// The item of a request that has failed: it may be in the cart or not.
    uncertain: Option<String>,
}

impl Customer {
    /// Adds an item.
    async fn add(&mut self, gateway: &Gateway) -> StatusCode {
        let item = self.acknowledged.len().to_string();
        let path = format!("/cart/{item}");
        let answer = self.client.send_to(gateway.clone(), Method::POST, &path).await;
        if answer.status == StatusCode::OK {
            self.acknowledged.push(item);
        } else {
            self.uncertain = Some(item);
        }
        answer.status
    }

    /// Loads the cart. Returns the shop and the items.
    async fn load(&mut self, gateway: &Gateway) -> Result<(String, Vec<String>), StatusCode> {
        let answer = self.client.send_to(gateway.clone(), Method::GET, "/cart").await;
        if answer.status != StatusCode::OK {
            return Err(answer.status);
        }
        let (_, items) = answer.body.split_once(": ").unwrap();
        let items = items.split(", ").filter(|item| !item.is_empty());
        Ok((owner(&answer), items.map(str::to_owned).collect()))
    }

    /// Whether a cart has all acknowledged items, once and in order, and no other items except the uncertain
    /// one.
    fn is_complete(&self, cart: &[String]) -> bool {
        let more = cart.strip_prefix(self.acknowledged.as_slice());
        more.is_some_and(|more| match more {
            [] => true,
            [one] => self.uncertain.as_ref() == Some(one),
            _ => false,
        })
    }

    /// Accepts the cart as it is.
    fn accept(&mut self, cart: Vec<String>) {
        self.acknowledged = cart;
        self.uncertain = None;
    }
}

fn owner(answer: &Answer) -> String {
    answer.body.split(' ').next().unwrap().to_owned()
}

/// All customers, and the gateway to the shops.
pub struct Crowd {
    customers: Vec<Customer>,
    gateway: Gateway,
}

/// The results of writes before and during a kill.
#[derive(Debug, Default)]
pub struct Writes {
    pub acknowledged: usize,
    /// The number of failed requests by status.
    pub failed: BTreeMap<u16, usize>,
}

/// The results of loading all carts.
#[derive(Debug, Default)]
pub struct Found {
    /// The number of failed requests by status.
    pub refused: BTreeMap<u16, usize>,
    /// Carts that lack an acknowledged item, or have a wrong one.
    pub lost: usize,
    /// Carts with the uncertain item.
    pub with_uncertain: usize,
    /// The number of carts by shop.
    pub by: BTreeMap<String, usize>,
}

impl Crowd {
    pub fn new(count: usize, gateway: &Gateway) -> Self {
        let customers = std::iter::repeat_with(Customer::default).take(count).collect();
        Self { customers, gateway: gateway.clone() }
    }

    /// Removes all customers but the first ones.
    pub fn truncate(&mut self, count: usize) {
        self.customers.truncate(count);
    }

    /// Each customer adds an item, which must succeed.
    pub async fn add(&mut self) {
        self.in_parts(|gateway, mut part| async move {
            for customer in &mut part {
                assert_eq!(customer.add(&gateway).await, StatusCode::OK, "no shop has failed");
            }
            part
        })
        .await;
    }

    /// All customers add items until `count` were acknowledged. Then calls `kill`, while requests are in
    /// flight.
    pub async fn add_until(&mut self, count: usize, kill: impl FnOnce()) -> Writes {
        let all = Arc::new(Mutex::new(Writes::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (writes, stopped) = (all.clone(), stop.clone());
        let adding = self.in_parts(move |gateway, mut part| {
            let (writes, stopped) = (writes.clone(), stopped.clone());
            async move {
                while !stopped.load(SeqCst) && part.iter().any(|one| one.uncertain.is_none()) {
                    for customer in part.iter_mut().filter(|one| one.uncertain.is_none()) {
                        if stopped.load(SeqCst) {
                            break;
                        }
                        let status = customer.add(&gateway).await;
                        let mut writes = writes.lock().unwrap();
                        if status == StatusCode::OK {
                            writes.acknowledged += 1;
                        } else {
                            *writes.failed.entry(status.as_u16()).or_default() += 1;
                        }
                    }
                }
                part
            }
        });
        let killing = async {
            until("enough writes are acknowledged", || all.lock().unwrap().acknowledged >= count)
                .await;
            kill();
            stop.store(true, SeqCst);
        };
        tokio::join!(adding, killing);
        mem::take(&mut all.lock().unwrap())
    }

    /// Each customer loads the cart once, without a retry.
    pub async fn load(&mut self) -> Found {
        let all = Arc::new(Mutex::new(Found::default()));
        let found = all.clone();
        self.in_parts(move |gateway, mut part| {
            let found = found.clone();
            async move {
                for customer in &mut part {
                    let answer = customer.load(&gateway).await;
                    let cart = found.lock().unwrap().count(customer, answer);
                    customer.accept(cart);
                }
                part
            }
        })
        .await;
        mem::take(&mut all.lock().unwrap())
    }

    /// Runs `act` concurrently on parts of the customers.
    async fn in_parts<F>(&mut self, act: impl Fn(Gateway, Vec<Customer>) -> F)
    where
        F: Future<Output = Vec<Customer>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let size = self.customers.len().div_ceil(CONCURRENCY);
        let mut all = mem::take(&mut self.customers).into_iter();
        loop {
            let part: Vec<_> = all.by_ref().take(size).collect();
            if part.is_empty() {
                break;
            }
            tasks.spawn(act(self.gateway.clone(), part));
        }
        self.customers = tasks.join_all().await.into_iter().flatten().collect();
    }
}

impl Found {
    /// Counts a result. Returns the cart.
    fn count(
        &mut self,
        customer: &Customer,
        answer: Result<(String, Vec<String>), StatusCode>,
    ) -> Vec<String> {
        match answer {
            Ok((by, cart)) => {
                *self.by.entry(by).or_default() += 1;
                self.lost += usize::from(!customer.is_complete(&cart));
                self.with_uncertain += usize::from(cart.len() > customer.acknowledged.len());
                cart
            }
            Err(status) => {
                *self.refused.entry(status.as_u16()).or_default() += 1;
                customer.acknowledged.clone()
            }
        }
    }
}

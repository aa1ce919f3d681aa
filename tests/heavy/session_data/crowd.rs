//! Many customers at once, who remember what they were told.

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

/// So many of them are asking at the same time.
const AT_ONCE: usize = 64;

type Gateway = StickyService<Upstream, NoInner>;

/// A customer, whose items are numbers that count up.
#[derive(Default)]
struct Customer {
    client: Client,
    /// The items that a shop has acknowledged.
    acknowledged: Vec<String>,
    /// The item that was under way when the answer was an error: it may be in the cart or not.
    in_doubt: Option<String>,
}

impl Customer {
    /// Adds an item. The answer to a write that was cut off is an error.
    async fn add(&mut self, gateway: &Gateway) -> StatusCode {
        let item = self.acknowledged.len().to_string();
        let path = format!("/cart/{item}");
        let answer = self.client.send_to(gateway.clone(), Method::POST, &path).await;
        if answer.status == StatusCode::OK {
            self.acknowledged.push(item);
        } else {
            self.in_doubt = Some(item);
        }
        answer.status
    }

    /// What the cart is said to be, and by whom.
    async fn look(&mut self, gateway: &Gateway) -> Result<(String, Vec<String>), StatusCode> {
        let answer = self.client.send_to(gateway.clone(), Method::GET, "/cart").await;
        if answer.status != StatusCode::OK {
            return Err(answer.status);
        }
        let (_, items) = answer.body.split_once(": ").unwrap();
        let items = items.split(", ").filter(|item| !item.is_empty());
        Ok((owner(&answer), items.map(str::to_owned).collect()))
    }

    /// Whether a cart has all that was acknowledged, each thing once and in order, and nothing that was
    /// never put into it.
    fn is_kept_by(&self, cart: &[String]) -> bool {
        let more = cart.strip_prefix(self.acknowledged.as_slice());
        more.is_some_and(|more| match more {
            [] => true,
            [one] => self.in_doubt.as_ref() == Some(one),
            _ => false,
        })
    }

    /// Takes the cart as it is.
    fn go_on_with(&mut self, cart: Vec<String>) {
        self.acknowledged = cart;
        self.in_doubt = None;
    }
}

fn owner(answer: &Answer) -> String {
    answer.body.split(' ').next().unwrap().to_owned()
}

/// All customers, and the way to the shops.
pub struct Crowd {
    customers: Vec<Customer>,
    gateway: Gateway,
}

/// What became of the writes around a kill.
#[derive(Debug, Default)]
pub struct Writes {
    pub acknowledged: usize,
    /// The bad answers, by status.
    pub failed: BTreeMap<u16, usize>,
}

/// What customers found.
#[derive(Debug, Default)]
pub struct Found {
    /// Answers that were errors.
    pub refused: BTreeMap<u16, usize>,
    /// Carts without something that was acknowledged, or with something wrong.
    pub lost: usize,
    /// Carts with the item that was in doubt.
    pub doubtful: usize,
    /// Who has answered how many of them.
    pub by: BTreeMap<String, usize>,
}

impl Crowd {
    pub fn new(count: usize, gateway: &Gateway) -> Self {
        let customers = std::iter::repeat_with(Customer::default).take(count).collect();
        Self { customers, gateway: gateway.clone() }
    }

    /// Lets all but so many go.
    pub fn keep(&mut self, count: usize) {
        self.customers.truncate(count);
    }

    /// Each adds an item, which must not fail.
    pub async fn add(&mut self) {
        self.in_parts(|gateway, mut part| async move {
            for customer in &mut part {
                assert_eq!(customer.add(&gateway).await, StatusCode::OK, "all is well");
            }
            part
        })
        .await;
    }

    /// All go on adding items, one after the other; after so many `kill` is called, while others are
    /// under way.
    pub async fn add_until(&mut self, count: usize, kill: impl FnOnce()) -> Writes {
        let all = Arc::new(Mutex::new(Writes::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (writes, stopped) = (all.clone(), stop.clone());
        let adding = self.in_parts(move |gateway, mut part| {
            let (writes, stopped) = (writes.clone(), stopped.clone());
            async move {
                while !stopped.load(SeqCst) && part.iter().any(|one| one.in_doubt.is_none()) {
                    for customer in part.iter_mut().filter(|one| one.in_doubt.is_none()) {
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
            until("the writes are under way", || all.lock().unwrap().acknowledged >= count).await;
            kill();
            stop.store(true, SeqCst);
        };
        tokio::join!(adding, killing);
        mem::take(&mut all.lock().unwrap())
    }

    /// Each looks once, and is not asked to try again.
    pub async fn look(&mut self) -> Found {
        let all = Arc::new(Mutex::new(Found::default()));
        let found = all.clone();
        self.in_parts(move |gateway, mut part| {
            let found = found.clone();
            async move {
                for customer in &mut part {
                    let answer = customer.look(&gateway).await;
                    let cart = found.lock().unwrap().count(customer, answer);
                    customer.go_on_with(cart);
                }
                part
            }
        })
        .await;
        mem::take(&mut all.lock().unwrap())
    }

    /// Lets each of some parts of them do something, all parts at the same time.
    async fn in_parts<F>(&mut self, act: impl Fn(Gateway, Vec<Customer>) -> F)
    where
        F: Future<Output = Vec<Customer>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let size = self.customers.len().div_ceil(AT_ONCE);
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
    /// Notes an answer, and gives the cart.
    fn count(
        &mut self,
        customer: &Customer,
        answer: Result<(String, Vec<String>), StatusCode>,
    ) -> Vec<String> {
        match answer {
            Ok((by, cart)) => {
                *self.by.entry(by).or_default() += 1;
                self.lost += usize::from(!customer.is_kept_by(&cart));
                self.doubtful += usize::from(cart.len() > customer.acknowledged.len());
                cart
            }
            Err(status) => {
                *self.refused.entry(status.as_u16()).or_default() += 1;
                customer.acknowledged.clone()
            }
        }
    }
}

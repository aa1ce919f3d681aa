//! The fenced cache: copies of session records, each valid for one epoch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::{self, Error},
};
use tower_sticky::session_data::{FencedCache, MemoryStore, Refused};

use crate::session_data::{ID, keyed, record, scope};

/// A store that a test controls, and that counts its calls. Clones share everything.
#[derive(Debug, Clone)]
struct ControlledStore {
    store: MemoryStore,
    loads: Arc<AtomicUsize>,
    /// Saves and loads wait for a permit when this is set.
    waits: Arc<AtomicBool>,
    /// Saves wait before they are stored, not only before they return.
    is_slow: Arc<AtomicBool>,
    go: Arc<Semaphore>,
    fails: Arc<AtomicBool>,
}

impl ControlledStore {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            loads: Arc::default(),
            waits: Arc::default(),
            is_slow: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
            fails: Arc::default(),
        }
    }

    async fn wait(&self) {
        if self.waits.load(SeqCst) {
            self.go.acquire().await.unwrap().forget();
        }
    }
}

#[async_trait::async_trait]
impl SessionStore for ControlledStore {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.store.create(record).await
    }

    /// The record is stored before the call returns.
    async fn save(&self, record: &Record) -> session_store::Result<()> {
        if self.is_slow.load(SeqCst) {
            self.go.acquire().await.unwrap().forget();
        }
        self.store.save(record).await?;
        self.wait().await;
        if self.fails.load(SeqCst) { Err(Error::Backend("no answer".into())) } else { Ok(()) }
    }

    /// The record is read before the call waits.
    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.loads.fetch_add(1, SeqCst);
        let found = self.store.load(id).await;
        self.wait().await;
        found
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.store.delete(id).await
    }
}

type Shop = FencedCache<MemoryStore, ControlledStore>;

fn shop(store: &ControlledStore) -> Shop {
    FencedCache::new(MemoryStore::new(), store.clone())
}

/// Two shops with one store, and a record that the first has saved for `a` in epoch 7.
async fn two_shops_and_a_record_of_a() -> (Shop, Shop) {
    let store = ControlledStore::new();
    let (first, second) = (shop(&store), shop(&store));
    keyed("pinned", "a", 7).within(first.save(&record(1))).await.unwrap();
    (first, second)
}

/// The number in the record that a request to `a` loads.
async fn read(shop: &Shop, outcome: &str, epoch: u64) -> Option<u64> {
    number(scope(outcome, "a", epoch).within(shop.load(&ID)).await)
}

fn number(loaded: session_store::Result<Option<Record>>) -> Option<u64> {
    let record = loaded.unwrap()?;
    assert_eq!(record.data.len(), 1, "nothing else is in it: {record:?}");
    record.data["number"].as_u64()
}

async fn save(shop: &Shop, epoch: u64, number: u32) {
    scope("pinned", "a", epoch).within(shop.save(&record(number))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_used_within_one_epoch_by_pinned_requests() {
    let store = ControlledStore::new();
    let shop = shop(&store);
    save(&shop, 5, 1).await;
    let loads = || store.loads.swap(0, SeqCst);
    for _ in 0..3 {
        assert_eq!(read(&shop, "pinned", 5).await, Some(1));
    }
    assert_eq!(loads(), 0, "the copy is at hand");
    for (outcome, epoch) in [("moved", 6), ("borrowed", 6), ("pinned", 7), ("assigned", 7)] {
        assert_eq!(read(&shop, outcome, epoch).await, Some(1));
        assert_eq!(loads(), 1, "{outcome} in epoch {epoch} reads the store");
    }
    assert_eq!(read(&shop, "pinned", 7).await, Some(1));
    assert_eq!(loads(), 0, "the copy is of the later epoch");
    assert_eq!(number(shop.load(&ID).await), Some(1));
    assert_eq!(loads(), 1, "without a scope the store is read");
    assert_eq!(read(&shop, "pinned", 7).await, Some(1));
    assert_eq!(loads(), 0, "the copy was not removed");
}

#[tokio::test(start_paused = true)]
async fn a_copy_expires() {
    let store = ControlledStore::new();
    let shop = shop(&store).fresh_for(Duration::from_secs(10));
    save(&shop, 5, 1).await;
    // The logout is served by a backend that borrows the session.
    scope("borrowed", "b", 5).within(store.delete(&ID)).await.unwrap();
    tokio::time::advance(Duration::from_millis(9_999)).await;
    assert_eq!(read(&shop, "pinned", 5).await, Some(1), "as it is documented");
    let late = scope("pinned", "a", 5);
    let error = late.clone().within(shop.save(&record(2))).await.unwrap_err();
    assert_eq!(Refused::of(&error), Some(Refused::Deleted), "but it cannot be saved");
    assert_eq!(read(&shop, "pinned", 5).await, None, "and it was correct");

    let store = ControlledStore::new();
    let shop = self::shop(&store).fresh_for(Duration::from_secs(10));
    save(&shop, 5, 1).await;
    store.delete(&ID).await.unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(read(&shop, "pinned", 5).await, None, "or the time is over");
}

#[tokio::test(start_paused = true)]
async fn a_save_without_a_scope_leaves_no_stale_copy() {
    let store =
        ControlledStore { store: MemoryStore::new().shared_saves(true), ..ControlledStore::new() };
    let shop = shop(&store);
    save(&shop, 5, 1).await;
    shop.save(&record(2)).await.unwrap();
    assert_eq!(read(&shop, "pinned", 5).await, Some(2));
    scope("borrowed", "a", 5).within(shop.save(&record(3))).await.unwrap();
    assert_eq!(read(&shop, "pinned", 5).await, Some(3));
    shop.delete(&ID).await.unwrap();
    assert_eq!(read(&shop, "pinned", 5).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_leaves_no_copy() {
    let store = ControlledStore::new();
    let shop = shop(&store);
    save(&shop, 5, 1).await;
    store.fails.store(true, SeqCst);
    let saved = scope("pinned", "a", 5).within(shop.save(&record(2))).await;
    assert!(saved.is_err());
    assert_eq!(read(&shop, "pinned", 5).await, Some(2), "the store had taken it all the same");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_save_leaves_no_copy() {
    let store =
        ControlledStore { store: MemoryStore::new().shared_saves(true), ..ControlledStore::new() };
    let shop = shop(&store);
    save(&shop, 5, 1).await;
    for (number, outcome) in [(2, "pinned"), (3, "borrowed")] {
        store.waits.store(true, SeqCst);
        let record = record(number);
        let given_up = scope(outcome, "a", 5).within(shop.save(&record));
        assert!(tokio::time::timeout(Duration::from_secs(1), given_up).await.is_err());
        store.waits.store(false, SeqCst);
        assert_eq!(read(&shop, "pinned", 5).await, Some(number.into()), "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_before_a_save_is_not_cached_after_it() {
    let store = ControlledStore::new();
    let shop = shop(&store);
    save(&shop, 5, 1).await;
    shop.load(&ID).await.unwrap();
    // A request loads the old state, and its response is slow.
    store.waits.store(true, SeqCst);
    let reader = tokio::spawn({
        let shop = shop.clone();
        async move { read(&shop, "moved", 6).await }
    });
    tokio::task::yield_now().await;
    store.waits.store(false, SeqCst);
    save(&shop, 6, 2).await;
    store.go.add_permits(1);
    assert_eq!(reader.await.unwrap(), Some(1), "that was the state then");
    assert_eq!(read(&shop, "pinned", 6).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn concurrent_saves_leave_no_stale_copy() {
    let store = ControlledStore::new();
    let shop = shop(&store);
    save(&shop, 5, 1).await;
    let saving = |number| {
        let shop = shop.clone();
        tokio::spawn(async move { save(&shop, 5, number).await })
    };
    // The first save to begin is stored last, and returns first.
    store.is_slow.store(true, SeqCst);
    let first = saving(2);
    tokio::task::yield_now().await;
    store.is_slow.store(false, SeqCst);
    store.waits.store(true, SeqCst);
    let second = saving(3);
    tokio::task::yield_now().await;
    store.waits.store(false, SeqCst);
    store.go.add_permits(1);
    first.await.unwrap();
    store.go.add_permits(1);
    second.await.unwrap();
    assert_eq!(read(&shop, "pinned", 5).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_later_epoch_advances_the_scope() {
    let store = ControlledStore::new();
    let shop = shop(&store);
    save(&shop, 5, 1).await;
    save(&shop, 7, 2).await;
    store.loads.store(0, SeqCst);
    let earlier = async {
        assert_eq!(number(shop.load(&ID).await), Some(2));
        shop.save(&record(3)).await.unwrap();
    };
    scope("pinned", "a", 5).within(earlier).await;
    assert_eq!(read(&shop, "pinned", 5).await, Some(3));
    assert_eq!(read(&shop, "pinned", 7).await, Some(3), "one copy for both");
    assert_eq!(store.loads.load(SeqCst), 0, "what is here is the newest in either epoch");
    let blind = scope("pinned", "a", 5).within(shop.save(&record(4))).await.unwrap_err();
    assert_eq!(Refused::of(&blind), Some(Refused::Older { epoch: 5, kept: 7 }), "it read nothing");
    assert_eq!(read(&shop, "pinned", 7).await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_loaded_record_is_cached_with_its_stored_epoch() {
    let store = ControlledStore::new();
    let shop = shop(&store);
    scope("pinned", "a", 7).within(store.save(&record(1))).await.unwrap();
    assert_eq!(read(&shop, "pinned", 5).await, Some(1), "another gateway counts otherwise");
    store.loads.store(0, SeqCst);
    for epoch in [7, 5, 7] {
        assert_eq!(read(&shop, "pinned", epoch).await, Some(1));
    }
    assert_eq!(store.loads.load(SeqCst), 0);
    assert_eq!(read(&shop, "pinned", 8).await, Some(1));
    assert_eq!(store.loads.load(SeqCst), 1, "a later epoch reads the store");
}

#[tokio::test(start_paused = true)]
async fn a_borrowed_record_of_a_later_epoch_is_not_cached_and_may_be_saved() {
    let store = ControlledStore::new();
    let shop = shop(&store);
    save(&shop, 5, 1).await;
    scope("borrowed", "b", 6).within(store.save(&record(2))).await.unwrap();
    let late = scope("pinned", "a", 5).within(shop.save(&record(3))).await.unwrap_err();
    assert_eq!(Refused::of(&late), Some(Refused::Older { epoch: 5, kept: 6 }));
    store.loads.store(0, SeqCst);
    let home = scope("pinned", "a", 5).within(async {
        assert_eq!(number(shop.load(&ID).await), Some(2));
        shop.save(&record(3)).await
    });
    home.await.unwrap();
    assert_eq!(read(&shop, "pinned", 5).await, Some(3));
    assert_eq!(store.loads.load(SeqCst), 2, "others write to it: it is read from the store");
    let borrower = scope("borrowed", "b", 6).within(async {
        assert_eq!(number(store.load(&ID).await), Some(3));
        store.save(&record(4)).await
    });
    borrower.await.unwrap();
    assert_eq!(read(&shop, "pinned", 5).await, Some(4));
    assert_eq!(read(&shop, "pinned", 7).await, Some(4), "it is pinned to its own backend again");
    let late = scope("borrowed", "b", 6).within(async {
        assert_eq!(number(store.load(&ID).await), Some(4));
        store.save(&record(5)).await
    });
    let late = Refused::of(&late.await.unwrap_err());
    assert!(
        matches!(late, Some(Refused::Held { .. })),
        "the pinned backend may have a copy: {late:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_of_another_backend_is_not_cached() {
    let store = ControlledStore::new();
    let shop = shop(&store);
    for number in 1..4 {
        scope("pinned", "b", 6).within(store.save(&record(number))).await.unwrap();
        assert_eq!(read(&shop, "pinned", 5).await, Some(number.into()), "with an old token");
        assert_eq!(read(&shop, "pinned", 6).await, Some(number.into()), "b had it first");
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_clears_the_owner_leaves_no_copy() {
    let (first, second) = two_shops_and_a_record_of_a().await;
    // Another gateway loads it on another backend, and saves nothing.
    let request = keyed("pinned", "a", 7).within(async {
        assert_eq!(number(first.load(&ID).await), Some(1), "a copy");
        assert_eq!(number(keyed("pinned", "b", 8).within(second.load(&ID)).await), Some(1));
        let late = first.save(&record(2)).await.unwrap_err();
        assert_eq!(Refused::of(&late), Some(Refused::Older { epoch: 7, kept: 8 }));
        assert_eq!(number(first.load(&ID).await), Some(1), "what is stored");
        first.save(&record(2)).await.unwrap();
    });
    request.await;
    let late = keyed("pinned", "b", 8).within(second.save(&record(3))).await.unwrap_err();
    assert!(matches!(Refused::of(&late), Some(Refused::Older { .. })), "{late}");
    for count in [3, 4] {
        let (shop, backend, epoch) = if count == 3 { (&second, "b", 8) } else { (&first, "a", 7) };
        let request = keyed("pinned", backend, epoch).within(async {
            let last = number(shop.load(&ID).await);
            assert_eq!(last, Some(u64::from(count) - 1), "there is no copy at {backend}");
            shop.save(&record(count)).await
        });
        request.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_without_an_owner_leaves_no_copy() {
    let (first, second) = two_shops_and_a_record_of_a().await;
    let request = keyed("moved", "a", 7).within(async {
        assert_eq!(number(first.load(&ID).await), Some(1), "what is stored");
        assert_eq!(number(keyed("moved", "b", 8).within(second.load(&ID)).await), Some(1));
        first.save(&record(2)).await
    });
    request.await.unwrap();
    let elsewhere = keyed("moved", "b", 8).within(async {
        assert_eq!(number(second.load(&ID).await), Some(2));
        second.save(&record(3)).await
    });
    elsewhere.await.unwrap();
    let read = keyed("pinned", "a", 7).within(first.load(&ID));
    assert_eq!(number(read.await), Some(3), "it had no owner, so there is no copy");
}

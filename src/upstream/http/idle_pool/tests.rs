//! Tests of the pool of idle connections.

use std::{collections::HashSet, thread};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::Mutex as AsyncMutex,
    time::{advance, sleep},
};

use super::*;
use crate::upstream::http::{buffers::Buffers, stream::Stream};

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// For tests whose connections another test could close: one of them closes those of all pools.
static REGISTERED: AsyncMutex<()> = AsyncMutex::const_new(());

fn pool(max_idle: usize) -> Arc<Pool> {
    Arc::new(Pool::new(max_idle, IDLE_TIMEOUT))
}

/// A pool that closes nothing by itself.
fn unswept(max_idle: usize) -> Arc<Pool> {
    let pool = pool(max_idle);
    pool.sweeping.store(true, Ordering::Relaxed);
    pool
}

async fn connection(pool: &Pool, generation: u64) -> (Box<Http1>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (other, _) = listener.accept().await.unwrap();
    let timeout = Duration::from_secs(1);
    let buffers = Buffers::default();
    let connection = Http1::new(Stream::Tcp(stream), pool.shard(), generation, timeout, buffers);
    (connection.await.unwrap(), other)
}

async fn connection_of(
    pool: &Pool,
    client: SocketAddr,
    generation: u64,
) -> (Box<Http1>, TcpStream) {
    let (mut connection, other) = connection(pool, generation).await;
    connection.reuse = Reuse::Client(client);
    (connection, other)
}

fn idle(pool: &Pool) -> usize {
    pool.shards.iter().map(|shard| shard.lock().len()).sum()
}

fn client() -> SocketAddr {
    "192.0.2.1:50000".parse().unwrap()
}

#[tokio::test]
async fn the_connections_that_were_idle_for_longest_are_closed_first() {
    let _registered = REGISTERED.lock().await;
    let pools = [(); 2].map(|()| pool(8));
    let mut others = Vec::new();
    for pool in &pools {
        for _ in 0..3 {
            let (connection, other) = connection(pool, 0).await;
            pool.put(connection);
            others.push(other);
        }
    }
    assert_eq!(pools[0].close_oldest(2), 2);
    for (number, other) in others[..3].iter().enumerate() {
        if number < 2 {
            other.readable().await.unwrap();
            assert_eq!(other.try_read(&mut [0]).unwrap(), 0, "{number} is closed");
        } else {
            assert!(other.try_read(&mut [0]).is_err(), "{number} is open");
        }
    }
    assert!(close_idle(usize::MAX) >= 4, "of all pools of the process");
    assert_eq!((idle(&pools[0]), idle(&pools[1])), (0, 0));
}

#[tokio::test]
async fn no_more_connections_are_closed_than_asked_for() {
    let mut pool = Pool::new(8, IDLE_TIMEOUT);
    pool.shards = (0..2).map(|_| Shard::default()).collect();
    pool.sweeping.store(true, Ordering::Relaxed);
    let pool = Arc::new(pool);
    let mut others = Vec::new();
    for number in 0..4 {
        let (mut connection, other) = connection(&pool, 0).await;
        connection.shard = number / 2;
        pool.put(connection);
        others.push(other);
    }
    assert_eq!(pool.close_oldest(3), 3, "of two shards");
    assert_eq!(idle(&pool), 1);
}

#[tokio::test]
async fn connections_of_an_older_address_are_not_kept() {
    let pool = unswept(8);
    let (first, _a) = connection(&pool, 0).await;
    let (second, _b) = connection(&pool, 0).await;
    pool.put(first);
    assert!(pool.take(1).is_none());
    assert_eq!(idle(&pool), 0, "closed");
    pool.put(second);
    assert_eq!(idle(&pool), 0, "closed when its answer has ended");
    let (third, _c) = connection(&pool, 1).await;
    pool.put(third);
    assert!(pool.take(1).is_some());
}

#[tokio::test]
async fn connections_of_a_client_to_an_older_address_are_not_kept() {
    let pool = unswept(8);
    let (first, _a) = connection_of(&pool, client(), 0).await;
    let (second, _b) = connection_of(&pool, client(), 0).await;
    pool.put(first);
    assert!(pool.take_for(client(), 1).is_none());
    assert_eq!(idle(&pool), 0, "closed");
    pool.put(second);
    assert_eq!(idle(&pool), 0, "closed when its answer has ended");
    let (third, _c) = connection_of(&pool, client(), 1).await;
    pool.put(third);
    assert!(pool.take_for(client(), 1).is_some());
}

/// One that came back while the address changed is among the current ones.
#[tokio::test]
async fn a_connection_to_an_older_address_is_never_taken() {
    let pool = unswept(8);
    let (any, _a) = connection(&pool, 0).await;
    pool.put(any);
    pool.generation.store(1, Ordering::Relaxed);
    assert!(pool.take(1).is_none());

    let pool = unswept(8);
    let (own, _b) = connection_of(&pool, client(), 0).await;
    pool.put(own);
    pool.generation.store(1, Ordering::Relaxed);
    assert!(pool.take_for(client(), 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_idle_for_the_timeout_is_not_taken() {
    let pool = unswept(8);
    let (any, _a) = connection(&pool, 0).await;
    let (own, _b) = connection_of(&pool, client(), 0).await;
    pool.put(any);
    advance(IDLE_TIMEOUT).await;
    assert!(pool.take(0).is_none());
    pool.put(own);
    advance(IDLE_TIMEOUT).await;
    assert!(pool.take_for(client(), 0).is_none());
}

/// These addresses have the same tag.
#[tokio::test]
async fn a_connection_serves_its_own_client_only() {
    let pool = unswept(8);
    let own: SocketAddr = "[::1]:5".parse().unwrap();
    let other: SocketAddr = "[0:0:0:4::1]:1".parse().unwrap();
    assert_eq!(Reuse::Client(own).tag(), Reuse::Client(other).tag());
    let (connection, _a) = connection_of(&pool, own, 0).await;
    pool.put(connection);
    assert!(pool.take_for(other, 0).is_none());
    assert!(pool.take_for(own, 0).is_some());
}

#[tokio::test]
async fn a_pool_that_keeps_nothing() {
    let pool = unswept(0);
    let (any, _a) = connection(&pool, 0).await;
    let (own, _b) = connection_of(&pool, client(), 0).await;
    pool.put(any);
    pool.put(own);
    assert_eq!(idle(&pool), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_closes_what_was_idle_for_the_timeout() {
    let pool = unswept(8);
    let (old, _a) = connection(&pool, 0).await;
    let (young, _b) = connection(&pool, 0).await;
    pool.put(old);
    advance(IDLE_TIMEOUT / 2).await;
    pool.put(young);
    assert!(pool.sweep(), "some are left");
    assert_eq!(idle(&pool), 2);
    advance(IDLE_TIMEOUT / 2).await;
    assert!(pool.sweep(), "one is left");
    assert_eq!(idle(&pool), 1);
    advance(IDLE_TIMEOUT / 2).await;
    assert!(!pool.sweep(), "none is left");
    assert_eq!(idle(&pool), 0);
}

#[tokio::test(start_paused = true)]
async fn one_task_closes_connections_within_one_and_a_half_times_the_timeout() {
    let _registered = REGISTERED.lock().await;
    let pool = pool(8);
    let (first, _a) = connection(&pool, 0).await;
    let (second, _b) = connection(&pool, 0).await;
    pool.put(first);
    pool.put(second);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
    sleep(IDLE_TIMEOUT * 2 / 3).await;
    assert_eq!(idle(&pool), 2);
    sleep(IDLE_TIMEOUT * 5 / 6).await;
    assert_eq!(idle(&pool), 0);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "it ends with the last of them");
}

#[test]
fn dropped_pools_are_forgotten() {
    let mut all = AllPools::default();
    let live: Vec<_> = (0..20).map(|_| unswept(8)).collect();
    live.iter().for_each(|pool| all.add(pool));
    for _ in 0..1000 {
        all.add(&unswept(8));
    }
    assert!(all.pools.len() <= 56, "{} for 20 that live", all.pools.len());
    let kept = |pool: &Arc<Pool>| {
        all.pools.iter().filter(|it| std::ptr::eq(it.as_ptr(), Arc::as_ptr(pool))).count()
    };
    assert!(live.iter().all(|pool| kept(pool) == 1));
}

/// A pool whose sweeper has ended is added again by the next connection.
#[test]
fn a_pool_that_is_added_often_is_kept_once() {
    let mut all = AllPools::default();
    let pool = unswept(8);
    for _ in 0..1000 {
        all.add(&pool);
    }
    assert!(all.pools.len() <= 16, "{}", all.pools.len());
}

#[test]
fn a_thread_keeps_a_slot_of_its_own() {
    let mine = thread_slot();
    assert_eq!(thread_slot(), mine);
    let others = [(); 2].map(|()| thread::spawn(thread_slot).join().unwrap());
    assert!(others[0] != mine && others[1] != mine && others[0] != others[1]);
}

#[test]
fn threads_are_spread_over_the_shards() {
    let pool = unswept(8);
    let count = thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(pool.shards.len(), count);
    let of_a_thread =
        |_: usize| thread::scope(|scope| scope.spawn(|| pool.shard()).join().unwrap());
    let shards: HashSet<_> = (0..64).map(of_a_thread).collect();
    assert!(shards.iter().all(|shard| *shard < count));
    assert!(count == 1 || shards.len() > 1, "{shards:?}");
}

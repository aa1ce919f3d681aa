//! Threads that serve connections.

use std::{net::TcpStream, thread, time::Duration};

use tokio::{runtime::Builder, time::Instant};
use tower_sticky::serve::{Listener, Workers};

use crate::support::{GET, addr, any_port, connect, exchange, server};

const LONG: Duration = Duration::from_secs(10);

#[cfg(unix)]
#[tokio::test]
async fn a_single_worker_accepts_from_all_listeners() {
    let dir = std::env::temp_dir().join(format!("tower-sticky-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("worker.sock");
    let unix = Listener::unix(&path, 0o600).unwrap();
    let server = server(any_port().await).listener(unix).workers(1).start().unwrap();
    let mut client = connect(&server).await;
    let own = format!("peer={}", client.local_addr().unwrap());
    assert!(exchange(&mut client, GET).await.contains(&own));
    let mut local = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert!(exchange(&mut local, GET).await.contains("trusted=true"));
    assert_eq!(server.open_connections(), 2);
    assert!(server.shutdown(LONG).await);
    assert!(!path.exists(), "the file is removed at the end");
}

/// With one worker, which accepts itself, and with two.
#[test]
fn accepting_ends_with_the_runtime_that_has_started_the_server() {
    for threads in [1, 2] {
        let workers = Workers::start(threads).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let addr = runtime.block_on(async {
            let server = server(any_port().await).shared_workers(workers.clone()).start().unwrap();
            assert!(exchange(&mut connect(&server).await, GET).await.contains("200 OK"));
            addr(&server)
        });
        drop(runtime);
        let begun = Instant::now();
        while TcpStream::connect(addr).is_ok() {
            assert!(begun.elapsed() < LONG, "it still accepts with {threads} workers");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

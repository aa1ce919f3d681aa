//! `Workers`: threads that serve connections.

use std::{io, sync::Arc, thread};

use tokio::runtime::{Builder, Handle};

use super::shared::Flag;

/// Threads that serve connections, each with a runtime of its own. They end when the last clone of this is dropped, and
/// the servers on them have finished.
///
/// A connection to a backend stays with the runtime of the thread that opened it. When one server takes the place of
/// another, as at a change of its configuration, share the workers: then the connections in the pools of the backends
/// outlive the former server.
///
/// # Example
///
/// ```no_run
/// # async fn run(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
/// use tower_sticky::serve::{Limits, Listener, Server, Workers};
///
/// let workers = Workers::start(2)?;
/// let listener = Listener::bind("0.0.0.0:8080").await?;
/// let same_socket = listener.try_clone()?;
/// let first = Server::new(app.clone()).listener(listener).shared_workers(workers.clone()).start()?;
/// let limits = Limits::new().connections(50_000);
/// let second = Server::new(app).listener(same_socket).limits(limits).shared_workers(workers).start()?;
/// first.retire().await;
/// # drop(second);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Workers(Arc<Threads>);

#[derive(Debug)]
struct Threads {
    runtimes: Vec<Handle>,
    ended: Arc<Flag>,
}

impl Workers {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    ///
    /// When a thread or its runtime cannot be started.
    pub fn start(threads: usize) -> io::Result<Self> {
        let mut started = Threads { runtimes: Vec::new(), ended: Arc::default() };
        for number in 0..threads.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            started.runtimes.push(runtime.handle().clone());
            let ended = started.ended.clone();
            thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                runtime.block_on(ended.wait());
                // Not to wait for what its connections have running on other threads.
                runtime.shutdown_background();
            })?;
        }
        Ok(Self(Arc::new(started)))
    }

    /// How many tasks are alive on the threads: those of connections and of what they have started. It grows without an
    /// end if something is left behind.
    pub fn alive_tasks(&self) -> usize {
        self.0.runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks()).sum()
    }

    pub(super) fn runtimes(&self) -> &[Handle] {
        &self.0.runtimes
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.ended.set();
    }
}

//! [`Backends::follow`]: backends from a `tower::discover::Discover` stream.

use std::{
    fmt::Display,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::sleep;
use tower::discover;

use super::{Discovery, DiscoveryEnd, Target};
use crate::{
    error::BoxError,
    id::BackendId,
    pool::{Backends, ChangeKind, MemberChange},
};

/// The most changes that are applied in one step.
const MAX_BATCH: usize = 1024;
/// The pause after the first error item.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl<S: Clone + Send + Sync + 'static> Backends<S> {
    /// Follows a [`Discover`](tower::discover::Discover) stream, that is, a stream of
    /// `Result<tower::discover::Change<K, S>, E>`: adds and removes backends as it says.
    ///
    /// The key in its text form is the [id](BackendId) of the backend; a key that is not a valid id is
    /// skipped. A key that is inserted again replaces the service of its backend, which keeps its
    /// sessions, mode, weight and limit. After an error item the backends stay as they are, and the stream
    /// is polled again after a pause that doubles from 10 ms to 1 s, until the next change.
    ///
    /// Only the returned [`Discovery`] polls the stream, independently of requests.
    ///
    /// # Example
    ///
    /// ```
    /// use tower::discover::ServiceList;
    /// use tower_sticky::{Backends, discovery::DiscoveryEnd};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let serve = |name: &'static str| tower::service_fn(move |_: http::Request<String>| async move {
    /// #     Ok::<_, std::convert::Infallible>(http::Response::new(name.to_owned()))
    /// # });
    /// let backends = Backends::new();
    /// let discovery = backends.follow(ServiceList::new::<http::Request<String>>(vec![serve("x"), serve("y")]));
    /// // Usually: tokio::spawn(discovery). This one ends by itself, and its backends stay.
    /// assert!(matches!(discovery.await, DiscoveryEnd::Ended));
    /// let ids: Vec<_> = backends.iter().map(|backend| backend.id.to_string()).collect();
    /// assert_eq!(ids, ["0", "1"], "the keys of a `ServiceList` are positions");
    /// # }
    /// ```
    pub fn follow<D>(&self, discover: D) -> Discovery
    where
        D: discover::Discover<Service = S> + Send + 'static,
        D::Key: Display + Send,
        D::Error: Into<BoxError>,
    {
        Discovery::new(self, move |target| run(discover, target))
    }
}

async fn run<D, S>(discover: D, mut target: Target<S>) -> DiscoveryEnd
where
    D: discover::Discover<Service = S>,
    D::Key: Display,
    D::Error: Into<BoxError>,
    S: Clone,
{
    let mut discover = pin!(discover);
    let mut last_error: Option<BoxError> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let batch = target.wait(poll_fn(|cx| poll_batch(discover.as_mut(), cx))).await;
        let Batch { changes, next } = match batch {
            Ok(batch) => batch,
            Err(end) => return end,
        };
        if !changes.is_empty() {
            (last_error, pause) = (None, FIRST_PAUSE);
            let changes = changes.into_iter().filter_map(|change| convert(change, &mut target));
            let changes = changes.collect();
            target.update(changes);
        }
        match next {
            Next::Pending => tokio::task::yield_now().await,
            Next::Failed(error) => {
                target.record_failure(&error);
                last_error = Some(error);
                if let Err(end) = target.wait(sleep(pause)).await {
                    return end;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Next::End => {
                return match (target.finish_drains().await, last_error) {
                    (Err(end), _) => end,
                    (Ok(()), Some(error)) => DiscoveryEnd::Failed(error),
                    (Ok(()), None) => DiscoveryEnd::Ended,
                };
            }
        }
    }
}

/// The changes that a stream had ready at once.
struct Batch<K, S> {
    changes: Vec<discover::Change<K, S>>,
    next: Next,
}

/// What follows after a batch.
enum Next {
    /// More changes, now or later.
    Pending,
    Failed(BoxError),
    End,
}

fn poll_batch<D>(mut discover: Pin<&mut D>, cx: &mut Context<'_>) -> Poll<Batch<D::Key, D::Service>>
where
    D: discover::Discover,
    D::Error: Into<BoxError>,
{
    let mut changes = Vec::new();
    let next = loop {
        if changes.len() == MAX_BATCH {
            break Next::Pending;
        }
        match discover.as_mut().poll_discover(cx) {
            Poll::Ready(Some(Ok(change))) => changes.push(change),
            Poll::Ready(Some(Err(error))) => break Next::Failed(error.into()),
            Poll::Ready(None) => break Next::End,
            Poll::Pending if changes.is_empty() => return Poll::Pending,
            Poll::Pending => break Next::Pending,
        }
    };
    Poll::Ready(Batch { changes, next })
}

fn convert<K: Display, S: Clone>(
    change: discover::Change<K, S>,
    target: &mut Target<S>,
) -> Option<MemberChange<S>> {
    let (key, kind) = match change {
        discover::Change::Insert(key, service) => (key, ChangeKind::Put { service, weight: None }),
        discover::Change::Remove(key) => (key, ChangeKind::Remove),
    };
    let key = key.to_string();
    match BackendId::new(&key) {
        Ok(id) => Some(MemberChange { id, kind }),
        Err(why) => {
            target.skip(&key, why);
            None
        }
    }
}

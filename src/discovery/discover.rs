//! Backends from a `tower::discover::Discover` stream.

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

/// So many changes at most become visible at once.
const MAX_BATCH: usize = 1024;
/// The first pause after an error item, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

impl<S: Clone + Send + Sync + 'static> Backends<S> {
    /// Follows a [`Discover`](tower::discover::Discover) stream, that is a stream of
    /// `Result<tower::discover::Change<K, S>, E>`: the backends that it inserts join, those that it
    /// removes leave.
    ///
    /// The stream's key, as text, is the [id](BackendId) of the backend; one that is not an id is
    /// skipped. A key that is inserted again gives its backend another service: its sessions stay,
    /// and so do its mode, its weight and its limit. An error item leaves everything as it is, and
    /// the stream is polled on after a pause that grows from 10 ms to 1 s until the next change.
    ///
    /// The stream is polled by the returned [`Discovery`] alone, whether there is traffic or not.
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
    /// let feed = backends.follow(ServiceList::new::<http::Request<String>>(vec![serve("x"), serve("y")]));
    /// // Usually: tokio::spawn(feed). This one ends by itself, and its backends stay.
    /// assert!(matches!(feed.await, DiscoveryEnd::Ended));
    /// let ids: Vec<_> = backends.iter().map(|backend| backend.id.to_string()).collect();
    /// assert_eq!(ids, ["0", "1"], "the keys of a list are positions; better name them");
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
    let mut pause = PAUSE.0;
    loop {
        let gathered = target.wait(poll_fn(|cx| gather(discover.as_mut(), cx))).await;
        let Some(Gathered { changes, then }) = gathered else {
            return DiscoveryEnd::PoolGone;
        };
        if !changes.is_empty() {
            (last_error, pause) = (None, PAUSE.0);
            let changes = changes.into_iter().filter_map(|change| translate(change, &mut target));
            let changes = changes.collect();
            target.update(changes);
        }
        match then {
            Then::More => tokio::task::yield_now().await,
            Then::Failed(error) => {
                target.failed(&error);
                last_error = Some(error);
                if target.wait(sleep(pause)).await.is_none() {
                    return DiscoveryEnd::PoolGone;
                }
                pause = (pause * 2).min(PAUSE.1);
            }
            Then::End => {
                return match (target.finish().await, last_error) {
                    (None, _) => DiscoveryEnd::PoolGone,
                    (Some(()), Some(error)) => DiscoveryEnd::Failed(error),
                    (Some(()), None) => DiscoveryEnd::Ended,
                };
            }
        }
    }
}

/// What a stream had to say at once.
struct Gathered<K, S> {
    changes: Vec<discover::Change<K, S>>,
    then: Then,
}

enum Then {
    More,
    Failed(BoxError),
    End,
}

fn gather<D>(mut discover: Pin<&mut D>, cx: &mut Context<'_>) -> Poll<Gathered<D::Key, D::Service>>
where
    D: discover::Discover,
    D::Error: Into<BoxError>,
{
    let mut changes = Vec::new();
    let then = loop {
        if changes.len() == MAX_BATCH {
            break Then::More;
        }
        match discover.as_mut().poll_discover(cx) {
            Poll::Ready(Some(Ok(change))) => changes.push(change),
            Poll::Ready(Some(Err(error))) => break Then::Failed(error.into()),
            Poll::Ready(None) => break Then::End,
            Poll::Pending if changes.is_empty() => return Poll::Pending,
            Poll::Pending => break Then::More,
        }
    };
    Poll::Ready(Gathered { changes, then })
}

fn translate<K: Display, S: Clone>(
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

//! `Report`: the metrics of some pools at one time.

#[cfg(feature = "proxy")]
use super::connections::{self, BackendConnections};
use super::{
    facade::Facade,
    own_metric::OwnMetric,
    pool_view::PoolView,
    stores::{self, StoreView},
    text::{Format, Text},
    visit::{Sink, visit},
};
#[cfg(feature = "redis")]
use crate::store::RedisStore;
#[cfg(feature = "proxy")]
use crate::upstream::http::Upstream;
use crate::{pool::Backends, store::MemoryStore};

/// The media type of [`Report::prometheus`].
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The media type of [`Report::open_metrics`].
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one pool in Prometheus' text format.
///
/// Pools whose metrics are in one text need different [names](Backends::named); [`Report`] writes several of
/// them.
pub fn render<S>(backends: &Backends<S>) -> String {
    Report::new().pool(backends).prometheus()
}

/// The metrics of some pools, and of the application.
///
/// # Example
///
/// ```
/// use tower_sticky::{Backends, metrics::Report};
///
/// let shops: Backends<()> = Backends::named("shops");
/// let apis: Backends<()> = Backends::named("apis");
/// let text = Report::new().pool(&shops).pool(&apis).open_metrics();
/// assert!(text.contains("sticky_backends{pool=\"apis\"} 0\n"));
/// ```
#[derive(Debug, Default)]
#[must_use = "a report does nothing until it is written"]
pub struct Report {
    pools: Vec<PoolView>,
    #[cfg(feature = "proxy")]
    connections: Vec<BackendConnections>,
    stores: Vec<StoreView>,
    own: Vec<OwnMetric>,
}

impl Report {
    /// A report without pools.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pool, with the members that it has now.
    pub fn pool<S>(mut self, backends: &Backends<S>) -> Self {
        self.pools.push(PoolView::new(backends));
        self
    }

    /// Adds the connections to the backends of a pool.
    #[cfg(feature = "proxy")]
    #[cfg_attr(docsrs, doc(cfg(feature = "proxy")))]
    pub fn connections(mut self, backends: &Backends<Upstream>) -> Self {
        self.connections.extend(BackendConnections::of(backends));
        self
    }

    /// Adds the learned sessions of a store. `name` tells stores apart.
    pub fn memory_store(mut self, name: &str, store: &MemoryStore) -> Self {
        self.stores.push(StoreView::memory(name, store));
        self
    }

    /// Adds the learned sessions of a store on Redis, and its calls. `name` tells stores apart.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_store(mut self, name: &str, store: &RedisStore) -> Self {
        self.stores.push(StoreView::redis(name, store));
        self
    }

    /// Adds a metric of the application's own.
    pub fn own(mut self, metric: OwnMetric) -> Self {
        self.own.push(metric);
        self
    }

    /// The text format that Prometheus and most other collectors read; its media type is [`PROMETHEUS`].
    pub fn prometheus(&self) -> String {
        self.text(Format::Prometheus)
    }

    /// The text format OpenMetrics 1.0; its media type is [`OPEN_METRICS`].
    pub fn open_metrics(&self) -> String {
        self.text(Format::OpenMetrics)
    }

    /// Hands the totals to the recorder that the application has installed for the `metrics` crate. Without
    /// one this does nothing.
    ///
    /// Counters are set to their totals, and the buckets, sum and count of a histogram are handed over as
    /// `…_bucket`, `…_sum` (a gauge, in seconds) and `…_count`, because the facade cannot take buckets. Call it
    /// regularly, for example once a second. The series of a backend that has left stay in the recorder until
    /// the recorder lets them expire.
    ///
    /// # Example
    ///
    /// ```
    /// # async fn run(backends: tower_sticky::Backends<()>) {
    /// use std::time::Duration;
    /// use tower_sticky::metrics::Report;
    ///
    /// tokio::spawn(async move {
    ///     let mut interval = tokio::time::interval(Duration::from_secs(1));
    ///     loop {
    ///         interval.tick().await;
    ///         Report::new().pool(&backends).publish();
    ///     }
    /// });
    /// # }
    /// ```
    pub fn publish(&self) {
        ::metrics::with_recorder(|recorder| self.visit(&mut Facade::new(recorder)));
    }

    fn text(&self, format: Format) -> String {
        let mut text = Text::new(format);
        self.visit(&mut text);
        text.finish()
    }

    fn visit(&self, sink: &mut impl Sink) {
        visit(&self.pools, sink);
        #[cfg(feature = "proxy")]
        connections::visit(&self.connections, sink);
        stores::visit(&self.stores, sink);
        self.own.iter().for_each(|metric| metric.visit(sink));
    }
}

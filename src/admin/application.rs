//! `Application`: what the application that mounts the admin interface adds to it.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    error::ConfigError,
    metrics::Report,
    outcome::Failover,
    pool::{Mode, PoolError},
};

/// What the application that mounts the admin interface adds to it. All methods have defaults.
///
/// The methods are called while a request of the admin interface is handled, and must not block for long.
///
/// # Example
///
/// ```
/// use tower_sticky::{BackendOptions, Backends, PoolError, admin::{Application, NewBackend}};
///
/// # #[derive(Clone)]
/// # struct Node(String);
/// struct Nodes(Backends<Node>);
///
/// impl Application for Nodes {
///     fn put(&self, id: &str, new: &NewBackend) -> Result<bool, PoolError> {
///         let node = Node(new.url.clone());
///         if self.0.get(id).is_some() {
///             drop(self.0.replace(id, node)?);
///             return Ok(false);
///         }
///         self.0.insert_with(id, node, BackendOptions::new().weight(new.weight))?;
///         Ok(true)
///     }
/// }
/// ```
pub trait Application: Send + Sync + 'static {
    /// What is shown of a backend beside what its pool knows.
    fn about(&self, _id: &str) -> About {
        About::default()
    }

    /// Adds a backend, or changes the address and the options of an existing one. Returns whether it is new.
    ///
    /// # Errors
    ///
    /// When it is refused. By default each is, as the router does not know how to make a service.
    fn put(&self, _id: &str, _new: &NewBackend) -> Result<bool, PoolError> {
        Err(PoolError::Config(ConfigError::new(
            "this application adds no backends here; add them where they are configured",
        )))
    }

    /// Removes a backend, for an application that has further state of it. `None`, the default, when the
    /// router shall remove it from the pool.
    fn remove(&self, _id: &str) -> Option<Result<(), PoolError>> {
        None
    }

    /// The configuration in force, as keys and values. Secrets are to be left out: it is shown as it is.
    fn configuration(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Adds metrics of the application to those of the pool, for `GET /metrics`.
    fn report(&self, report: Report) -> Report {
        report
    }

    /// The operator has changed a backend by the admin interface, for an application that remembers this.
    fn changed(&self, _id: &str, _change: &Change) {}
}

/// The application that adds nothing.
impl Application for () {}

/// What an application knows of a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// Where it is.
    pub url: Option<String>,
    /// Whether its certificate is not verified.
    pub insecure: bool,
}

impl About {
    /// A backend at this URL.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), insecure: false }
    }

    /// Sets whether its certificate is not verified.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }
}

/// A backend to add: the body of `PUT /backends/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewBackend {
    /// Where it is.
    pub url: String,
    /// Its share of new sessions. Default 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// The most requests in flight; 0, the default, for no limit.
    #[serde(default)]
    pub max_connections: usize,
    /// Whether it takes sessions only when no other backend is up.
    #[serde(default)]
    pub backup: bool,
    /// Its zone.
    #[serde(default, deserialize_with = "zone")]
    pub zone: Option<String>,
}

const fn one() -> u32 {
    1
}

fn zone<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let zone = Option::<String>::deserialize(deserializer)?;
    if zone.as_deref() == Some("") {
        return Err(serde::de::Error::custom(
            "the zone is \"\"; expected a name such as \"eu-1\", or leave it out",
        ));
    }
    Ok(zone)
}

/// A change of a backend by the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Its mode was set.
    Mode(Mode),
    /// A drain was begun.
    #[non_exhaustive]
    Drain {
        /// How long it may take.
        deadline: Option<Duration>,
        /// What happens to sessions after the deadline.
        then: Failover,
        /// How many sessions a second leave it.
        hand_over: Option<u32>,
    },
    /// Its weight was set.
    Weight(u32),
    /// The limit of its requests in flight was set.
    Limit(usize),
    /// It was removed.
    Removed,
}

//! `Access`: who may call the admin interface.

use std::{fmt, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;

/// Who may call an admin interface. Clones are handles of the same rules, which may be changed while it is served:
/// see [`AdminRouter::access`](super::AdminRouter::access).
#[derive(Clone, Default)]
pub struct Access(Arc<ArcSwap<Rules>>);

/// The rules in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) token: Option<String>,
    /// Further hosts by which it is reached: names in lower case and IP addresses.
    pub(super) hosts: Vec<String>,
    /// Whether the metrics are read without the token.
    pub(super) metrics_open: bool,
    /// Whether clients on other machines may call without a token.
    pub(super) open: bool,
    /// The address that it is served on.
    pub(super) address: Option<SocketAddr>,
}

impl Access {
    /// Rules by which only clients on this machine may call.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the token that each call needs; `None` for no token. An empty one counts as none.
    pub fn set_token(&self, token: Option<&str>) {
        let token = token.filter(|token| !token.is_empty()).map(str::to_owned);
        self.change(|rules| rules.token.clone_from(&token));
    }

    /// Sets further names and IP addresses by which it is reached.
    pub fn set_hosts<H: Into<String>>(&self, hosts: impl IntoIterator<Item = H>) {
        let hosts: Vec<_> = hosts.into_iter().map(|host| host.into().to_lowercase()).collect();
        self.change(|rules| rules.hosts.clone_from(&hosts));
    }

    /// Sets whether `GET /metrics` needs no token.
    pub fn set_metrics_open(&self, open: bool) {
        self.change(|rules| rules.metrics_open = open);
    }

    pub(super) fn set_open(&self) {
        self.change(|rules| rules.open = true);
    }

    pub(super) fn set_address(&self, address: SocketAddr) {
        self.change(|rules| rules.address = Some(address));
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.0.load_full()
    }

    fn change(&self, change: impl Fn(&mut Rules)) {
        self.0.rcu(|rules| {
            let mut rules = Rules::clone(rules);
            change(&mut rules);
            rules
        });
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules();
        f.debug_struct("Access")
            .field("has_token", &rules.token.is_some())
            .field("hosts", &rules.hosts)
            .finish_non_exhaustive()
    }
}

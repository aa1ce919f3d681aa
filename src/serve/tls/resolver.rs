//! Chooses the certificate of a connection by the server name that the client asks for.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::certificate::Loaded;

/// The certificates of a listener. They are replaced in here, so that the configuration of TLS stays the same, and
/// with it the session tickets.
#[derive(Debug)]
pub(super) struct Resolver {
    table: ArcSwap<Table>,
    strict: bool,
}

/// The certificates by name.
#[derive(Debug, Default)]
struct Table {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the `*` of a wildcard: `.example.org`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl Table {
    /// Of several certificates for a name the first one counts.
    fn new<'a>(certificates: impl Iterator<Item = &'a Loaded>) -> Self {
        let mut table = Self::default();
        for certificate in certificates {
            table.first.get_or_insert_with(|| certificate.key.clone());
            for name in &certificate.names {
                let (names, name) = match name.strip_prefix('*') {
                    Some(rest) if rest.starts_with('.') => (&mut table.wildcard, rest),
                    _ => (&mut table.exact, &**name),
                };
                names.entry(name.to_owned()).or_insert_with(|| certificate.key.clone());
            }
        }
        table
    }

    /// The certificate for a name: one with exactly this name, or with `*` for the first label.
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || {
            let dot = name.find('.').filter(|dot| *dot > 0)?;
            self.wildcard.get(&name[dot..])
        };
        self.exact.get(&name).or_else(wildcard)
    }
}

impl Resolver {
    pub(super) fn new<'a>(certificates: impl Iterator<Item = &'a Loaded>, strict: bool) -> Self {
        Self { table: ArcSwap::from_pointee(Table::new(certificates)), strict }
    }

    pub(super) fn replace<'a>(&self, certificates: impl Iterator<Item = &'a Loaded>) {
        self.table.store(Arc::new(Table::new(certificates)));
    }

    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let found = name.and_then(|name| table.find(name));
        let first = if self.strict { None } else { table.first.as_ref() };
        found.or(first).cloned()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

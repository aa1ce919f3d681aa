//! The certificates of servers and clients.

use rcgen::{DistinguishedName, DnType};

use crate::authority::{Authority, Identity};

impl Authority {
    /// For a server of these names, or a client whose common name is the first one.
    pub(crate) fn sign(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |params| {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "Shop");
            params.distinguished_name.push(DnType::CommonName, names[0]);
        })
    }
}

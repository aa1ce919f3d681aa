//! The certificates of servers and clients.

use rcgen::{DistinguishedName, DnType};

use crate::{
    authority::{Authority, Identity},
    files::Files,
};

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

impl Files {
    /// Writes both files of an identity, and returns their paths.
    pub(crate) fn identity(&self, identity: &Identity) -> (String, String) {
        (self.write("site.pem", &identity.cert), self.write("site.key", &identity.key))
    }
}

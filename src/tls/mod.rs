//! TLS for both sides: PEM files, root certificates, and the reasons of failed handshakes in plain words.

mod pem;
mod provider;
#[cfg(feature = "proxy")]
mod reason;
#[cfg(feature = "proxy")]
mod roots;
#[cfg(any(feature = "proxy", feature = "serve"))]
mod version;

#[cfg(feature = "proxy")]
pub(crate) use self::reason::{is_protocol_refused, reason_in};
#[cfg(feature = "proxy")]
pub use self::roots::Roots;
#[cfg(any(feature = "proxy", feature = "serve"))]
pub use self::version::TlsVersion;
pub(crate) use self::{
    pem::{certificates, private_key},
    provider::provider,
};

//! Service discovery: adds and removes the backends of a pool at run time.
//!
//! - [`Backends::follow`](crate::Backends::follow) follows a `tower::discover::Discover` stream
//!   (feature `discover`).
//! - [`Backends::follow_dns`](crate::Backends::follow_dns) follows [DNS records](Dns) (feature `dns`).
//! - For any other source, use the methods of [`Backends`](crate::Backends).
//!
//! Rules for both:
//!
//! - **Sessions belong to the id.** A backend that is discovered again with the same id, for example at a
//!   new address, keeps its sessions, counters, mode and limit, while its health is reset. Requests in
//!   flight finish at the old address.
//! - **A failure keeps the known backends.** No backend is removed because a look-up has failed.
//! - **A discovery changes only backends that it has added.** A backend that was inserted by hand, or by
//!   another discovery, stays as it is: its id is skipped and a warning logged. Backends stay when their
//!   discovery ends, and the next discovery that finds them takes them over. With
//!   [`DiscoveryHandle::withdraw`] they leave with it. The
//!   [local node](crate::StickyLayer::local) may be among the backends that are found; it goes on serving
//!   its own sessions.
//! - **The pool is held weakly**: a discovery ends when the last handle of its pool is dropped.
//!
//! To take a discovered backend out of service, disable it
//! ([`set_mode`](crate::Backends::set_mode)). If it is removed by hand, it is added again as soon as it is
//! found again.

#[cfg(feature = "discover")]
mod discover;
#[cfg(feature = "dns")]
mod dns;
mod future;
mod on_removed;
mod report;
mod target;

#[cfg(feature = "dns")]
pub use self::dns::Dns;
#[cfg(all(feature = "dns", fuzzing))]
pub(crate) use self::dns::{Answer, Records};
pub use self::{
    future::Discovery,
    on_removed::OnRemoved,
    report::{DiscoveryEnd, DiscoveryHandle, DiscoveryStats},
};
/// The resolver that [`Dns::resolver`] takes.
#[cfg(feature = "dns")]
pub use hickory_resolver;

use self::target::Target;

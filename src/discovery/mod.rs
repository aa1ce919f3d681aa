//! Feeds: the backends of a pool, brought and taken at run time by something that knows them.
//!
//! - [`Backends::follow`](crate::Backends::follow) follows a `tower::discover::Discover` stream
//!   (feature `discover`).
//! - [`Backends::follow_dns`](crate::Backends::follow_dns) follows the [domain name system](Dns)
//!   (feature `dns`).
//! - The handle, [`Backends`](crate::Backends), serves every other way.
//!
//! What holds for all of them:
//!
//! - **Sessions belong to the id.** A backend that is announced again under the same id, for example
//!   at a new address, keeps its sessions, its counters, its mode and its limit; what was known of its
//!   health is forgotten. Requests under way finish where they are.
//! - **A feed that fails keeps what is known.** Nothing is removed because something could not be
//!   found out.
//! - **A feed touches only what it brought.** A backend inserted by hand, or by another feed, stays
//!   as it is: the feed skips that id and says so. Backends of a feed that has ended stay, and the
//!   next feed that names them adopts them. The [local node](crate::StickyLayer::local) may well be
//!   among the backends that a feed names; it goes on serving itself.
//! - **The pool is held weakly**: with its last handle, its feeds end.
//!
//! To take a backend out for a while that a feed goes on naming, disable it
//! ([`set_mode`](crate::Backends::set_mode)): removed by hand, it comes back as soon as the feed
//! names it again.

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
pub use self::{
    future::Discovery,
    on_removed::OnRemoved,
    report::{DiscoveryEnd, DiscoveryHandle, DiscoveryStats},
};
/// The resolver that [`Dns::resolver`] takes.
#[cfg(feature = "dns")]
pub use hickory_resolver;

use self::target::Target;

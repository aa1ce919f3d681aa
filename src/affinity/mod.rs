//! Affinities: how a session is recognised, and how its pin is remembered.
//!
//! | method | how it works | its limits |
//! |---|---|---|
//! | [`Cookie::sealed`] | an encrypted and authenticated token in a cookie | the client must keep cookies |
//! | [`Cookie::plain`] | the backend's id in a cookie | as above; clients can read it, and can choose a backend |
//! | [`Header`] | the same tokens in a response and request header | the client must send it back |
//! | [`Key`] | a hash of a value of the request chooses the backend: no state | best effort: a change of the pool moves some sessions; a session moves when its key changes |
//! | [`ClientIp`] | the same with the client's address | a session moves when the address changes; all clients behind one address go to one backend |
//! | [`Envelope`] | the application's own session id, sealed together with the pin: the client has one opaque value, the application receives its own id | the application must issue an id; the sealed value is longer |
//! | [`Learned`] | the application's own session id, remembered in a table | a table per gateway, lost with the process; gateways agree only by a shared store |
//! | [`Route`] | the application puts the name of its backend into its own session id: in a cookie, a header, the query or the path | a session cannot move: while its backend is out, another one serves it |
//! | [`Chain`] | several of them in order | |

mod bound;
mod cache_control;
mod chain;
pub(crate) mod client_ip;
mod commit;
mod cookie;
mod envelope;
mod found;
mod hashing;
mod header;
mod id_source;
mod key;
mod learned;
mod path_template;
mod pending_lookup;
mod reading;
mod request;
mod request_state;
mod response_cookie;
mod route;
mod token_codec;
mod token_options;
mod traits;

pub use self::traits::Affinity;
pub(crate) use self::{
    bound::BoundAffinity,
    commit::{Change, Commit, PlannedPin},
    found::{Findings, Found},
    hashing::{Hashing, Owner},
    header::header_name,
    pending_lookup::PendingLookup,
    reading::{Fallback, KeyRole, Origin, Reading, Strip},
    request::ReadContext,
    request_state::RequestState,
};
pub use self::{
    chain::Chain,
    client_ip::{ClientIp, ForwardedBy},
    cookie::{
        Cookie,
        options::{Conflict, SameSite, Secure},
    },
    envelope::Envelope,
    found::FindingKind,
    hashing::Table,
    header::Header,
    key::Key,
    learned::Learned,
    request::Head,
    route::Route,
};
#[cfg(fuzzing)]
pub(crate) use self::{
    client_ip::{ClientAddress, Forwarding},
    cookie::parse,
};

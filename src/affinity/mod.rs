//! How a session is recognised, and how its pin is remembered.
//!
//! | method | how it works | its limits |
//! |---|---|---|
//! | [`Cookie::sealed`] | a token in a cookie that nobody can read, forge or use elsewhere | the client must keep cookies |
//! | [`Cookie::plain`] | the backend's id in a cookie | as above; readable, and anyone can choose a backend |
//! | [`Header`] | the same tokens in a header, both ways | the client must send it back |
//! | [`Key`] | a hash of something in the request chooses the backend: no state | best effort: a change of the pool moves those whose choice it was; whoever changes the key moves |
//! | [`ClientIp`] | the same with the client's address | breaks when it changes; everybody behind one address is one session |
//! | [`Envelope`] | the application's own session id, sealed together with the pin: the client has one opaque value, the application its own id | the application must issue an id; the sealed value is longer |
//! | [`Learned`] | the application's own session id, remembered in a table | a table per gateway, lost with the process; gateways agree only by a shared store |
//! | [`Chain`] | several of them in order | |

mod bound;
mod cache_control;
mod chain;
mod client_ip;
mod commit;
mod cookie;
mod envelope;
mod hashing;
mod header;
mod key;
mod learned;
mod pending_lookup;
mod reading;
mod request;
mod request_state;
mod response_cookie;
mod token_codec;
mod token_options;
mod traits;

pub use self::traits::Affinity;
pub(crate) use self::{
    bound::BoundAffinity,
    commit::{Change, Commit, PlannedPin},
    hashing::{Hashing, Owner},
    header::header_name,
    pending_lookup::PendingLookup,
    reading::{Fallback, Origin, Reading},
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
    hashing::Table,
    header::Header,
    key::Key,
    learned::Learned,
    request::Head,
};

//! Where the application puts its id.

#[derive(Debug, Clone)]
pub(super) enum Carrier<C, H> {
    Cookie(C),
    Header(H),
}

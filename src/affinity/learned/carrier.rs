//! The carrier of the application's id: a cookie or a header.

#[derive(Debug, Clone)]
pub(super) enum Carrier<C, H> {
    Cookie(C),
    Header(H),
}

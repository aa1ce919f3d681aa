//! What the fuzz targets and the measurement of times call directly. Only with `--cfg fuzzing`, and no part of the
//! public interface.

mod address;
mod cookies;
#[cfg(feature = "dns")]
mod dns;
mod reader;
mod tokens;
mod violations;

#[cfg(feature = "dns")]
pub use self::dns::service_backends;
pub use self::{
    address::client_address,
    cookies::{cookie_values, edit_cookies, remove_cookies},
    reader::Reader,
    tokens::{Carrier, Content, Token, route_code},
    violations::violations,
};

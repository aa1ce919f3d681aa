//! `[limits]`, as far as it is about the HTTP of clients.

use super::{Error, Size, file, or, positive};
use crate::server::{Http2Limits, RequestLimits, ServerLimits};

/// The smallest buffer that hyper can work with.
const LEAST_HEADER_BYTES: u64 = 512;

/// What one client may do.
pub(super) fn server_limits(limits: &file::Limits) -> Result<ServerLimits, Error> {
    let default = ServerLimits::default();
    let request = request_limits(limits)?;
    let write_timeout = positive("limits.write_timeout", limits.write_timeout, 60_000)?;
    let tcp_user_timeout = positive("limits.tcp_user_timeout", limits.tcp_user_timeout, 75_000)?;
    if tcp_user_timeout <= write_timeout {
        return Err(Error::new(format!(
            "limits.tcp_user_timeout = {tcp_user_timeout:?} does not exceed limits.write_timeout = \
             {write_timeout:?}, so that the system would end connections first; use a longer one"
        )));
    }
    Ok(ServerLimits {
        header_timeout: positive("limits.header_timeout", limits.header_timeout, 5000)?,
        idle_timeout: positive("limits.idle_timeout", limits.idle_timeout, 60_000)?,
        write_timeout,
        tcp_user_timeout,
        request,
        http2: http2_limits(limits)?,
        linger: or(limits.linger, default.linger),
        linger_bytes: limits.linger_bytes.map_or(default.linger_bytes, |Size(bytes)| bytes),
    })
}

fn request_limits(limits: &file::Limits) -> Result<RequestLimits, Error> {
    let default = RequestLimits::default();
    let size = |key, given, default, least| {
        let bytes = given_or(given, default);
        match bytes {
            bytes if bytes < least => Err(Error::new(format!(
                "limits.{key} = {bytes} bytes is less than a request needs; use at least {least}"
            ))),
            // HTTP/2 has 32 bits for it.
            bytes if bytes > 1 << 30 => Err(Error::new(format!(
                "limits.{key} = {bytes} bytes is too much; use at most 1GiB"
            ))),
            bytes => Ok(bytes as usize),
        }
    };
    let headers = limits.headers.unwrap_or(default.headers);
    if !(1..=10_000).contains(&headers) {
        return Err(Error::new(format!(
            "limits.headers = {headers} is not a sensible number of header fields; use 1 to 10000"
        )));
    }
    Ok(RequestLimits {
        header_bytes: size(
            "header_bytes",
            limits.header_bytes,
            default.header_bytes,
            LEAST_HEADER_BYTES,
        )?,
        headers,
        target_bytes: size("target_bytes", limits.target_bytes, default.target_bytes, 1)?,
        body_bytes: match limits.body_bytes {
            None | Some(Size(0)) => u64::MAX,
            Some(Size(bytes)) => bytes,
        },
    })
}

fn given_or(given: Option<Size>, default: usize) -> u64 {
    given.map_or(default as u64, |Size(bytes)| bytes)
}

fn http2_limits(limits: &file::Limits) -> Result<Http2Limits, Error> {
    let default = Http2Limits::default();
    let streams = limits.h2_streams.unwrap_or(default.streams);
    if streams == 0 {
        return Err(Error::new(
            "limits.h2_streams = 0 lets no HTTP/2 client send a request; use at least 1",
        ));
    }
    let window = given_or(limits.h2_window, default.window as usize);
    // RFC 9113, section 6.9.1.
    let window = u32::try_from(window).ok().filter(|window| (1024..1 << 31).contains(window));
    let window = window.ok_or_else(|| {
        Error::new("limits.h2_window is not a window of HTTP/2; use 1KiB to 2147483647 bytes")
    })?;
    Ok(Http2Limits {
        streams,
        window,
        ping: positive("limits.h2_ping", limits.h2_ping, 20_000)?,
        ping_timeout: positive("limits.h2_ping_timeout", limits.h2_ping_timeout, 10_000)?,
    })
}

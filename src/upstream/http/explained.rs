//! An error of hyper with its cause, which hyper's own text leaves out.

use std::{error::Error, fmt};

use crate::error::chain;

/// An error of a connection. Its text is that of hyper, and that of the first cause.
#[derive(Debug)]
pub(super) struct Explained(pub(super) hyper::Error);

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        match chain(&self.0).skip(1).last() {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl Error for Explained {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Empty;
    use hyper_util::rt::TokioIo;

    use super::*;

    #[tokio::test]
    async fn the_error_of_hyper_is_its_source() {
        let (client, server) = tokio::io::duplex(1024);
        let http1 = hyper::client::conn::http1::handshake(TokioIo::new(client));
        let (mut sender, driver) = http1.await.unwrap();
        drop((server, driver));
        let error = sender.send_request(Request::new(Empty::<Bytes>::new())).await.unwrap_err();
        let (text, error) = (error.to_string(), Explained(error));
        assert!(error.to_string().starts_with(&text), "{error}");
        let source = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
        assert_eq!(source.unwrap().to_string(), text);
    }
}

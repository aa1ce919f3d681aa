//! A connection, of whatever kind.

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind,
    aio::MultiplexedConnection, cluster_async::ClusterConnection,
};

use crate::redis::RedisTarget;

/// One connection, shared by all calls.
pub(super) enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisTarget {
    pub(super) async fn connect(&mut self) -> RedisResult<Link> {
        self.prepare();
        // Our own time budget counts, and that of the whole attempt.
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        Ok(match self {
            Self::Single(client) => {
                Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Self::Sentinel(client) => {
                Link::Single(client.get_async_connection_with_config(&config).await?)
            }
            Self::Cluster(client) => Link::Cluster(client.get_async_connection().await?),
        })
    }
}

impl Link {
    pub(super) async fn send(&self, cmd: &Cmd) -> RedisResult<Option<Vec<u8>>> {
        match self {
            Self::Single(connection) => cmd.query_async(&mut connection.clone()).await,
            Self::Cluster(connection) => cmd.query_async(&mut connection.clone()).await,
        }
    }

    /// The same for a command whose answer says nothing.
    pub(super) async fn send_only(&self, cmd: &Cmd) -> RedisResult<()> {
        match self {
            Self::Single(connection) => cmd.exec_async(&mut connection.clone()).await,
            Self::Cluster(connection) => cmd.exec_async(&mut connection.clone()).await,
        }
    }

    /// Whether nothing will come over this connection any more. That of a cluster mends itself.
    pub(super) fn is_broken_by(&self, error: &RedisError) -> bool {
        let read_only = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        matches!(self, Self::Single(_)) && (read_only || error.is_unrecoverable_error())
    }
}

/// An error without what could be a secret: neither addresses nor arguments are in it.
pub(super) fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{} ({code})", error.category()),
        None => format!("{}: {error}", error.category()),
    }
}

//! A connection to one server or to a cluster.

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind,
    aio::MultiplexedConnection, cluster_async::ClusterConnection,
};

use super::script::{Arguments, Commands};
use crate::redis::RedisTarget;

/// One connection, shared by all calls.
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisTarget {
    pub(super) async fn connect(&mut self) -> RedisResult<Connection> {
        self.prepare();
        // The time budget of the call, or that of the whole attempt, applies instead.
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        Ok(match self {
            Self::Single(client) => Connection::Single(
                client.get_multiplexed_async_connection_with_config(&config).await?,
            ),
            Self::Sentinel(client) => {
                Connection::Single(client.get_async_connection_with_config(&config).await?)
            }
            Self::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        })
    }
}

impl Connection {
    /// Runs the script, by its hash if Redis has loaded it.
    pub(super) async fn run_script(
        &self,
        commands: &Commands,
        arguments: &Arguments,
    ) -> RedisResult<Option<Vec<u8>>> {
        match self.send(&commands.evalsha(arguments)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.send(&commands.eval(arguments)).await
            }
            result => result,
        }
    }

    pub(super) async fn send(&self, cmd: &Cmd) -> RedisResult<Option<Vec<u8>>> {
        match self {
            Self::Single(connection) => cmd.query_async(&mut connection.clone()).await,
            Self::Cluster(connection) => cmd.query_async(&mut connection.clone()).await,
        }
    }

    /// Sends a command and ignores the value of its answer.
    pub(super) async fn send_only(&self, cmd: &Cmd) -> RedisResult<()> {
        match self {
            Self::Single(connection) => cmd.exec_async(&mut connection.clone()).await,
            Self::Cluster(connection) => cmd.exec_async(&mut connection.clone()).await,
        }
    }

    /// Whether the connection cannot be used after this error. That of a cluster reconnects by itself.
    pub(super) fn is_broken_by(&self, error: &RedisError) -> bool {
        let read_only = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        matches!(self, Self::Single(_)) && (read_only || error.is_unrecoverable_error())
    }
}

/// Describes an error without what could be secret, that is, without addresses and arguments.
pub(super) fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{} ({code})", error.category()),
        None => format!("{}: {error}", error.category()),
    }
}

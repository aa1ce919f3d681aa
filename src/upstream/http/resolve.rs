//! Resolvers: how the name of a backend is looked up.

use std::{fmt, future::Future, net::IpAddr, pin::Pin, sync::Arc};

use crate::error::BoxError;

/// Looks up the addresses of a backend's name.
///
/// The default of an [`Upstream`](crate::proxy::Upstream) is the system's resolver (`getaddrinfo`). A closure is
/// a `Resolve`:
///
/// ```
/// use std::net::IpAddr;
/// use tower_sticky::proxy::Upstream;
///
/// let backend = Upstream::new("http://cart.internal:8080")?.resolver(|name: String| async move {
///     match &*name {
///         "cart.internal" => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
///         _ => Err("no such name"),
///     }
/// });
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
///
/// With feature `dns` a `hickory_resolver::TokioResolver` is one, too. Its cache should be off, or its
/// TTLs decide when a new address is seen.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, the preferred one first. An error and an empty list are the same: the
    /// addresses that were found before are used on.
    fn resolve(&self, name: &str) -> impl Future<Output = Result<Vec<IpAddr>, BoxError>> + Send;
}

impl<F, Fut, E> Resolve for F
where
    F: Fn(String) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<IpAddr>, E>> + Send,
    E: Into<BoxError>,
{
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, BoxError> {
        self(name.to_owned()).await.map_err(Into::into)
    }
}

#[cfg(feature = "dns")]
impl Resolve for hickory_resolver::TokioResolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, BoxError> {
        Ok(self.lookup_ip(name).await?.iter().collect())
    }
}

/// The system's resolver.
pub(super) struct System;

impl Resolve for System {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, BoxError> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|addr| addr.ip()).collect())
    }
}

/// Any [`Resolve`].
#[derive(Clone)]
pub(super) struct Resolver(Arc<dyn Erased>);

type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, BoxError>> + Send + 'a>>;

trait Erased: Send + Sync {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a>;
}

impl<R: Resolve> Erased for R {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        Box::pin(Resolve::resolve(self, name))
    }
}

impl Resolver {
    pub(super) fn new(resolve: impl Resolve) -> Self {
        Self(Arc::new(resolve))
    }

    pub(super) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, BoxError> {
        self.0.resolve(name).await
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// An address needs no name server.
    #[tokio::test]
    async fn an_address_is_its_own_name() {
        assert_eq!(Resolver::new(System).resolve("127.0.0.1").await.unwrap(), [ADDRESS]);
    }

    #[cfg(feature = "dns")]
    #[tokio::test]
    async fn name_servers_are_not_asked_for_an_address() {
        let server = std::net::SocketAddr::new(ADDRESS, 1);
        let resolver = crate::util::name_servers::uncached(vec![server]).unwrap();
        assert_eq!(Resolver::new(resolver).resolve("127.0.0.1").await.unwrap(), [ADDRESS]);
    }

    #[tokio::test]
    async fn a_closure_is_a_resolver() {
        let resolver = Resolver::new(|name: String| async move {
            if name == "cart" { Ok(vec![ADDRESS]) } else { Err("no such name") }
        });
        assert_eq!(resolver.resolve("cart").await.unwrap(), [ADDRESS]);
        assert_eq!(resolver.resolve("shop").await.unwrap_err().to_string(), "no such name");
    }
}

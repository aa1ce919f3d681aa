//! `[[listener]]`: where clients connect, and how.

use std::{
    collections::BTreeSet, fs, io, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf,
};

use serde::Deserialize;
use tower_sticky::serve::{self, LocalAddr};

use super::{
    Error,
    listener_tls::{self, TlsSettings},
    words::ProxyProtocol,
};
use crate::sockets::is_at;

/// Where the gateway listens by default.
const DEFAULT: &str = "127.0.0.1:8080";
/// The permissions of a Unix socket by default.
const DEFAULT_MODE: u32 = 0o660;
/// The longest path of a Unix socket, in bytes.
const MAX_PATH: usize = 107;

/// `[[listener]]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Section {
    address: String,
    proxy_protocol: Option<ProxyProtocol>,
    #[serde(default)]
    client_cert_header: bool,
    mode: Option<String>,
    tls: Option<listener_tls::Section>,
}

/// A listener that is checked, and not open yet.
#[derive(Debug, Clone)]
pub(crate) struct ListenerSettings {
    /// What names it in an error: a key of the file or a flag.
    key: String,
    address: Address,
    mode: u32,
    proxy_protocol: serve::ProxyProtocol,
    client_cert_header: bool,
    tls: Option<TlsSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    Unix(PathBuf),
    /// The socket at this position of those that systemd passes.
    Inherited(usize),
}

/// The listeners: that of the flag, those of the file, or the default one. `has_proxies` tells whether there are
/// trusted proxies.
pub(super) fn listeners(
    (flag, listen): (Option<&str>, Option<&str>),
    sections: Vec<Section>,
    has_proxies: bool,
) -> Result<Vec<ListenerSettings>, Error> {
    if listen.is_some() && !sections.is_empty() {
        return Err(Error::of(
            "listen",
            "there are [[listener]] sections, too; move this address into a section of its own, with the \
             key `address`",
        ));
    }
    let sections = sections.into_iter().enumerate();
    let listeners = sections
        .map(|(position, section)| section.checked(&format!("listener[{position}]"), has_proxies))
        .collect::<Result<Vec<_>, _>>()?;
    refuse_repeated(&listeners)?;
    match (flag, listen) {
        (Some(text), _) => Ok(vec![plain("--listen", text)?]),
        (None, Some(text)) => Ok(vec![plain("listen", text)?]),
        (None, None) if listeners.is_empty() => Ok(vec![plain("listen", DEFAULT)?]),
        (None, None) => Ok(listeners),
    }
}

fn refuse_repeated(listeners: &[ListenerSettings]) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for listener in listeners {
        let is_free_port = matches!(&listener.address, Address::Tcp(text) if text.ends_with(":0"));
        if !is_free_port && !seen.insert(&listener.address) {
            let why = "another listener has the same address; use another one";
            return Err(Error::of(&format!("{}.address", listener.key), why));
        }
    }
    Ok(())
}

/// A listener without options.
fn plain(key: &str, text: &str) -> Result<ListenerSettings, Error> {
    if text.parse::<std::net::SocketAddr>().is_err() {
        return Err(Error::new(format!(
            "{key} = {text:?}: not an address; expected IP:PORT, for example {DEFAULT} or [::]:80"
        )));
    }
    Ok(ListenerSettings {
        key: key.to_owned(),
        address: Address::Tcp(text.to_owned()),
        mode: DEFAULT_MODE,
        proxy_protocol: serve::ProxyProtocol::Off,
        client_cert_header: false,
        tls: None,
    })
}

impl Section {
    fn checked(self, key: &str, has_proxies: bool) -> Result<ListenerSettings, Error> {
        let address = Address::parse(&self.address)
            .map_err(|why| Error::new(format!("{key}.address = {:?}: {why}", self.address)))?;
        let is_unix = matches!(address, Address::Unix(_));
        let mode = match self.mode {
            Some(_) if !is_unix => {
                let why = "only a Unix socket has a mode; leave it out";
                return Err(Error::of(&format!("{key}.mode"), why));
            }
            Some(text) => mode(&text).ok_or_else(|| bad_mode(&format!("{key}.mode"), &text))?,
            None => DEFAULT_MODE,
        };
        let proxy_protocol = self.proxy_protocol.map_or(serve::ProxyProtocol::Off, Into::into);
        if proxy_protocol != serve::ProxyProtocol::Off && !is_unix && !has_proxies {
            let why = "nobody may send it without trusted_proxies; name the proxies there";
            return Err(Error::of(&format!("{key}.proxy_protocol"), why));
        }
        let asks_for_certs = self.tls.as_ref().is_some_and(listener_tls::Section::asks_for_certs);
        if self.client_cert_header && !asks_for_certs {
            let why = "clients show no certificates; set tls.client_auth and tls.client_ca, or leave it out";
            return Err(Error::of(&format!("{key}.client_cert_header"), why));
        }
        let tls = self.tls.map(|tls| tls.checked(&format!("{key}.tls"))).transpose()?;
        Ok(ListenerSettings {
            key: format!("{key}.address"),
            address,
            mode,
            proxy_protocol,
            client_cert_header: self.client_cert_header,
            tls,
        })
    }
}

impl Address {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("the path is missing; expected unix:/PATH".to_owned()),
                1..=MAX_PATH if !path.contains('\0') => Ok(Self::Unix(path.into())),
                1..=MAX_PATH => Err("the path has a NUL character".to_owned()),
                length => Err(format!(
                    "the path has {length} bytes; a Unix socket's path has at most {MAX_PATH}"
                )),
            };
        }
        if let Some(index) = text.strip_prefix("fd:") {
            return index.parse().map(Self::Inherited).map_err(|_| {
                "expected the position of a socket that systemd passes, such as fd:0".to_owned()
            });
        }
        let is_address = match text.rsplit_once(':') {
            Some((host, port)) => {
                let is_name = |host: &str| {
                    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                    !host.is_empty() && host.bytes().all(is_allowed)
                };
                let is_ip = text.parse::<std::net::SocketAddr>().is_ok();
                port.parse::<u16>().is_ok() && (is_ip || is_name(host))
            }
            None => false,
        };
        if is_address {
            return Ok(Self::Tcp(text.to_owned()));
        }
        Err("not an address; expected HOST:PORT, such as 0.0.0.0:8443 or [::]:80, or unix:/PATH"
            .to_owned())
    }
}

fn mode(text: &str) -> Option<u32> {
    let is_octal = text.len() <= 4 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal)?;
    (mode <= 0o777).then_some(mode)
}

fn bad_mode(key: &str, text: &str) -> Error {
    Error::new(format!(
        "{key} = {text:?}: not a file mode; expected an octal number of at most \"0777\", such as \"0660\""
    ))
}

impl ListenerSettings {
    /// The address as it is written, which tells listeners apart.
    pub(crate) fn address(&self) -> String {
        match &self.address {
            Address::Tcp(address) => address.clone(),
            Address::Unix(path) => format!("unix:{}", path.display()),
            Address::Inherited(index) => format!("fd:{index}"),
        }
    }

    /// What names it in an error.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The addresses of its name. A Unix socket has none.
    pub(crate) async fn addrs(&self) -> Result<Vec<SocketAddr>, Error> {
        match &self.address {
            Address::Tcp(address) => {
                let found = tokio::net::lookup_host(address.as_str()).await;
                Ok(found.map_err(|error| self.cannot_listen(&error))?.collect())
            }
            Address::Unix(_) | Address::Inherited(_) => Ok(Vec::new()),
        }
    }

    /// Takes the socket for it out of those that were inherited.
    pub(crate) async fn choose(
        &self,
        inherited: &mut [Option<serve::Listener>],
    ) -> Result<Option<serve::Listener>, Error> {
        let addrs: Vec<SocketAddr> = match &self.address {
            Address::Inherited(index) => {
                let socket = inherited.get_mut(*index).and_then(Option::take);
                return socket.map(Some).ok_or_else(|| {
                    Error::new(format!(
                        "{} = \"fd:{index}\": no such socket was passed (LISTEN_FDS); start the gateway with a \
                         socket unit of systemd, or use HOST:PORT",
                        self.key
                    ))
                });
            }
            _ if inherited.iter().any(Option::is_some) => self.addrs().await?,
            Address::Tcp(_) | Address::Unix(_) => Vec::new(),
        };
        let is_ours = |socket: &serve::Listener| match (socket.local_addr(), &self.address) {
            (LocalAddr::Unix(path), Address::Unix(own)) => path == own,
            _ => addrs.iter().any(|addr| is_at(socket, *addr)),
        };
        let mut inherited = inherited.iter_mut();
        Ok(inherited.find(|it| it.as_ref().is_some_and(is_ours)).and_then(Option::take))
    }

    /// Opens the socket.
    pub(crate) async fn open(&self) -> io::Result<serve::Listener> {
        match &self.address {
            Address::Tcp(address) => serve::Listener::bind(address).await,
            Address::Unix(path) => serve::Listener::unix(path, self.mode),
            Address::Inherited(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Gives the file of a Unix socket, which may be open already, its permissions.
    pub(crate) fn set_mode(&self) {
        let Address::Unix(path) = &self.address else { return };
        if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(self.mode)) {
            tracing::error!(%error, path = %path.display(), "the mode of the socket is not set");
        }
    }

    /// The listener with its options.
    pub(crate) fn with_options(&self, listener: serve::Listener) -> serve::Listener {
        let listener = listener.proxy_protocol(self.proxy_protocol);
        listener_tls::apply(listener, self.tls.as_ref(), self.client_cert_header)
    }

    /// Its TLS, to read its certificates again.
    pub(crate) fn tls(&self) -> Option<&TlsSettings> {
        self.tls.as_ref()
    }

    /// Where it is, for people: `https://127.0.0.1:8443` or `unix:/run/gateway.sock`.
    pub(crate) fn url(&self, addr: &LocalAddr) -> String {
        match addr {
            LocalAddr::Tcp(addr) if self.tls.is_some() => format!("https://{addr}"),
            LocalAddr::Tcp(addr) => format!("http://{addr}"),
            other => other.to_string(),
        }
    }

    pub(crate) fn cannot_listen(&self, error: &io::Error) -> Error {
        cannot_listen(&self.key, &self.address(), error)
    }
}

/// The error about a socket that cannot be opened; `key` is a flag or a key of the file.
pub(crate) fn cannot_listen(key: &str, address: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied if address.starts_with("unix:") => {
            "let this user write to the directory, or choose another path"
        }
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs the capability CAP_NET_BIND_SERVICE; give it to the program, or choose \
             a port from 1024"
        }
        io::ErrorKind::NotFound => "create the directory, or choose another path",
        io::ErrorKind::AddrInUse => "stop the program that uses it, or choose another address",
        _ => "choose another address",
    };
    Error::new(format!("{key}: cannot listen on {address}: {error}; {advice}"))
}

//! TLS to backends.

use std::fs;

use tower_sticky::{
    ConfigError,
    proxy::{ClientTls, Roots},
};

use super::{
    connection::{Keys, of},
    units::Time,
};

/// The options that the keys name. Their files are read now.
pub(super) fn options(keys: Keys<'_>) -> Result<ClientTls, ConfigError> {
    let mut tls = ClientTls::new();
    if let Some((list, at)) = keys.get(|keys| keys.ca.as_deref()) {
        tls = tls.roots(roots(&of(at, "ca"), list)?);
    }
    if let Some((cert, key)) = identity(keys)? {
        tls = tls.client_identity(&cert.content, &key.content).map_err(|error| {
            let (cert, key) = (cert.name, key.name);
            ConfigError::new(format!("{cert} and {key}: {error}"))
        })?;
    }
    if let Some((name, at)) = keys.get(|keys| keys.server_name.as_deref()) {
        tls = tls
            .server_name(name)
            .map_err(|error| ConfigError::new(format!("{}: {error}", of(at, "server_name"))))?;
    }
    if let Some((Time(limit), _)) = keys.get(|keys| keys.handshake_timeout) {
        tls = tls.handshake_timeout(limit);
    }
    match keys.get(|keys| keys.verify) {
        Some((false, _)) => Ok(tls.insecure()),
        _ => Ok(tls),
    }
}

fn roots(key: &str, list: &[String]) -> Result<Roots, ConfigError> {
    if list.is_empty() {
        return Err(ConfigError::new(format!(
            "{key} = []: no backend can be verified; expected \"system\" or files of certificates"
        )));
    }
    let mut roots = Roots::new();
    for (position, entry) in list.iter().enumerate() {
        roots = match &**entry {
            "system" => roots.system(),
            path => roots.file(path).map_err(|error| {
                ConfigError::new(format!(
                    "{key}[{position}] = {path:?}: {error}; expected \"system\" or a file of certificates \
                     (PEM)"
                ))
            })?,
        };
    }
    Ok(roots)
}

/// A file, with the key that names it.
struct Pem {
    name: String,
    content: Vec<u8>,
}

fn identity(keys: Keys<'_>) -> Result<Option<(Pem, Pem)>, ConfigError> {
    let cert = keys.get(|keys| keys.client_cert.as_deref());
    let key = keys.get(|keys| keys.client_key.as_deref());
    let alone = |at, key: &str, missing: &str| {
        let name = of(at, key);
        Err(ConfigError::new(format!(
            "{name}: needs {missing}; a certificate and its key belong together"
        )))
    };
    match (cert, key) {
        (None, None) => Ok(None),
        (Some((_, at)), None) => alone(at, "client_cert", "client_key"),
        (None, Some((_, at))) => alone(at, "client_key", "client_cert"),
        (Some((cert, cert_at)), Some((key, key_at))) => {
            Ok(Some((pem(of(cert_at, "client_cert"), cert)?, pem(of(key_at, "client_key"), key)?)))
        }
    }
}

fn pem(name: String, path: &str) -> Result<Pem, ConfigError> {
    match fs::read(path) {
        Ok(content) => Ok(Pem { name, content }),
        Err(error) => {
            Err(ConfigError::new(format!("{name} = {path:?}: the file cannot be read: {error}")))
        }
    }
}

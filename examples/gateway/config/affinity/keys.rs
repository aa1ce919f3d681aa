//! The keys of tokens.

use std::fs;

use tower_sticky::{Key, KeyRing};

use crate::config::{Error, words::Format};

/// The keys of a token, or none for a plain one.
pub(super) fn of_format(
    at: &str,
    format: Format,
    keys: Option<&[String]>,
) -> Result<Option<KeyRing>, Error> {
    match (format, keys) {
        (Format::Plain, None) => Ok(None),
        (Format::Plain, Some(_)) => Err(Error::new(format!(
            "{at}.keys: format = \"plain\" uses no keys; remove them, or use format = \"sealed\""
        ))),
        (Format::Sealed, Some(keys)) => ring(at, keys).map(Some),
        (Format::Sealed, None) => Err(Error::new(format!(
            "{at}.keys: missing, and format = \"sealed\" needs them, because no pin would outlive a \
             restart without; add keys = [\"env:STICKY_KEY\"], with a key as `openssl rand -base64 32` \
             prints it in that variable"
        ))),
    }
}

/// The first seals, all open.
pub(super) fn ring(at: &str, keys: &[String]) -> Result<KeyRing, Error> {
    KeyRing::new(all(at, keys)?).map_err(|error| Error::of(&format!("{at}.keys"), error))
}

/// All keys. An environment variable or a file may hold several, separated by commas or white space.
pub(super) fn all(at: &str, keys: &[String]) -> Result<Vec<Key>, Error> {
    let mut all = Vec::new();
    for (position, source) in keys.iter().enumerate() {
        let wrong = |why: &dyn std::fmt::Display| Error::of(&format!("{at}.keys[{position}]"), why);
        if let Some(variable) = source.strip_prefix("env:") {
            all.extend(Key::all_from_env(variable).map_err(|error| wrong(&error))?);
        } else if let Some(text) = source.strip_prefix("base64:") {
            all.push(Key::from_base64(text).map_err(|error| wrong(&error))?);
        } else if let Some(path) = source.strip_prefix("file:") {
            let text = fs::read_to_string(path)
                .map_err(|error| wrong(&format_args!("{path} cannot be read: {error}")))?;
            let parts = text.split(|c: char| c == ',' || c.is_whitespace());
            let keys: Result<Vec<_>, _> =
                parts.filter(|part| !part.is_empty()).map(Key::from_base64).collect();
            let keys = keys.map_err(|error| wrong(&format_args!("{path}: {error}")))?;
            if keys.is_empty() {
                return Err(wrong(&format_args!(
                    "{path} is empty; write a key as `openssl rand -base64 32` prints it into it"
                )));
            }
            all.extend(keys);
        } else {
            // The value may be a secret, so it is not quoted.
            return Err(wrong(
                &"neither \"env:NAME\", \"file:PATH\" nor \"base64:…\"; name the environment variable or \
                  the file that holds the key, or write the key in base64",
            ));
        }
    }
    Ok(all)
}

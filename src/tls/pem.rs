//! Certificates and private keys in PEM (RFC 7468).

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error, PemObject},
};

use crate::error::ConfigError;

/// All certificates, in their order.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(ConfigError::new(
            "no certificate was found; expected PEM text with \"-----BEGIN CERTIFICATE-----\"",
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong("certificates", &error)),
    }
}

/// The first private key.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, ConfigError> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(Error::NoItemsFound) if is_encrypted(pem) => Err(ConfigError::new(
            "the private key is encrypted, which is not supported; decrypt it, for example with `openssl pkey`",
        )),
        Err(Error::NoItemsFound) => Err(ConfigError::new(
            "no private key was found; expected PEM text with \"-----BEGIN PRIVATE KEY-----\" (PKCS#8), \
             \"RSA PRIVATE KEY\" or \"EC PRIVATE KEY\"",
        )),
        Err(error) => Err(wrong("private key", &error)),
    }
}

fn is_encrypted(pem: &[u8]) -> bool {
    const BEGIN: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";
    memchr::memmem::find(pem, BEGIN).is_some()
}

/// The error does not repeat the text, which may be a key.
fn wrong(what: &str, error: &Error) -> ConfigError {
    let why = match error {
        Error::MissingSectionEnd { .. } => "a section has no end line",
        Error::IllegalSectionStart { .. } => "a section has a malformed begin line",
        Error::Base64Decode(_) => "a section is not base64",
        _ => "it is not PEM",
    };
    ConfigError::new(format!("the {what} cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_keys_are_read() {
        let signed = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (cert, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
        let both = format!("{cert}{key}{cert}");
        assert_eq!(certificates(both.as_bytes()).unwrap().len(), 2);
        assert!(private_key(both.as_bytes()).is_ok());
    }

    #[test]
    fn errors_say_what_is_wrong_and_repeat_nothing() {
        let broken = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0*\n-----END PRIVATE KEY-----\n";
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (pem, why) in [
            ("", "no private key"),
            ("secret", "no private key"),
            (broken, "not base64"),
            (&broken[..40], "no end line"),
            (encrypted, "encrypted"),
        ] {
            let error = private_key(pem.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("c2Vj"), "{pem}: {error}");
        }
        let error = certificates(b"x").unwrap_err().to_string();
        assert!(error.contains("BEGIN CERTIFICATE"), "{error}");
    }
}

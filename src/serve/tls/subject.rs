//! The subject of a client's certificate, as text (RFC 4514).

use std::fmt::Write as _;

use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer as _,
    x509::{AttributeTypeAndValue, X509Name},
};

/// The longest subject that is passed on.
const MAX_SUBJECT: usize = 4 << 10;

/// The element of `X-Forwarded-Client-Cert` for a certificate, in Envoy's format.
pub(super) fn header_value(cert: &CertificateDer<'_>) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("Subject=\"{}\"", subject(cert)?)).ok()
}

/// The subject of a certificate, such as `CN=client,O=Shop`. `None` when it has none, or it is too long.
fn subject(cert: &CertificateDer<'_>) -> Option<String> {
    let (_, cert) = X509Certificate::from_der(cert).ok()?;
    let text = format(cert.subject());
    (!text.is_empty() && text.len() <= MAX_SUBJECT).then_some(text)
}

/// The parts of a name, the last one first.
fn format(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for part in parts.into_iter().rev() {
        for (position, attribute) in part.iter().enumerate() {
            if !text.is_empty() {
                text.push(if position == 0 { ',' } else { '+' });
            }
            append(&mut text, attribute);
        }
    }
    text
}

fn append(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    match oid2abbrev(attribute.attr_type(), oid_registry()) {
        Ok(name) => text.push_str(name),
        Err(_) => text.push_str(&attribute.attr_type().to_id_string()),
    }
    text.push('=');
    match attribute.as_str() {
        Ok(value) => escape(text, value),
        Err(_) => {
            text.push('#');
            for byte in attribute.as_slice() {
                hex(text, *byte);
            }
        }
    }
}

/// Quotation marks, backslashes and control characters become hexadecimal, so that the text can stand within
/// quotation marks.
fn escape(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (position, c) in value.chars().enumerate() {
        match c {
            '"' | '\\' => escape_byte(text, c as u8),
            c if c.is_ascii_control() => escape_byte(text, c as u8),
            ',' | '+' | ';' | '<' | '>' => text.extend(['\\', c]),
            '#' if position == 0 => text.extend(['\\', c]),
            ' ' if position == 0 || position == last => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
}

fn escape_byte(text: &mut String, byte: u8) {
    text.push('\\');
    hex(text, byte);
}

fn hex(text: &mut String, byte: u8) {
    let _ = write!(text, "{byte:02X}");
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn subject_of(parts: &[(DnType, &str)]) -> Option<String> {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        subject(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn subjects_are_text() {
        let parts = [(DnType::OrganizationName, "Shop"), (DnType::CommonName, "client")];
        assert_eq!(subject_of(&parts).unwrap(), "CN=client,O=Shop");
        for (value, text) in [
            ("a,b+c;d", r"CN=a\,b\+c\;d"),
            ("a\",Subject=\"b\\", r"CN=a\22\,Subject=\22b\5C"),
            (" #a\r\n ", r"CN=\ #a\0D\0A\ "),
            ("#a", r"CN=\#a"),
            ("Jürgen", "CN=Jürgen"),
        ] {
            assert_eq!(subject_of(&[(DnType::CommonName, value)]).unwrap(), text);
        }
        assert_eq!(subject_of(&[]), None);
        assert_eq!(subject_of(&[(DnType::CommonName, &"a".repeat(5000))]), None);
    }
}

//! Why a handshake failed, in plain words.

use std::{io, time::Duration};

use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

/// The reason of `error`, if it is one of TLS. "Certificate" is the peer's.
pub(crate) fn reason_in(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<Error>().map(reason)
}

/// Whether the peer has refused all protocols that were offered (ALPN).
pub(crate) fn is_protocol_refused(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    matches!(error, Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

/// The reason of `error`. "Certificate" is the peer's.
pub(crate) fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(alert) => alert_received(*alert),
        Error::InvalidMessage(_) => "the peer does not speak TLS".into(),
        Error::NoCertificatesPresented => "the peer has sent no certificate".into(),
        Error::NoApplicationProtocol => "no application protocol in common (ALPN)".into(),
        Error::PeerIncompatible(why) => {
            format!("no version or algorithm of TLS in common ({why:?})")
        }
        other => format!("TLS failed: {other}"),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            format!("certificate expired {} ago", span(*not_after, *time))
        }
        CertificateError::Expired => "certificate expired".into(),
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("certificate is not valid for another {}", span(*time, *not_before))
        }
        CertificateError::NotValidYet => "certificate is not valid yet".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            match &**presented {
                [] => format!("certificate is for no name (subjectAltName), not {expected:?}"),
                names => {
                    let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
                    format!("certificate is for {}, not {expected:?}", names.join(", "))
                }
            }
        }
        CertificateError::NotValidForName => "certificate is for another name".into(),
        CertificateError::UnknownIssuer => "certificate is signed by an unknown authority".into(),
        CertificateError::BadSignature => {
            "certificate is not signed by the known authority of the same name".into()
        }
        CertificateError::BadEncoding => "certificate is malformed".into(),
        CertificateError::Revoked => "certificate is revoked".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate is for another purpose (extended key usage)".into()
        }
        // Of the errors that rustls has no name for, this one happens: a self-signed certificate of an authority.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "certificate is one of an authority, not of a server".into()
        }
        other => format!("certificate is not valid: {other}"),
    }
}

/// `DnsName("a.test")` as `"a.test"`.
fn quoted(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    format!("{:?}", inner.unwrap_or(name).trim_matches('"'))
}

fn alert_received(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "client certificate required".into()
        }
        AlertDescription::UnknownCA => "client certificate refused: unknown authority".into(),
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "client certificate refused".into()
        }
        AlertDescription::CertificateExpired => "client certificate refused: expired".into(),
        AlertDescription::CertificateRevoked => "client certificate refused: revoked".into(),
        AlertDescription::NoApplicationProtocol => {
            "no application protocol in common (ALPN)".into()
        }
        AlertDescription::ProtocolVersion => "no version of TLS in common".into(),
        AlertDescription::UnrecognisedName => "the peer has no certificate for this name".into(),
        AlertDescription::HandshakeFailure => {
            "the peer refused the handshake: no algorithm in common, or client certificate required"
                .into()
        }
        other => format!("the peer refused the handshake ({other:?})"),
    }
}

/// How long `end` is after `start`, in its largest unit.
fn span(start: UnixTime, end: UnixTime) -> String {
    let seconds =
        Duration::from_secs(end.as_secs()).saturating_sub(Duration::from_secs(start.as_secs()));
    let (number, unit) = match seconds.as_secs() {
        seconds @ 0..60 => (seconds, "second"),
        seconds @ 60..3600 => (seconds / 60, "minute"),
        seconds @ 3600..86_400 => (seconds / 3600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn reasons_are_plain() {
        let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expected = ServerName::try_from("y").unwrap();
        let presented = vec!["DnsName(\"x\")".into(), "IpAddress(10.0.0.1)".into()];
        for (error, text) in [
            (
                CertificateError::ExpiredContext { time: at(4 * 86_400), not_after: at(86_400) },
                "certificate expired 3 days ago",
            ),
            (
                CertificateError::NotValidYetContext { time: at(0), not_before: at(3600) },
                "certificate is not valid for another 1 hour",
            ),
            (
                CertificateError::NotValidForNameContext { expected, presented },
                "certificate is for \"x\", \"10.0.0.1\", not \"y\"",
            ),
            (CertificateError::UnknownIssuer, "certificate is signed by an unknown authority"),
        ] {
            let error = Error::InvalidCertificate(error);
            assert_eq!(reason(&error), text);
            let io = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(reason_in(&io).unwrap(), text);
        }
        assert_eq!(
            reason(&Error::AlertReceived(AlertDescription::CertificateRequired)),
            "client certificate required"
        );
        assert!(reason_in(&io::ErrorKind::BrokenPipe.into()).is_none());
    }
}

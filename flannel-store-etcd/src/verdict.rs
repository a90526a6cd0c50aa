//! What a failed TLS handshake means to the operator. Pure.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

use crate::endpoint::Endpoint;

/// What TLS says about why something failed, wherever in the chain it stands.
pub(crate) fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(tls);
        }
        // An I/O error keeps what it wraps out of the chain, though not what that wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = wrapped.and_then(|wrapped| tls_error(wrapped)) {
            return Some(tls);
        }
        next = error.source();
    }
    None
}

/// Why a handshake with `endpoint` failed, and what to do.
pub(crate) fn of_handshake(error: &Error, endpoint: &Endpoint, shows_certificate: bool) -> String {
    match error {
        Error::InvalidCertificate(problem) => {
            format!("its certificate {}", of_certificate(problem, Some(endpoint)))
        }
        Error::AlertReceived(alert) => of_alert(*alert, shows_certificate),
        Error::InvalidMessage(_) => {
            "it does not speak TLS; write http:// in --etcd-endpoints, or give the server a certificate"
                .to_owned()
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

/// What is wrong with a certificate: the server's where an endpoint is given, ours otherwise.
pub(crate) fn of_certificate(problem: &CertificateError, endpoint: Option<&Endpoint>) -> String {
    use CertificateError as Bad;
    let clocks = "issue a new one, or set the clock of this host";
    match problem {
        Bad::UnknownIssuer => "is not signed by a CA of --etcd-cafile; put the certificate of the CA that \
             signed it into that file"
            .to_owned(),
        Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => without_names(endpoint),
        Bad::NotValidForNameContext { presented, .. } => {
            let names: Vec<String> = presented.iter().map(|name| plain_name(name)).collect();
            let names = names.join(", ");
            let host = endpoint.map_or("this host", |endpoint| &endpoint.host);
            format!(
                "is valid for {names} and not for {host}; name the server so in --etcd-endpoints, or issue \
                 a certificate with {}",
                san(endpoint)
            )
        }
        Bad::NotValidForName => without_names(endpoint),
        Bad::Expired | Bad::ExpiredContext { .. } => format!("has expired; {clocks}"),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => format!("is not valid yet; {clocks}"),
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
            let purpose = if endpoint.is_some() {
                "serverAuth"
            } else {
                "clientAuth"
            };
            format!("is for another purpose; issue one with extendedKeyUsage={purpose}")
        }
        Bad::BadSignature => {
            "has a signature that is not of its CA; put the present certificate of that CA into --etcd-cafile"
                .to_owned()
        }
        Bad::Other(other) if is(other, "UnsupportedCertVersion") => format!(
            "is of X.509 version 1, as `openssl x509 -req` makes it without -extfile; issue one of version 3 \
             with {}",
            san(endpoint)
        ),
        Bad::Other(other) if is(other, "CaUsedAsEndEntity") => format!(
            "is that of a CA, as `openssl req -x509` makes it; sign another with it, with \
             basicConstraints=CA:FALSE and {}",
            san(endpoint)
        ),
        other => format!("cannot be used: {other}"),
    }
}

fn without_names(endpoint: Option<&Endpoint>) -> String {
    format!(
        "names no host in a subject alternative name (the common name does not count); issue one with {}",
        san(endpoint)
    )
}

/// The subject alternative name that an endpoint needs.
fn san(endpoint: Option<&Endpoint>) -> String {
    match endpoint {
        None => "extendedKeyUsage=clientAuth".to_owned(),
        Some(endpoint) if endpoint.address().is_some() => format!("subjectAltName=IP:{}", endpoint.host),
        Some(endpoint) => format!("subjectAltName=DNS:{}", endpoint.host),
    }
}

/// `DnsName("a.example")` and `IpAddress(10.0.0.1)` as people write them.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}

/// webpki's own errors are named by nothing but their text here.
fn is(other: &OtherError, name: &str) -> bool {
    other.0.to_string() == name
}

/// Why a server ends a handshake: in most cases for the sake of our certificate.
fn of_alert(alert: AlertDescription, shows_certificate: bool) -> String {
    use AlertDescription as Alert;
    let ours = matches!(
        alert,
        Alert::BadCertificate
            | Alert::CertificateRequired
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::NoCertificate
            | Alert::DecryptError
    );
    match (ours, shows_certificate) {
        (true, false) => {
            "it wants a client certificate; give one with --etcd-certfile and --etcd-keyfile".to_owned()
        }
        (true, true) => format!(
            "it refuses the client certificate of --etcd-certfile ({alert:?}); give one that its CA has signed, \
             that has not expired, and that is for extendedKeyUsage=clientAuth"
        ),
        (false, _) => format!("it ended the TLS handshake ({alert:?})"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use thiserror::Error as ThisError;

    use super::*;

    #[derive(Debug, ThisError)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    fn endpoint(host: &str) -> Endpoint {
        Endpoint::parse(&format!("https://{host}:2379"), true).unwrap()
    }

    #[test]
    fn what_tls_says_is_found_wherever_it_stands() {
        let refused = || Error::AlertReceived(AlertDescription::BadCertificate);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, refused());
        let twice = io::Error::other(Outer(io::Error::other(refused())));
        for error in [
            &refused() as &(dyn StdError + 'static),
            &wrapped,
            &Outer(io::Error::other(refused())),
            &twice,
        ] {
            assert_eq!(tls_error(error), Some(&refused()), "{error:?}");
        }
        assert_eq!(tls_error(&io::Error::from(io::ErrorKind::BrokenPipe)), None);
    }

    #[test]
    fn a_server_is_told_which_name_its_certificate_needs() {
        let error = Error::InvalidCertificate(CertificateError::NotValidForName);
        for (host, name) in [
            ("10.0.0.1", "IP:10.0.0.1"),
            ("[fd00::1]", "IP:fd00::1"),
            ("a.example", "DNS:a.example"),
        ] {
            let text = of_handshake(&error, &endpoint(host), false);
            assert!(text.contains(&format!("subjectAltName={name}")), "{text}");
        }
    }

    #[test]
    fn an_alert_about_certificates_is_about_ours() {
        let says = |alert, shows| of_handshake(&Error::AlertReceived(alert), &endpoint("a"), shows);
        let missing = says(AlertDescription::CertificateRequired, false);
        assert!(missing.contains("wants a client certificate"), "{missing}");
        let refused = says(AlertDescription::UnknownCA, true);
        assert!(refused.contains("refuses the client certificate"), "{refused}");
        let other = says(AlertDescription::ProtocolVersion, true);
        assert!(!other.contains("certificate"), "{other}");
    }

    #[test]
    fn names_are_shown_as_people_write_them() {
        for (name, plain) in [
            (r#"DnsName("a.example")"#, "a.example"),
            ("IpAddress(10.0.0.1)", "10.0.0.1"),
            ("a.example", "a.example"),
        ] {
            assert_eq!(plain_name(name), plain);
        }
    }

    #[test]
    fn an_unknown_problem_is_passed_on() {
        let other = OtherError(Arc::new(io::Error::other("of another kind")));
        let text = of_certificate(&CertificateError::Other(other), None);
        assert!(text.contains("of another kind"), "{text}");
    }
}

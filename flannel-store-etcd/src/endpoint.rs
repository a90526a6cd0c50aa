//! The address of one server.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;

/// One server, as it was written and as it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// With its scheme, and nothing behind its port.
    pub(crate) url: String,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl Endpoint {
    /// Reads an endpoint. Without a scheme it is https if `tls` is. The error is what is wrong with
    /// it, and what to write instead.
    pub(crate) fn parse(text: &str, tls: bool) -> Result<Self, String> {
        // Whatever stands before an @ may be a password.
        if text.contains('@') {
            return Err(
                "an endpoint holds an @; give user and password with --etcd-username and --etcd-password"
                    .to_owned(),
            );
        }
        let example = if tls {
            "https://10.0.0.1:2379"
        } else {
            "http://10.0.0.1:2379"
        };
        let wrong =
            |why: &str| format!("the endpoint {text:?} {why}; write it as {example} in --etcd-endpoints");
        let url = match text.split_once("://") {
            None if tls => format!("https://{text}"),
            None => format!("http://{text}"),
            Some(_) => text.to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("is neither http nor https")),
        };
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("has no host"))?;
        let port = uri
            .port_u16()
            .ok_or_else(|| wrong("has no port, which is 2379 in most places"))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("has something behind its port"));
        }
        let scheme = if tls { "https" } else { "http" };
        Ok(Self {
            url: format!("{scheme}://{host}:{port}"),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            tls,
        })
    }

    /// Host and port, as HTTP names them.
    pub(crate) fn authority(&self) -> &str {
        self.url
            .split_once("://")
            .map_or(self.url.as_str(), |(_, authority)| authority)
    }

    /// Its address, where it is written as one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_names_and_ports_are_taken_apart() {
        for (text, tls, url, host, address) in [
            (
                "http://10.0.0.1:2379",
                false,
                "http://10.0.0.1:2379",
                "10.0.0.1",
                true,
            ),
            ("https://[::1]:2379/", true, "https://[::1]:2379", "::1", true),
            (
                "etcd-1.example:4001",
                false,
                "http://etcd-1.example:4001",
                "etcd-1.example",
                false,
            ),
            ("10.0.0.1:2379", true, "https://10.0.0.1:2379", "10.0.0.1", true),
            ("HTTPS://a:1", true, "https://a:1", "a", false),
        ] {
            let endpoint = Endpoint::parse(text, tls).unwrap();
            assert_eq!((endpoint.url.as_str(), endpoint.host.as_str()), (url, host));
            assert_eq!(endpoint.address().is_some(), address);
            assert_eq!(endpoint.tls, url.starts_with("https"));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_way_to_write_it() {
        for text in [
            "http://10.0.0.1",
            "unix:///run/etcd.sock",
            "http://:2379",
            "http://a:2379/v2",
            "http://a:x",
            "ftp://a:2379",
            "a b:2379",
        ] {
            let problem = Endpoint::parse(text, false).unwrap_err();
            assert!(
                problem.contains(text) && problem.contains("http://10.0.0.1:2379"),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_password_in_an_endpoint_is_refused_and_not_repeated() {
        let problem = Endpoint::parse("http://root:hunter2@a:2379", false).unwrap_err();
        assert!(
            problem.contains("--etcd-password") && !problem.contains("hunter2"),
            "{problem}"
        );
    }
}

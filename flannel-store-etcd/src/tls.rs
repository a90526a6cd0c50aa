//! Certificates and keys, from files to a configuration.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_client::{Certificate, Identity, TlsOptions};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore};

use crate::verdict;

/// No file of certificates is as long as this: the system's own bundles have a quarter of it.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// Where the certificates are.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// What was in the files, ready for use.
pub(crate) struct Tls {
    pub(crate) options: TlsOptions,
    pub(crate) config: Arc<ClientConfig>,
    /// Whether a certificate is shown to servers that ask for one.
    pub(crate) shows_certificate: bool,
}

impl TlsFiles {
    /// Reads the files, and checks that they belong together. The error names the file, its flag and
    /// the remedy. Blocks.
    pub(crate) fn read(&self) -> Result<Tls, String> {
        let ca = Pem::read(&self.ca, "--etcd-cafile")?;
        let mut roots = RootCertStore::empty();
        for certificate in ca.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| ca.problem(format!("has a certificate that cannot be used: {error}")))?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(&ca.bytes));
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = Pem::read(certificate, "--etcd-certfile")?;
                let key = Pem::read(key, "--etcd-keyfile")?;
                let chain = certificate.certificates()?;
                CertifiedKey::from_der(chain.clone(), key.key()?, &provider)
                    .map_err(|error| misfit(&certificate, &key, &error))?;
                options = options.identity(Identity::from_pem(&certificate.bytes, &key.bytes));
                builder
                    .with_client_auth_cert(chain, key.key()?)
                    .map_err(|error| misfit(&certificate, &key, &error))?
            }
        };
        Ok(Tls {
            options,
            config: Arc::new(config),
            shows_certificate: self.identity.is_some(),
        })
    }
}

/// Why a certificate and a key do not work together.
fn misfit(certificate: &Pem<'_>, key: &Pem<'_>, error: &Error) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => key.problem(format_args!(
            "is not the key of the certificate in {} (--etcd-certfile)",
            certificate.path.display()
        )),
        Error::InvalidCertificate(problem) => certificate.problem(verdict::of_certificate(problem, None)),
        _ => key.problem(
            "is no key that can be used here: RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519",
        ),
    }
}

/// A file of PEM sections.
struct Pem<'a> {
    path: &'a Path,
    flag: &'static str,
    bytes: Vec<u8>,
}

impl<'a> Pem<'a> {
    fn read(path: &'a Path, flag: &'static str) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes));
        let pem = Self { path, flag, bytes };
        match read {
            Err(error) => Err(pem.problem(format_args!(
                "cannot be read: {error}; name a file that this process may read"
            ))),
            Ok(length) if length as u64 > MAX_PEM_BYTES => {
                Err(pem.problem(format_args!("is longer than {MAX_PEM_BYTES} bytes")))
            }
            Ok(_) => Ok(pem),
        }
    }

    fn problem(&self, problem: impl Display) -> String {
        format!("the file {} ({}) {problem}", self.path.display(), self.flag)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match found {
            Err(error) => Err(self.problem(format_args!("is damaged: {error}"))),
            Ok(found) if found.is_empty() => {
                let instead = if self.key().is_ok() {
                    "holds a key and no certificate; it belongs in --etcd-keyfile"
                } else {
                    "holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----"
                };
                Err(self.problem(instead))
            }
            Ok(found) => Ok(found),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|_| {
            let holds = |label: &[u8]| self.bytes.windows(label.len()).any(|window| window == label);
            let instead = if holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED") {
                "holds a key with a passphrase; take it off with `openssl pkey -in FILE -out NEW`"
            } else if holds(b"BEGIN CERTIFICATE") {
                "holds a certificate and no key; it belongs in --etcd-certfile"
            } else {
                "holds no key in PEM: PKCS#8, PKCS#1 or SEC1, which begin with -----BEGIN PRIVATE KEY-----, \
                 -----BEGIN RSA PRIVATE KEY----- or -----BEGIN EC PRIVATE KEY-----"
            };
            self.problem(instead)
        })
    }
}

//! A certificate authority in a directory, made with the `openssl` program.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::LabError;
use crate::program::{command, succeed};

/// Validity of all that is not expired, in days: longer than any test, shorter than a forgotten file matters.
const VALID_DAYS: &str = "7";

/// How a private key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    /// `BEGIN PRIVATE KEY` with an elliptic curve key, P-256.
    #[default]
    Pkcs8,
    /// `BEGIN EC PRIVATE KEY`, P-256.
    Sec1,
    /// `BEGIN RSA PRIVATE KEY`, 2048 bits: takes a tenth of a second to make.
    Pkcs1,
}

/// What is odd about a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateForm {
    /// Nothing.
    #[default]
    Sound,
    /// X.509 version 1: no extensions, hence no alternative names.
    Version1,
    /// Signed by its own key instead of the authority's.
    SelfSigned,
    /// Its time is over.
    Expired,
}

/// What a certificate may be used for (extended key usage, RFC 5280 section 4.2.1.12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyUsage {
    /// Both. An etcd member with `--client-cert-auth` needs it: it dials itself.
    #[default]
    ServerAndClient,
    /// Server authentication alone.
    Server,
    /// Client authentication alone.
    Client,
}

/// How to make a certificate that is not the usual.
#[derive(Clone, Debug, Default)]
pub struct CertificateOptions {
    /// Subject alternative names as openssl writes them: `IP:127.0.0.1`, `DNS:localhost`. None: no such extension.
    pub names: Vec<String>,
    /// How the key is written.
    pub key: KeyFormat,
    /// What is odd about it.
    pub form: CertificateForm,
    /// What it may be used for.
    pub usage: KeyUsage,
}

/// A certificate and its private key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The private key's file.
    pub key: PathBuf,
}

/// A certificate authority. Its files stay until their directory is removed.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    serial: AtomicU64,
}

impl Pki {
    /// Makes an authority in `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// [`LabError::ProgramMissing`] without openssl, and what openssl says.
    pub fn new(directory: impl Into<PathBuf>) -> Result<Self, LabError> {
        let directory = directory.into();
        fs::create_dir_all(&directory).map_err(|error| LabError::io("make", &directory, error))?;
        let authority = Self {
            directory,
            serial: AtomicU64::new(2),
        };
        let key = authority.file("ca.key");
        make_key(&key, KeyFormat::Pkcs8)?;
        openssl(
            &[
                "req",
                "-x509",
                "-new",
                "-key",
                &text(&key),
                "-subj",
                "/CN=lab authority",
            ],
            &["-days", VALID_DAYS, "-out", &text(&authority.ca_file())],
        )?;
        Ok(authority)
    }

    /// The authority's own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// Issues a certificate for server and client authentication with these alternative names; `name` becomes its
    /// common name and the name of its files, `<name>.pem` and `<name>.key`.
    ///
    /// # Errors
    /// Those of openssl.
    pub fn issue(&self, name: &str, names: &[&str]) -> Result<Certificate, LabError> {
        let names = names.iter().map(ToString::to_string).collect();
        self.issue_with(
            name,
            &CertificateOptions {
                names,
                ..CertificateOptions::default()
            },
        )
    }

    /// Issues a certificate of another kind.
    ///
    /// # Errors
    /// Those of openssl.
    pub fn issue_with(&self, name: &str, options: &CertificateOptions) -> Result<Certificate, LabError> {
        let certificate = Certificate {
            cert: self.file(&format!("{name}.pem")),
            key: self.file(&format!("{name}.key")),
        };
        make_key(&certificate.key, options.key)?;
        let (cert, key) = (text(&certificate.cert), text(&certificate.key));
        let (ca, ca_key) = (text(&self.ca_file()), text(&self.file("ca.key")));
        let subject = format!("/CN={name}");
        let request = text(&self.file(&format!("{name}.csr")));
        let serial = self.serial.fetch_add(1, Ordering::Relaxed).to_string();
        if options.form == CertificateForm::Version1 {
            // Since 3.2 openssl has an option for what it did before whenever there was no extension.
            let signed_at_once = openssl(
                &[
                    "req", "-x509", "-x509v1", "-new", "-key", &key, "-subj", &subject, "-CA", &ca, "-CAkey",
                    &ca_key,
                ],
                &["-set_serial", &serial, "-days", VALID_DAYS, "-out", &cert],
            );
            if signed_at_once.is_ok() {
                return Ok(certificate);
            }
        }
        openssl(
            &["req", "-new", "-key", &key, "-subj", &subject],
            &["-out", &request],
        )?;
        let signer = match options.form {
            CertificateForm::SelfSigned => vec!["-signkey", &key],
            _ => vec!["-CA", &ca, "-CAkey", &ca_key],
        };
        let days = match options.form {
            CertificateForm::Expired => "-1",
            _ => VALID_DAYS,
        };
        let extensions = self.file(&format!("{name}.ext"));
        let mut arguments = [&["x509", "-req", "-in", &request], &*signer].concat();
        let extensions_path = text(&extensions);
        if options.form != CertificateForm::Version1 {
            fs::write(&extensions, options.extensions())
                .map_err(|error| LabError::io("write", &extensions, error))?;
            arguments.extend(["-extfile", &extensions_path]);
        }
        openssl(
            &arguments,
            &["-set_serial", &serial, "-days", days, "-out", &cert],
        )?;
        Ok(certificate)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl CertificateOptions {
    /// The lines of openssl's extension file.
    fn extensions(&self) -> String {
        let usage = match self.usage {
            KeyUsage::ServerAndClient => "serverAuth,clientAuth",
            KeyUsage::Server => "serverAuth",
            KeyUsage::Client => "clientAuth",
        };
        let mut lines = format!("basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n");
        if !self.names.is_empty() {
            lines += &format!("subjectAltName={}\n", self.names.join(","));
        }
        lines
    }
}

fn make_key(path: &Path, format: KeyFormat) -> Result<(), LabError> {
    let out = text(path);
    match format {
        KeyFormat::Pkcs8 => openssl(
            &["genpkey", "-algorithm", "EC"],
            &["-pkeyopt", "ec_paramgen_curve:P-256", "-out", &out],
        ),
        KeyFormat::Sec1 => openssl(
            &["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
            &["-out", &out],
        ),
        // Since 3.0 openssl writes PKCS#8 unless told; before it there was no such option.
        KeyFormat::Pkcs1 => openssl(&["genrsa", "-traditional"], &["-out", &out, "2048"])
            .or_else(|_| openssl(&["genrsa"], &["-out", &out, "2048"])),
    }
}

fn openssl(verb: &[&str], rest: &[&str]) -> Result<(), LabError> {
    succeed(command("openssl", [verb, rest].concat()), "").map(drop)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

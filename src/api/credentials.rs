//! What of the API is secret and may be another while the service runs: its certificate, and the keys of operators.
//!
//! All of it is read anew by a reload, and holds for what comes from then on: a connection keeps the certificate that it
//! began with.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::serve::tls;
use crate::callers::{Digest, Secret};
use crate::config::{Fault, Settings, TlsFiles};

/// The secrets that hold now.
#[derive(Debug)]
pub struct Credentials {
    certificate: Option<ArcSwap<Certificate>>,
    operators: ArcSwap<Operators>,
}

/// Secrets that were read, and do not hold yet.
#[derive(Debug)]
pub struct Renewed {
    certificate: Option<Certificate>,
    operators: Operators,
    /// The settings whose secrets are others.
    pub changed: Vec<&'static str>,
}

#[derive(Debug)]
struct Certificate {
    config: Arc<ServerConfig>,
    /// Of the files.
    digest: [u8; 32],
}

/// What is kept of the keys of operators: hashes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Operators {
    admins: Vec<(Arc<str>, Digest)>,
    metrics: Option<Digest>,
}

impl Credentials {
    /// Those of the settings.
    ///
    /// # Errors
    /// The certificate or its key cannot be used.
    pub fn read(settings: &Settings) -> Result<Self, Fault> {
        let certificate = settings.serving.tls.as_ref().map(Certificate::read).transpose()?;
        Ok(Self {
            certificate: certificate.map(ArcSwap::from_pointee),
            operators: ArcSwap::from_pointee(Operators::of(settings)),
        })
    }

    /// Those of operators alone.
    pub(super) fn of_operators(settings: &Settings) -> Self {
        Self { certificate: None, operators: ArcSwap::from_pointee(Operators::of(settings)) }
    }

    /// Reads them anew. Nothing changes by this.
    ///
    /// # Errors
    /// The certificate or its key cannot be used.
    pub fn renewed(&self, settings: &Settings) -> Result<Renewed, Fault> {
        let files = settings.serving.tls.as_ref().filter(|_| self.certificate.is_some());
        let certificate = files.map(Certificate::read).transpose()?;
        let operators = Operators::of(settings);
        let known = self.operators.load();
        let is_another = self.certificate.as_ref().zip(certificate.as_ref());
        let is_another = is_another.is_some_and(|(known, new)| known.load().digest != new.digest);
        let changed = [
            ("TLS_CERT", is_another),
            ("ADMIN_KEY", known.admins != operators.admins),
            ("METRICS_KEY", known.metrics != operators.metrics),
        ];
        let changed =
            changed.into_iter().filter(|(_, is_another)| *is_another).map(|(name, _)| name).collect();
        Ok(Renewed { certificate, operators, changed })
    }

    /// They hold from now on.
    pub fn put(&self, renewed: Renewed) {
        self.operators.store(Arc::new(renewed.operators));
        if let (Some(place), Some(certificate)) = (&self.certificate, renewed.certificate) {
            place.store(Arc::new(certificate));
        }
    }

    /// What encrypts the next connection, if connections are encrypted.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.certificate.as_ref().map(|certificate| TlsAcceptor::from(certificate.load().config.clone()))
    }

    /// The keys of operators.
    pub(super) fn operators(&self) -> arc_swap::Guard<Arc<Operators>> {
        self.operators.load()
    }
}

impl Certificate {
    fn read(files: &TlsFiles) -> Result<Self, Fault> {
        let config = tls::server(files)?;
        let mut hasher = Sha256::new();
        let mut add = |file: &Path| hasher.update(std::fs::read(file).unwrap_or_default());
        add(&files.certificates);
        add(&files.key);
        Ok(Self { config, digest: hasher.finalize().into() })
    }
}

impl Operators {
    pub(super) fn of(settings: &Settings) -> Self {
        let digest = |key: &SecretString| Secret::shown(key.expose_secret()).digest();
        Self {
            admins: settings
                .admin_keys
                .iter()
                .map(|admin| (admin.name.clone(), digest(&admin.key)))
                .collect(),
            metrics: settings.metrics_key.as_ref().map(digest),
        }
    }

    /// Whether there is an admin API.
    pub(super) fn has_admins(&self) -> bool {
        !self.admins.is_empty()
    }

    /// Whether the figures have a key of their own.
    pub(super) fn has_metrics_key(&self) -> bool {
        self.metrics.is_some()
    }

    /// Whose admin key it is. Every one of them is looked at, so that the time tells nothing.
    pub(super) fn admin(&self, shown: &str) -> Option<&Arc<str>> {
        let shown = Secret::shown(shown).digest();
        self.admins
            .iter()
            .fold(None, |found, (name, digest)| if digest.is(&shown) { Some(name) } else { found })
    }

    /// Whether it opens the figures.
    pub(super) fn opens_metrics(&self, shown: &str) -> bool {
        self.metrics.as_ref().is_some_and(|key| key.is(&Secret::shown(shown).digest()))
    }
}

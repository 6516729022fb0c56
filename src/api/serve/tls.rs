//! Encryption towards callers.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Fault, TlsFiles};

/// Reads the certificates and the key.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, Fault> {
    let fault = |variable: &str, path: &Path, error: &dyn std::fmt::Display| {
        let problem = format!("`{}` cannot be used: {error}", path.display());
        Fault::new(format!("LLM_PROXY_API_{variable}"), problem, "name a PEM file that this user can read")
    };
    let of_certificates = |error: &dyn std::fmt::Display| fault("TLS_CERT", &files.certificates, error);
    let certificates = CertificateDer::pem_file_iter(&files.certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| of_certificates(&error))?;
    if certificates.is_empty() {
        return Err(of_certificates(&"there is no certificate in it"));
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| fault("TLS_KEY", &files.key, &error))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key);
    let mut config = config.map_err(|error| fault("TLS_KEY", &files.key, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

//! Encryption towards callers, and towards a service that has the same certificate.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme, crypto,
};

use crate::config::{Fault, TlsFiles};

fn fault(variable: &str, path: &Path, error: &dyn std::fmt::Display) -> Fault {
    let problem = format!("`{}` cannot be used: {error}", path.display());
    Fault::new(format!("LLM_PROXY_API_{variable}"), problem, "name a PEM file that this user can read")
}

pub(super) fn certificates(files: &TlsFiles) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let of_certificates = |error: &dyn std::fmt::Display| fault("TLS_CERT", &files.certificates, error);
    let certificates = CertificateDer::pem_file_iter(&files.certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| of_certificates(&error))?;
    if certificates.is_empty() {
        Err(of_certificates(&"there is no certificate in it"))
    } else {
        Ok(certificates)
    }
}

/// Reads the certificates and the key.
pub(in crate::api) fn server(files: &TlsFiles) -> Result<Arc<ServerConfig>, Fault> {
    let certificates = certificates(files)?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| fault("TLS_KEY", &files.key, &error))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key);
    let mut config = config.map_err(|error| fault("TLS_KEY", &files.key, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connects to a service that shows the first of these certificates, and to no other.
pub(in crate::api) fn connector(files: &TlsFiles) -> Result<TlsConnector, Fault> {
    let expected = certificates(files)?.into_iter().next().map(CertificateDer::into_owned);
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let pinned = Arc::new(Pinned { expected, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| fault("TLS_CERT", &files.certificates, &error))?;
    let config = config.dangerous().with_custom_certificate_verifier(pinned).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A name for a service whose certificate is known whatever its names are.
pub(in crate::api) fn anybody() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into())
}

/// Takes one certificate, of which its owner has to prove that it has the key.
#[derive(Debug)]
struct Pinned {
    expected: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.expected.as_ref().is_some_and(|expected| expected == shown) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("it shows another certificate than that of LLM_PROXY_API_TLS_CERT".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! Which server is trusted, and who we say that we are: certificates, of the machine and of the user.
//! Never here: connections, and passwords.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::WebConfig;
use crate::error::{Error, Kind, Result};

/// What webpki says of the certificate of an authority that a server shows as its own.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";

/// TLS as the user wants it. `Invalid` if a file holds no certificate or key, or they don't fit.
pub(super) fn client_config(web: &WebConfig) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if web.is_insecure {
        Arc::new(AnyServer(Arc::clone(&provider)))
    } else {
        Arc::new(Trust::new(&provider, web.ca_cert.as_deref())?)
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Local, format!("TLS can't be used: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(cert) = &web.client_cert else { return Ok(builder.with_no_client_auth()) };
    let key = web.client_key.as_ref().unwrap_or(cert);
    builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(|error| {
        let (cert, key) = (cert.display(), key.display());
        Error::new(Kind::Invalid, format!("the certificate {cert} can't be used with the key {key}: {error}"))
    })
}

/// All certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path)?;
    let certificates: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let invalid = |why: &str| {
        let message = format!("{} holds no certificate in PEM form (BEGIN CERTIFICATE){why}", path.display());
        Error::new(Kind::Invalid, message)
    };
    let certificates = certificates.map_err(|error| invalid(&format!(": {error}")))?;
    if certificates.is_empty() { Err(invalid("")) } else { Ok(certificates) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| {
        let why = "holds no private key in PEM form that can be read without a password";
        Error::new(Kind::Invalid, format!("{} {why}: {error}", path.display()))
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::new(Kind::Invalid, format!("{} can't be read: {error}", path.display())))
}

/// Trusts what an authority has signed, and a certificate that the user or the machine names itself: `openssl req -x509`
/// makes one that is an authority's and a server's at once, which webpki alone refuses.
#[derive(Debug)]
struct Trust {
    /// `None`: there are no certificates at all, and no server is trusted.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// The same certificates, to be compared byte by byte.
    named: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    fn new(provider: &Arc<CryptoProvider>, ca_cert: Option<&Path>) -> Result<Self> {
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            log::debug!("of the machine's certificates: {error}");
        }
        let mut named = loaded.certs;
        if let Some(path) = ca_cert {
            named.extend(certificates(path)?);
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(named.iter().cloned());
        let authorities = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            let failed = |error| Error::new(Kind::Local, format!("certificates can't be checked: {error}"));
            Some(builder.build().map_err(failed)?)
        };
        Ok(Self { authorities, named, provider: Arc::clone(provider) })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(authorities) = &self.authorities else {
            return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // webpki looks at the dates before it finds that.
            Err(error) if error.to_string().contains(AUTHORITY_AS_SERVER) && self.named.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `--insecure`: any server is taken for the one that is meant, as long as it has the key of the certificate it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

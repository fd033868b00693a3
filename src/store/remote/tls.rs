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
    let servers = if web.is_insecure { Servers::Any } else { Servers::known(&provider, web.ca_cert.as_deref())? };
    let verifier = Arc::new(Trust { servers, provider: Arc::clone(&provider) });
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

/// Which server is taken for the one that is meant.
#[derive(Debug)]
struct Trust {
    servers: Servers,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Servers {
    /// `--insecure`: any that has the key of the certificate it shows.
    Any,
    /// Those whose certificate an authority has signed, and those that the user or the machine names itself: `openssl req
    /// -x509` makes a certificate that is an authority's and a server's at once, which webpki alone refuses.
    Known {
        /// `None`: there are no certificates at all, and no server is trusted.
        authorities: Option<Arc<WebPkiServerVerifier>>,
        /// The same certificates, to be compared byte by byte.
        named: Vec<CertificateDer<'static>>,
    },
}

impl Servers {
    /// Of the machine's certificates, and those in the file `ca_cert`.
    fn known(provider: &Arc<CryptoProvider>, ca_cert: Option<&Path>) -> Result<Self> {
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
        Ok(Self::Known { authorities, named })
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
        let Servers::Known { authorities, named } = &self.servers else {
            return Ok(ServerCertVerified::assertion());
        };
        let Some(authorities) = authorities else {
            return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // webpki looks at the dates before it finds that.
            Err(error) if error.to_string().contains(AUTHORITY_AS_SERVER) && named.contains(end_entity) => {
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

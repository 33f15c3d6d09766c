//! What TLS on the HTTP port is made of: PEM texts become a server's configuration, or a clear word why not.
//!
//! The supervisor asks before it takes such texts, the proxy uses them: both by this one function, so that what the
//! one takes the other can use. Reads no files, and never shows what is in a text.

use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::control::TlsTexts;

/// What is offered by ALPN (RFC 7301): a client that insists on something else is told so in the handshake.
const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// Why TLS texts are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTls {
    /// The certificates.
    #[error("the certificate is refused: {0}")]
    Certificate(String),
    /// The private key.
    #[error("the private key is refused: {0}")]
    Key(String),
    /// The authorities of clients.
    #[error("the certificates of client_ca are refused: {0}")]
    ClientCa(String),
}

/// Makes a server's configuration: TLS 1.2 and 1.3, HTTP/1.1.
///
/// # Errors
/// [`BadTls`] where a text is malformed, or key and certificate don't belong together.
pub fn server_config(texts: &TlsTexts) -> Result<Arc<ServerConfig>, BadTls> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&texts.cert).map_err(BadTls::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&texts.key)
        .map_err(|error| BadTls::Key(words(&error, "an unencrypted private key")))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| BadTls::Certificate(error.to_string()))?;
    let builder = match &texts.client_ca {
        None => builder.with_no_client_auth(),
        Some(text) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(text).map_err(BadTls::ClientCa)? {
                roots.add(authority).map_err(|error| BadTls::ClientCa(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| BadTls::ClientCa(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => BadTls::Key("it is not the certificate's".to_owned()),
        rustls::Error::InvalidCertificate(_) => BadTls::Certificate(error.to_string()),
        other => BadTls::Key(other.to_string()),
    })?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(words(&pem::Error::NoItemsFound, "a certificate")),
        Ok(all) => Ok(all),
        Err(error) => Err(words(&error, "a certificate")),
    }
}

/// In words that show nothing of the text: it may be a key.
fn words(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("the file holds no PEM section with {wanted}"),
        pem::Error::MissingSectionEnd { .. } => "a PEM section does not end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a PEM section starts in no known way".to_owned(),
        pem::Error::Base64Decode(_) => "a PEM section is not base64".to_owned(),
        pem::Error::SectionTooLarge => "a PEM section is too large".to_owned(),
        _ => "it can't be read as PEM".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn refusal(cert: &str, key: &str, client_ca: Option<&str>) -> String {
        let texts =
            TlsTexts { cert: cert.into(), key: key.into(), client_ca: client_ca.map(|text| text.into()) };
        server_config(&texts).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_pair_that_belongs_together_is_taken() {
        let (cert, key) = pair();
        for client_ca in [None, Some(cert.clone().into_bytes())] {
            let texts =
                TlsTexts { cert: cert.clone().into_bytes(), key: key.clone().into_bytes(), client_ca };
            let config = server_config(&texts).unwrap();
            assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
        }
    }

    #[test]
    fn what_can_not_serve_is_refused_in_words_that_show_nothing() {
        let (cert, key) = pair();
        let (_, other_key) = pair();
        assert_eq!(
            refusal("", &key, None),
            "the certificate is refused: the file holds no PEM section with a certificate"
        );
        assert_eq!(
            refusal(&cert, &cert, None),
            "the private key is refused: the file holds no PEM section with an unencrypted private key"
        );
        assert_eq!(
            refusal(&cert, &other_key, None),
            "the private key is refused: it is not the certificate's"
        );
        assert_eq!(
            refusal(&cert[..cert.len() / 2], &key, None),
            "the certificate is refused: a PEM section does not end"
        );
        let garbled = key.replace("MI", "*!");
        assert_eq!(refusal(&cert, &garbled, None), "the private key is refused: a PEM section is not base64");
        assert_eq!(
            refusal(&cert, &key, Some("x")),
            "the certificates of client_ca are refused: the file holds no PEM section with a certificate"
        );
    }

    #[test]
    fn texts_are_never_shown() {
        let (cert, key) = pair();
        let texts = TlsTexts { cert: cert.into(), key: key.clone().into_bytes(), client_ca: None };
        let settings = Box::default();
        let order = crate::control::ProxyOrder::Configure { sequence: 1, settings, tls: Some(texts.clone()) };
        let shown = format!("{texts:?} {order:?}");
        assert!(!shown.contains("PRIVATE") && !shown.contains("45, 45, 45"), "{shown}");
    }
}

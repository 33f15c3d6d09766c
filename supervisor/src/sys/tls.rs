//! Certificates and keys: read from their files, checked before anything is changed, held in memory only.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use decurion_api::limits::PEM_FILE_MAX;
use decurion_api::spec::TlsSpec;
use decurion_ipc::control::TlsTexts;
use decurion_ipc::tls::{BadTls, server_config};

/// Why TLS is not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Only a file that names it can say what it is relative to.
    #[error("http.tls: '{0}' does not begin with '/'; give an absolute path")]
    Relative(String),
    /// A file can't be read.
    #[error("http.tls: {} can't be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Beyond [`PEM_FILE_MAX`].
    #[error("http.tls: {} is no PEM file: it has more than {PEM_FILE_MAX} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// What is in them can't serve.
    #[error("http.tls: {} with {}: {source}", spec.cert, spec.key)]
    Bad {
        /// The files.
        spec: TlsSpec,
        /// Why not.
        source: BadTls,
    },
}

/// Reads what TLS is made of, and makes sure that the proxy can use it.
pub(crate) fn read(spec: Option<&TlsSpec>) -> Result<Option<TlsTexts>, TlsError> {
    let Some(spec) = spec else { return Ok(None) };
    let texts = TlsTexts {
        cert: read_file(&spec.cert)?,
        key: read_file(&spec.key)?,
        client_ca: spec.client_ca.as_deref().map(read_file).transpose()?,
    };
    match server_config(&texts) {
        Ok(_) => Ok(Some(texts)),
        Err(source) => Err(TlsError::Bad { spec: spec.clone(), source }),
    }
}

fn read_file(path: &str) -> Result<Vec<u8>, TlsError> {
    if !path.starts_with('/') {
        return Err(TlsError::Relative(path.to_owned()));
    }
    let path = Path::new(path);
    let unreadable = |source| TlsError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        // A pipe would hold up the supervisor.
        return Err(unreadable(io::Error::other("it is no regular file")));
    }
    let mut text = Vec::new();
    file.take(PEM_FILE_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > PEM_FILE_MAX {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(cert: &str) -> String {
        let spec = TlsSpec { cert: cert.to_owned(), key: cert.to_owned(), client_ca: None };
        read(Some(&spec)).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_its_path() {
        assert_eq!(read(None).unwrap(), None);
        assert_eq!(
            refusal("cert.pem"),
            "http.tls: 'cert.pem' does not begin with '/'; give an absolute path"
        );
        assert_eq!(refusal("/dev/null"), "http.tls: /dev/null can't be read: it is no regular file");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pem").display().to_string();
        assert!(refusal(&path).starts_with(&format!("http.tls: {path} can't be read: ")));
        std::fs::write(&path, "words").unwrap();
        assert_eq!(
            refusal(&path),
            format!(
                "http.tls: {path} with {path}: the certificate is refused: \
                 the file holds no PEM section with a certificate"
            )
        );
        let large = usize::try_from(PEM_FILE_MAX).unwrap() + 1;
        std::fs::write(&path, vec![b'a'; large]).unwrap();
        assert_eq!(
            refusal(&path),
            format!("http.tls: {path} is no PEM file: it has more than 1048576 bytes")
        );
    }
}

//! A disk on paper, for tests: it forgets at a power cut what was not made durable, and refuses when it is told to.

use std::collections::BTreeMap;
use std::io;

use crate::store::Disk;

/// A disk that stops after some operations, and forgets at a power cut what was not made durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paper {
    /// As a program sees them.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Bytes that outlive a power cut, by name at the time.
    pub(crate) synced: BTreeMap<String, Vec<u8>>,
    /// Names that outlive a power cut, with the bytes behind them as far as these were durable.
    pub(crate) durable: BTreeMap<String, Vec<u8>>,
    pub(crate) left: Option<u32>,
    /// How an operation fails once none is left.
    pub(crate) error: Option<io::ErrorKind>,
    /// Only that one fails.
    pub(crate) once: bool,
}

impl Paper {
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => {
                if self.once {
                    self.left = None;
                }
                Err(io::Error::from(self.error.unwrap_or(io::ErrorKind::StorageFull)))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(crate) fn after_power_cut(&self) -> Self {
        Self {
            files: self.durable.clone(),
            synced: self.durable.clone(),
            durable: self.durable.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn after_kill(&self) -> Self {
        Self { left: None, error: None, once: false, ..self.clone() }
    }
}

impl Disk for Paper {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        self.files.get(name).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let stopped = self.operate();
        // A full disk leaves a torn file behind.
        let length = if stopped.is_ok() { bytes.len() } else { bytes.len() / 2 };
        self.files.insert(name.to_owned(), bytes[..length].to_vec());
        self.synced.remove(name);
        stopped
    }
    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.operate()?;
        self.synced.insert(name.to_owned(), self.files[name].clone());
        Ok(())
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.operate()?;
        let bytes = self.files.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.files.insert(to.to_owned(), bytes);
        if let Some(bytes) = self.synced.remove(from) {
            self.synced.insert(to.to_owned(), bytes);
        }
        Ok(())
    }
    fn sync_folder(&mut self) -> io::Result<()> {
        self.operate()?;
        self.durable = self
            .files
            .keys()
            .map(|name| (name.clone(), self.synced.get(name).cloned().unwrap_or_default()))
            .collect();
        Ok(())
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.operate()?;
        self.files.remove(name);
        self.synced.remove(name);
        Ok(())
    }
    fn path_of(&self, name: &str) -> String {
        format!("paper/{name}")
    }
}

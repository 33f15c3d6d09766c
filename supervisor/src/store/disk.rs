//! The few operations on one folder that the store is made of, so that a test can stand in for the disk and stop after
//! each of them.

use std::io;

/// One folder of files.
pub trait Disk {
    /// Names of its files.
    ///
    /// # Errors
    /// The system's.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// Bytes of a file.
    ///
    /// # Errors
    /// The system's.
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;
    /// Makes or replaces a file; not durable yet.
    ///
    /// # Errors
    /// The system's.
    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's bytes durable.
    ///
    /// # Errors
    /// The system's.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Gives a file another name, in place of whatever has it.
    ///
    /// # Errors
    /// The system's.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Makes names durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&mut self) -> io::Result<()>;
    /// Removes a file; not durable yet.
    ///
    /// # Errors
    /// The system's.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// For messages.
    fn path_of(&self, name: &str) -> String;
}

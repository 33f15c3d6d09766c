//! Where the desired state outlives the process: one JSON file for each revision.
//!
//! A revision is written to a file of another name, made durable, and renamed; then the folder is made durable. So
//! each crash leaves the revision before or the new one, whole. Knows nothing of what a revision means.

pub mod disk;
mod revisions;

#[cfg(test)]
pub(crate) mod paper;
#[cfg(test)]
mod tests;

pub use disk::Disk;
pub use revisions::{Loaded, Revisions, StoreError};

use crate::desired::Desired;

/// Keeps revisions of the desired state. The one behind it may become a database or a consensus group; nothing else
/// depends on which.
pub trait DesiredStore {
    /// The newest revision that is whole, and what was wrong with newer ones.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Makes a revision durable. When this returns, it is the newest.
    ///
    /// # Errors
    /// [`StoreError`]; the newest is the one before, or this one where the error came after the fact.
    fn save(&mut self, desired: &Desired) -> Result<(), StoreError>;

    /// One revision that is kept.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRevision`], or why it can't be read.
    fn read(&mut self, revision: u64) -> Result<Desired, StoreError>;

    /// Revisions that are kept, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn revisions(&mut self) -> Result<Vec<u64>, StoreError>;
}

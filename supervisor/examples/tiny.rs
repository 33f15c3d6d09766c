//! A library of deployments for the supervisor's tests, of which only what it says of itself is used.

use decurion::prelude::*;

/// Nothing to keep.
#[derive(Debug)]
pub struct Tiny;

#[deployment]
impl Tiny {
    fn new() -> Result<Self> {
        Ok(Self)
    }

    fn call(&self, _req: Request) -> &'static str {
        "tiny"
    }

    /// A method for handles.
    pub fn double(&self, number: u32) -> u32 {
        2 * number
    }

    fn reconfigure(&mut self, _config: u32) -> Result<()> {
        Ok(())
    }
}

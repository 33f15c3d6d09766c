//! Writes the conformance table as seeds of the targets that read what clients send.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in ["connection", "request"] {
        fs::create_dir_all(corpus.join(target))?;
        for (at, (_, text, _)) in decurion_proxy::conformance::rows().enumerate() {
            fs::write(
                corpus.join(target).join(format!("table-{at}")),
                decurion_proxy::conformance::bytes(text),
            )?;
        }
    }
    Ok(())
}

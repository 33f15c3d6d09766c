//! `decurion-proxy`: started by the supervisor, never by hand. Its control socket is descriptor 0.

use std::process::ExitCode;

fn main() -> ExitCode {
    match decurion_proxy::sys::process::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the supervisor reads it into its log")]
            {
                eprintln!("decurion-proxy: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

use decurion::prelude::*;

#[deployment]
fn hello(_req: Request) -> &'static str {
    "Hello world!"
}

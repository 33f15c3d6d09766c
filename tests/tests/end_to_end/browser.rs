//! A real browser: server-sent events with its own reconnecting, and websockets.

use std::process::{Child, Command, Stdio};

use decurion_tests::{World, library};

/// Under the names that it has in distributions.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    names.into_iter().find(|name| {
        let version =
            Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    })
}

/// Ended with the test, whatever comes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "says that it is skipped")]
fn a_browser_hears_events_and_talks() {
    let Some(browser) = browser() else {
        println!("skipped: no chromium here (Debian: apt-get install chromium)");
        return;
    };
    let world = World::start();
    let config = format!(
        "application = \"page\"\n[[deployment]]\nname = \"page\"\nlibrary = \"{}\"\nclass = \"Browser\"\n\
         threads = 8\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let profile = world.path().join("profile");
    let running = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("http://{}/page", world.address()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Running)
        .expect("the browser starts");
    world.until("the page has reported", |_| !world.get("/page/report").body.is_empty());
    drop(running);
    let numbers: Vec<String> = (1..=6).map(|number| format!("{number}:number {number}")).collect();
    assert_eq!(
        world.get("/page/report").json(),
        serde_json::json!({
            "events": numbers,
            "talk": [
                "open echo",
                "h\u{e9}llo \u{1f600}",
                "300000 bytes, all 7: true",
                "closed 4321 clean: true",
            ],
            "failing": ["open ", "closed 1011 clean: true"],
            "refused": ["closed 1006 clean: false"],
        })
    );
}

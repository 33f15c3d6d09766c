//! A real browser: server-sent events with its own reconnecting, and websockets.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use decurion_tests::{Connection, World, library};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// Only so that a browser that hangs is a failure: the page itself gives up before, and says where.
const WATCHDOG: Duration = Duration::from_secs(500);
/// A browser may fail to start on a machine that is short of something: so often it is started.
const STARTS_MAX: usize = 3;

/// Nothing of its own may reach for the network, or ask anything.
const FLAGS: [&str; 16] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--enable-logging=stderr",
    "--password-store=basic",
];

/// Under the names that it has in distributions.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    names.into_iter().find(|name| {
        let version =
            Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    })
}

/// What the test waits for.
enum News {
    Report(Value),
    /// A browser, by its number, has ended by itself.
    Ended(usize, String),
}

/// A browser with its children, ended with the test, whatever comes of it.
struct Running {
    group: Pid,
    words: PathBuf,
    waits: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(program: &str, url: &str, number: usize, folder: &Path, news: Sender<News>) -> Self {
        let words = folder.join(format!("browser-{number}.log"));
        let mut child = Command::new(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", folder.join(format!("profile-{number}")).display()))
            .arg(url)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&words).expect("a file for its words"))
            .spawn()
            .expect("the browser starts");
        let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let waits = thread::spawn(move || {
            let ended = child.wait();
            let _ = news.send(News::Ended(number, format!("{ended:?}")));
        });
        Self { group, words, waits: Some(waits) }
    }

    fn words(&self) -> String {
        fs::read_to_string(&self.words).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.waits.take().map(thread::JoinHandle::join);
    }
}

/// Asks for the page's report until there is one; ends with the world.
fn follow_report(world: &World, news: Sender<News>) {
    let address = world.address();
    thread::spawn(move || {
        while let Ok(mut connection) = Connection::open(address) {
            if let Some(answer) = connection.get("/page/report").ok().filter(|it| it.status == 200) {
                let _ = news.send(News::Report(answer.json()));
                return;
            }
        }
    });
}

/// What the page has found, from the first browser that gets that far, and what that one has said.
fn report(program: &str, world: &World, url: &str) -> (Value, String) {
    let (sender, news): (_, Receiver<News>) = channel();
    follow_report(world, sender.clone());
    let start = |number| Running::start(program, url, number, world.path(), sender.clone());
    let (mut number, mut running) = (1, start(1));
    loop {
        match news.recv_timeout(WATCHDOG) {
            Ok(News::Report(report)) => return (report, running.words()),
            Ok(News::Ended(ended, _)) if ended != number => {}
            Ok(News::Ended(_, how)) => {
                let said = running.words();
                assert!(number < STARTS_MAX, "the browser ended {number} times by itself: {how}\n{said}");
                number += 1;
                running = start(number);
            }
            Err(_) => panic!("no report in {WATCHDOG:?}; browser:\n{}\n{}", running.words(), world.log()),
        }
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
    let (report, words) = report(browser, &world, &format!("http://{}/page", world.address()));
    let numbers: Vec<String> = (1..=6).map(|number| format!("{number}:number {number}")).collect();
    assert_eq!(
        report,
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
        }),
        "{words}\n{}",
        world.log()
    );
}

//! Constant load from keep-alive and fresh connections, and a tally of everything that came back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::Connection;

/// Load that runs until it is [`stop`](Load::stop)ped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    /// The same for each client.
    each: Arc<[AtomicU64]>,
    threads: Vec<JoinHandle<Tally>>,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How often each status and body came.
    pub answers: BTreeMap<(u16, String), u64>,
    /// What went wrong below HTTP.
    pub errors: Vec<String>,
    /// The longest that one client waited for one answer.
    pub longest: Duration,
}

impl Tally {
    /// Requests answered with 200.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.answers.iter().filter(|((status, _), _)| *status == 200).map(|(_, count)| count).sum()
    }

    /// Everything that was not answered with 200, in words.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let answers = self.answers.iter().filter(|((status, _), _)| *status != 200);
        let answers = answers.map(|((status, body), count)| format!("{count} x {status} {body:?}"));
        answers.chain(self.errors.iter().cloned()).collect()
    }

    fn add(&mut self, other: Tally) {
        for (answer, count) in other.answers {
            *self.answers.entry(answer).or_default() += count;
        }
        self.errors.extend(other.errors);
        self.longest = self.longest.max(other.longest);
    }
}

impl Load {
    /// Starts `clients` threads that GET `path`; every fourth opens a fresh connection for each request.
    #[must_use]
    pub fn start(address: SocketAddr, path: &str, clients: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let each: Arc<[AtomicU64]> = (0..clients).map(|_| AtomicU64::new(0)).collect();
        let threads = (0..clients)
            .map(|number| {
                let (stop, answered, path) = (Arc::clone(&stop), Arc::clone(&answered), path.to_owned());
                let each = Arc::clone(&each);
                std::thread::spawn(move || {
                    let count = || {
                        each[number].fetch_add(1, Ordering::Relaxed);
                        answered.fetch_add(1, Ordering::Relaxed);
                    };
                    client(address, &path, number % 4 == 3, &stop, count)
                })
            })
            .collect();
        Self { stop, answered, each, threads }
    }

    /// Waits until `count` more requests were answered, so that something surely happened under load.
    pub fn answer_more(&self, count: u64) {
        wait_for_more(&self.answered, count);
    }

    /// Waits until no request is under way any more that was sent before this was called.
    ///
    /// # Panics
    /// Where one is never answered.
    pub fn answer_each(&self) {
        for answered in self.each.iter() {
            wait_for_more(answered, 1);
        }
    }

    /// Stops, and says what came back.
    ///
    /// # Panics
    /// Where a client's thread panicked.
    #[must_use]
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        for thread in self.threads {
            tally.add(thread.join().expect("a client's thread ends by itself"));
        }
        tally
    }
}

/// Waits until a load has counted so many more.
///
/// # Panics
/// Where it stands still.
pub(crate) fn wait_for_more(answered: &AtomicU64, count: u64) {
    let goal = answered.load(Ordering::Relaxed) + count;
    let watchdog = Instant::now() + Duration::from_secs(60);
    while answered.load(Ordering::Relaxed) < goal {
        assert!(Instant::now() < watchdog, "the load stands still");
        crate::world::pause();
    }
}

fn client(address: SocketAddr, path: &str, fresh: bool, stop: &AtomicBool, count: impl Fn()) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Connection::open(address) {
                Ok(open) => open,
                Err(error) => {
                    tally.errors.push(format!("connect: {error}"));
                    continue;
                }
            },
        };
        match open.get(path) {
            Ok(response) => {
                let closes = response.header("connection") == Some("close");
                *tally.answers.entry((response.status, response.text())).or_default() += 1;
                if !fresh && !closes {
                    connection = Some(open);
                }
            }
            Err(error) => tally.errors.push(format!("request: {error}")),
        }
        tally.longest = tally.longest.max(began.elapsed());
        count();
    }
    tally
}

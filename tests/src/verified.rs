//! Load of which every answer is compared with its request: each carries bytes of its own, and comes back whole, or
//! refused, or cut off, but never as another's. For the fixture `Echo`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::http::Connection;
use crate::load::wait_for_more;

/// Load that runs until it is [`stop`](Verified::stop)ped.
#[derive(Debug)]
pub struct Verified {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    /// Of each client.
    each: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Account>>,
}

/// Every request that was sent is in one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Answered with its own bytes.
    pub right: u64,
    /// Answered with another status than 200.
    pub refused: BTreeMap<u16, u64>,
    /// The connection ended before the answer was whole, or was refused.
    pub cut: u64,
    /// Answered with what is not its own.
    pub wrong: Vec<String>,
}

impl Account {
    /// Requests that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.right + self.refused.values().sum::<u64>() + self.cut + self.wrong.len() as u64
    }

    /// Counts others in.
    pub fn add(&mut self, other: Account) {
        self.right += other.right;
        self.cut += other.cut;
        self.wrong.extend(other.wrong);
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
    }
}

impl Verified {
    /// Starts `clients` threads that send to `path` by `method`; by POST with bodies of up to 150 KiB.
    #[must_use]
    pub fn start(address: SocketAddr, path: &str, method: &'static str, clients: u32) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let each: Vec<Arc<AtomicU64>> = (0..clients).map(|_| Arc::default()).collect();
        let threads = (0..clients)
            .zip(&each)
            .map(|(client, own)| {
                let (stop, answered, path) = (Arc::clone(&stop), Arc::clone(&answered), path.to_owned());
                let own = Arc::clone(own);
                std::thread::spawn(move || {
                    let mut account = Account::default();
                    let mut connection = None;
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        request(address, &path, method, &mut connection, &mut account, (client, number));
                        own.fetch_add(1, Ordering::Relaxed);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    account
                })
            })
            .collect();
        Self { stop, answered, each, threads }
    }

    /// Waits until `count` more requests are over, so that something surely happened under load.
    ///
    /// # Panics
    /// Where the load stands still.
    pub fn answer_more(&self, count: u64) {
        wait_for_more(&self.answered, count);
    }

    /// Waits until every request is over that is under way now.
    ///
    /// # Panics
    /// Where one stands still.
    pub fn answer_each(&self) {
        for own in &self.each {
            wait_for_more(own, 1);
        }
    }

    /// Stops, and says what became of all that was sent.
    ///
    /// # Panics
    /// Where a client's thread panicked.
    #[must_use]
    pub fn stop(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let mut account = Account::default();
        for thread in self.threads {
            account.add(thread.join().expect("a client's thread ends by itself"));
        }
        account
    }
}

/// Bytes that belong to this request and to no other.
#[must_use]
pub fn bytes_of(client: u32, number: u64, length: usize) -> Vec<u8> {
    let mut state = (u64::from(client) + 1) << 40 | number;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(word).take(length.div_ceil(8)).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// Most are small, some are larger than a block, some than a window.
#[must_use]
pub fn length_of(number: u64) -> usize {
    let odd = usize::try_from(number * 7919 % 4096).unwrap_or(0);
    match number % 16 {
        7 => 70_000 + odd,
        15 => 146_000 + odd,
        _ => odd,
    }
}

fn request(
    address: SocketAddr,
    path: &str,
    method: &str,
    connection: &mut Option<Connection>,
    account: &mut Account,
    (client, number): (u32, u64),
) {
    let id = format!("{method}-{client}-{number}");
    let body = if method == "POST" { bytes_of(client, number, length_of(number)) } else { Vec::new() };
    let mut exchange = || -> io::Result<crate::Response> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(address)?,
        };
        open.request(method, path, &[("x-request-id", &id), ("x-test", &id)], &body)?;
        let answer = open.read()?;
        if answer.header("connection") != Some("close") {
            *connection = Some(open);
        }
        Ok(answer)
    };
    match exchange() {
        Err(_) => account.cut += 1,
        Ok(answer) if answer.status != 200 => *account.refused.entry(answer.status).or_default() += 1,
        Ok(answer) => {
            let facts: serde_json::Value =
                serde_json::from_str(answer.header("x-facts").unwrap_or("{}")).unwrap_or_default();
            let own = facts["id"] == id.as_str() && facts["x"] == id.as_str() && answer.body == body;
            let echoed = answer.header("x-request-id").is_none_or(|came| came == id);
            if own && echoed {
                account.right += 1;
            } else {
                account.wrong.push(format!("{id}: {facts}, {} of {} bytes", answer.body.len(), body.len()));
            }
        }
    }
}

//! Requests at a steady rate, whether or not the server keeps up: latency counts from when a request was due, so that a
//! server that stalls pays for those that had to wait.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::contest::median;

/// What came of it, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    /// Answers a second.
    pub per_second: f64,
    /// Half of the requests.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// The one that waited longest.
    pub longest_us: f64,
}

/// One connection: one request under way, the others that are due wait.
struct Client {
    stream: TcpStream,
    due: VecDeque<Instant>,
    under_way: Option<Instant>,
    answer: Vec<u8>,
}

/// Sends GETs at so many a second over so many connections.
///
/// # Errors
/// A connection that is refused, ends, or gives another status than 200.
pub fn drive(
    address: SocketAddr,
    path: &str,
    connections: usize,
    rate: f64,
    lasts: Duration,
) -> io::Result<Steady> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(connections);
    let mut clients = Vec::with_capacity(connections);
    for number in 0..connections {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
        clients.push(Client { stream, due: VecDeque::new(), under_way: None, answer: Vec::new() });
    }
    let began = now();
    let (mut sent, mut latencies) = (0u32, Vec::new());
    loop {
        let at = now();
        if at - began >= lasts {
            break;
        }
        while began + Duration::from_secs_f64(f64::from(sent) / rate) <= at {
            let due = began + Duration::from_secs_f64(f64::from(sent) / rate);
            let client = &mut clients[sent as usize % connections];
            client.due.push_back(due);
            client.send_next(&request)?;
            sent += 1;
        }
        // Never asleep: a timer would be late by more than what is measured.
        poll.poll(&mut events, Some(Duration::ZERO))?;
        for event in &events {
            let client = &mut clients[event.token().0];
            if let Some(due) = client.receive()? {
                latencies.push((now() - due).as_secs_f64() * 1e6);
                client.send_next(&request)?;
            }
        }
    }
    let end = now();
    let per_second = latencies.len() as f64 / lasts.as_secs_f64();
    // Those that were not answered have waited so long already.
    for client in &clients {
        latencies
            .extend(client.due.iter().chain(&client.under_way).map(|due| (end - *due).as_secs_f64() * 1e6));
    }
    let p50_us = median(&mut latencies);
    let at =
        |per_mille: usize| latencies.get(latencies.len() * per_mille / 1000).copied().unwrap_or(f64::NAN);
    let longest_us = latencies.last().copied().unwrap_or(f64::NAN);
    Ok(Steady { per_second, p50_us, p99_us: at(990), p999_us: at(999), longest_us })
}

impl Client {
    fn send_next(&mut self, request: &str) -> io::Result<()> {
        if self.under_way.is_none()
            && let Some(due) = self.due.pop_front()
        {
            self.under_way = Some(due);
            // So little always finds room: nothing else is under way.
            self.stream.write_all(request.as_bytes())?;
        }
        Ok(())
    }

    /// Reads what is there: when the request was due whose answer is whole now.
    fn receive(&mut self) -> io::Result<Option<Instant>> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.answer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if !is_whole(&self.answer)? {
            return Ok(None);
        }
        self.answer.clear();
        Ok(self.under_way.take())
    }
}

/// Whether this is an answer with all of its body.
fn is_whole(answer: &[u8]) -> io::Result<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(io::Error::other(head));
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    Ok(answer.len() >= end + 4 + length.unwrap_or(0))
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}

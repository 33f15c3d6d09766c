//! Bodies far larger than any channel, up, down and both at once: every byte is compared, and no process grows.
//! `DECURION_BODY_MIB` says how large (64 in the suite; 1024 by hand).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use decurion_tests::processes::{forget_peak, status_kib};
use decurion_tests::{World, library};

const MIB: usize = 1024 * 1024;
/// What a body of this size costs, larger ones may cost as well.
const SMALL: usize = 16 * MIB;
/// And this: a process may find something to allocate in a longer time.
const SLACK_KIB: u64 = 6 * 1024;

#[expect(clippy::disallowed_methods, reason = "a campaign by hand is longer than the suite's")]
fn large() -> usize {
    let asked = std::env::var("DECURION_BODY_MIB").ok().and_then(|number| number.parse().ok());
    asked.unwrap_or(64) * MIB
}

/// As the fixture makes it.
fn pattern() -> Vec<u8> {
    (0..65_521u32).map(|at| ((at * 31) >> 3).to_le_bytes()[0]).collect()
}

/// And its sum.
fn sum(bytes: usize) -> u64 {
    let pattern = pattern();
    let (mut sum, mut weight) = (0u64, 0u64);
    for at in 0..bytes {
        weight = weight % 251 + 1;
        sum = sum.wrapping_add(u64::from(pattern[at % pattern.len()]) * weight);
    }
    sum
}

/// What goes up: nothing, a body of announced length, a chunked one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Up {
    Nothing,
    Length,
    Chunked,
}

fn write_body(mut stream: TcpStream, path: &str, up: Up, bytes: usize) {
    let method = if up == Up::Nothing { "GET" } else { "POST" };
    let framing = match up {
        Up::Nothing => String::new(),
        Up::Length => format!("content-length: {bytes}\r\n"),
        Up::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
    };
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n")
        .expect("sent");
    let pattern = pattern();
    let mut left = if up == Up::Nothing { 0 } else { bytes };
    while left > 0 {
        let part = &pattern[..left.min(pattern.len())];
        if up == Up::Chunked {
            write!(stream, "{:x}\r\n", part.len()).expect("sent");
        }
        stream.write_all(part).expect("sent");
        if up == Up::Chunked {
            stream.write_all(b"\r\n").expect("sent");
        }
        left -= part.len();
    }
    if up == Up::Chunked {
        stream.write_all(b"0\r\n\r\n").expect("sent");
    }
}

/// Reads an answer, hands on its parts, and says how long it was.
fn read_body(stream: TcpStream, mut part: impl FnMut(&[u8])) -> usize {
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let mut line = String::new();
    let mut head = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(reader.read_line(&mut line).expect("a head") > 0, "cut: {head}");
        head.push_str(&line);
    }
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut came = 0;
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    if let Some(length) = length {
        let mut whole: Vec<u8> = vec![0; length];
        reader.read_exact(&mut whole).expect("a short body");
        part(&whole);
        return length;
    }
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a chunk");
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("chunk size {line:?}"));
        let mut left = size;
        while left > 0 {
            let bytes = reader.fill_buf().expect("more");
            assert!(!bytes.is_empty(), "cut after {came}");
            let count = bytes.len().min(left);
            part(&bytes[..count]);
            reader.consume(count);
            (left, came) = (left - count, came + count);
        }
        let mut end = [0; 2];
        reader.read_exact(&mut end).expect("the end of a chunk");
        if size == 0 {
            return came;
        }
    }
}

/// One exchange of so many bytes.
fn exchange(world: &World, what: &str, up: Up, bytes: usize) {
    exchange_of(world, (what, up), bytes, sum(bytes));
}

/// The same where the sum of those that go up is known.
fn exchange_of(world: &World, (what, up): (&str, Up), bytes: usize, sum: u64) {
    let stream = world.connect().stream().try_clone().expect("a second descriptor");
    let sending = stream.try_clone().expect("a third descriptor");
    let path = match what {
        "down" => format!("/s/down?bytes={bytes}"),
        _ => format!("/s/{what}"),
    };
    std::thread::scope(|scope| {
        scope.spawn(move || write_body(sending, &path, up, bytes));
        if what == "up" {
            let mut text = Vec::new();
            read_body(stream, |part| text.extend_from_slice(part));
            assert_eq!(String::from_utf8_lossy(&text), format!("{bytes} {sum}"));
            return;
        }
        let pattern = pattern();
        let mut at = 0;
        let came = read_body(stream, |mut part| {
            while !part.is_empty() {
                let count = part.len().min(pattern.len() - at);
                assert!(part[..count] == pattern[at..at + count], "bytes that were never sent");
                at = (at + count) % pattern.len();
                part = &part[count..];
            }
        });
        assert_eq!(came, bytes);
    });
}

/// Peaks of supervisor, proxy and replica, in KiB, over `work`, and how long it took.
#[expect(clippy::disallowed_methods, reason = "the rate is told to who runs it by hand, and never judged")]
fn peaks(world: &World, work: impl FnOnce()) -> ([u64; 3], Duration) {
    let proxy = world.status().proxy.pid.expect("a proxy");
    let pids = [world.supervisor_pid().as_raw(), proxy, world.pids("streams")[0]];
    for pid in pids {
        forget_peak(pid).expect("our own processes");
    }
    let begun = Instant::now();
    work();
    let took = begun.elapsed();
    (pids.map(|pid| status_kib(pid, "VmHWM")), took)
}

fn flat(what: &str, up: Up) {
    let world = World::start_with("max_body = \"4GiB\"\nrequest_timeout_s = 600");
    let config = format!(
        "application = \"bodies\"\n[[deployment]]\nname = \"streams\"\nlibrary = \"{}\"\nclass = \"Streams\"\nroute_prefix = \"/s\"\nargs = {{ folder = {:?} }}\nrequest_timeout_s = 600\n",
        library("fixtures").display(),
        world.path(),
    );
    let _ = world.deploy(&config).ok();
    let sums = [SMALL, large()].map(|bytes| if what == "up" { sum(bytes) } else { 0 });
    let (small, _) = peaks(&world, || exchange_of(&world, (what, up), SMALL, sums[0]));
    let (large_peaks, took) = peaks(&world, || exchange_of(&world, (what, up), large(), sums[1]));
    let mib = large() / MIB;
    let shown = format!(
        "{what} {up:?}: peak RSS of supervisor, proxy, replica {small:?} KiB at 16 MiB, {large_peaks:?} at {mib} MiB; every \
         byte compared, {:.0} MiB/s",
        mib as f64 / took.as_secs_f64()
    );
    let _ = writeln!(std::io::stderr(), "{shown}");
    for (small, large) in small.into_iter().zip(large_peaks) {
        assert!(small > 0 && large <= small + SLACK_KIB, "{shown}");
    }
}

#[test]
fn a_large_body_up_costs_no_more_than_a_small_one() {
    flat("up", Up::Length);
}

#[test]
fn a_large_chunked_body_up_costs_no_more_than_a_small_one() {
    flat("up", Up::Chunked);
}

#[test]
fn a_large_body_down_costs_no_more_than_a_small_one() {
    flat("down", Up::Nothing);
}

#[test]
fn a_large_body_both_ways_at_once_costs_no_more_than_a_small_one() {
    flat("echo", Up::Length);
}

#[test]
fn a_large_chunked_body_both_ways_at_once_costs_no_more_than_a_small_one() {
    flat("echo", Up::Chunked);
}

#[test]
fn clients_that_read_slowly_leave_room_for_one_that_does_not() {
    let world = World::start_with("max_body = \"4GiB\"\nrequest_timeout_s = 600");
    let config = format!(
        "application = \"bodies\"\n[[deployment]]\nname = \"streams\"\nlibrary = \"{}\"\nclass = \"Streams\"\nroute_prefix = \"/s\"\nargs = {{ folder = {:?} }}\nthreads = 40\nmax_ongoing_requests = 64\n",
        library("fixtures").display(),
        world.path(),
    );
    let _ = world.deploy(&config).ok();
    let slow: Vec<_> = (0..32)
        .map(|_| {
            let mut client = world.connect();
            client.request("GET", "/s/down?bytes=100000000", &[], b"").expect("sent");
            // The head has come: the handler runs, and fills whatever takes it.
            client.stream().read_exact(&mut [0; 12]).expect("an answer begins");
            client
        })
        .collect();
    exchange(&world, "down", Up::Nothing, 16 * MIB);
    exchange(&world, "up", Up::Length, 16 * MIB);
    drop(slow);
}

//! Answers and bodies that stream, through the real proxy and a real replica.

use std::io::{Read, Write};

use decurion_tests::{World, library};

fn streams() -> World {
    let world = World::start_with("body_timeout_s = 300");
    // However long a test, or its machine, holds one up: no stream ends by itself.
    let config = format!(
        "application = \"streams\"\n[[deployment]]\nname = \"streams\"\nlibrary = \"{}\"\nclass = \"Streams\"\nroute_prefix = \"/s\"\nthreads = 4\nrequest_timeout_s = 0\nargs = {{ folder = \"{}\" }}\n",
        library("fixtures").display(),
        world.path().display(),
    );
    let _ = world.deploy(&config).ok();
    world
}

/// Reads until `text` has come, or the end; all that came.
fn read_until(stream: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(text) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn let_go(world: &World) {
    std::fs::write(world.path().join("go"), "").expect("write");
}

#[test]
fn events_come_as_they_are_made() {
    let world = streams();
    let mut connection = world.connect();
    connection.request("GET", "/s/events", &[], b"").expect("sent");
    let first = read_until(&mut connection.stream(), "data: one\n\n");
    assert!(first.contains("data: one\n\n"), "{first}");
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    assert!(first.to_lowercase().contains("content-type: text/event-stream"), "{first}");
    assert!(first.to_lowercase().contains("cache-control: no-cache"), "{first}");
    // The second is made only now.
    let_go(&world);
    let rest = read_until(&mut connection.stream(), "0\r\n\r\n");
    assert!(rest.contains("event: second\ndata: {\"two\":2}\n\n"), "{rest}");
    assert_eq!(connection.get("/s/early").expect("kept alive").status, 422);
}

#[test]
fn an_error_after_the_first_byte_cuts_the_answer() {
    let world = streams();
    let mut connection = world.connect();
    connection.request("GET", "/s/cut", &[], b"").expect("sent");
    let first = read_until(&mut connection.stream(), "begun");
    assert!(first.starts_with("HTTP/1.1 200") && first.contains("begun"), "{first}");
    assert!(first.to_lowercase().contains("content-type: text/plain"), "{first}");
    let_go(&world);
    let rest = read_until(&mut connection.stream(), "0\r\n\r\n");
    assert!(!rest.contains("0\r\n\r\n"), "the answer looks whole: {rest:?}");
    assert_eq!(world.get("/s/early").text(), "not that");
}

#[test]
fn a_client_that_leaves_ends_the_writing() {
    let world = streams();
    let mut connection = world.connect();
    connection.request("GET", "/s/endless", &[], b"").expect("sent");
    let first = read_until(&mut connection.stream(), "xxxx");
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    drop(connection);
    let gone = world.path().join("gone");
    // The file is there before its text is.
    let told = || std::fs::read_to_string(&gone).unwrap_or_default().contains("nobody waits");
    world.until("the handler hears of it", |status| {
        told() && status.deployments[0].replicas.iter().all(|replica| replica.ongoing == 0)
    });
}

#[test]
fn a_client_that_leaves_is_noticed_by_a_handler_that_says_nothing() {
    let world = streams();
    let mut connection = world.connect();
    connection.request("GET", "/s/events", &[], b"").expect("sent");
    let first = read_until(&mut connection.stream(), "data: one\n\n");
    assert!(first.contains("data: one\n\n"), "{first}");
    // It waits for a file that never comes to be, and looks whether anybody waits for it.
    drop(connection);
    world.until("the handler hears of it", |status| {
        status.deployments[0].replicas.iter().all(|replica| replica.ongoing == 0)
    });
}

#[test]
fn a_client_that_does_not_read_stops_its_handler() {
    /// What the kernel and the channel hold between the two, with room to spare.
    const BETWEEN_MAX: usize = 48 << 20;
    let world = streams();
    let written = || world.get("/s/written").text().parse::<usize>().expect("a number");
    let mut slow = world.connect();
    slow.request("GET", "/s/endless", &[], b"").expect("sent");
    // Until it has stood still for a while of other work.
    let (mut last, mut same) = (0, 0);
    while same < 300 {
        let now = written();
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        assert!(now < BETWEEN_MAX, "{now} bytes are written, and none is read");
    }
    // It goes on as soon as there is room.
    let mut stream = slow.stream();
    let (mut buffer, mut read) = (vec![0; 1 << 20], 0);
    while read < 2 * BETWEEN_MAX {
        let count = stream.read(&mut buffer).expect("more");
        assert!(count > 0, "it ended after {read} bytes");
        read += count;
    }
    assert!(written() > BETWEEN_MAX);
}

#[test]
fn a_large_body_flows_through_with_flat_memory() {
    // Below the default `max_body`, and far above what a channel holds.
    const SIZE: usize = 60 * 1024 * 1024;
    let world = streams();
    let most_kib = |world: &World| {
        let status = world.get("/s/rss").text();
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM").trim().to_owned();
        line.trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let before = most_kib(&world);
    let connection = world.connect();
    let mut sending = connection.stream().try_clone().expect("a second descriptor");
    let mut receiving = connection.stream().try_clone().expect("a third descriptor");
    let pattern: Vec<u8> =
        (0..65_521u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write!(
                sending,
                "POST /s/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {SIZE}\r\n\r\n"
            )
            .expect("sent");
            let mut left = SIZE;
            while left > 0 {
                let part = &pattern[..left.min(pattern.len())];
                sending.write_all(part).expect("sent");
                left -= part.len();
            }
        });
        let (mut rest, mut came) = (Vec::new(), 0usize);
        let mut buffer = vec![0; 256 * 1024];
        let mut head = true;
        // What is in the chunk at hand; `None`: a size line comes.
        let mut chunk: Option<usize> = None;
        loop {
            let count = receiving.read(&mut buffer).expect("read");
            if count == 0 {
                break;
            }
            rest.extend_from_slice(&buffer[..count]);
            let mut at = 0;
            loop {
                let left = &rest[at..];
                let line_end = |end: &[u8]| {
                    left.windows(end.len()).position(|part| part == end).map(|found| found + end.len())
                };
                if head {
                    let Some(end) = line_end(b"\r\n\r\n") else { break };
                    assert!(left.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&left[..end]));
                    (head, at) = (false, at + end);
                } else if let Some(size) = chunk {
                    if size == 0 {
                        // The line end after a chunk.
                        if left.len() < 2 {
                            break;
                        }
                        (chunk, at) = (None, at + 2);
                        continue;
                    }
                    let take = size.min(left.len());
                    if take == 0 {
                        break;
                    }
                    for (offset, byte) in left[..take].iter().enumerate() {
                        assert!(*byte == pattern[(came + offset) % pattern.len()], "byte {}", came + offset);
                    }
                    came += take;
                    (chunk, at) = (Some(size - take), at + take);
                } else {
                    let Some(end) = line_end(b"\r\n") else { break };
                    let line = String::from_utf8_lossy(&left[..end - 2]).into_owned();
                    chunk = Some(
                        usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("chunk size {line:?}")),
                    );
                    at += end;
                }
            }
            rest.drain(..at);
        }
        assert_eq!(came, SIZE);
    });
    let after = most_kib(&world);
    assert!(after < before + 16 * 1024, "the replica grew from {before} KiB to {after} KiB");
}

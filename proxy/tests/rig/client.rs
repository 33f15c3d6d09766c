//! A raw HTTP client: sends bytes as they are told, reads responses to the letter.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::WATCHDOG;

pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    pub fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream.set_write_timeout(Some(WATCHDOG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Self { stream, buffer: Vec::new() })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// `METHOD PATH` with a Host and these further lines.
    pub fn request(&mut self, method: &str, path: &str, fields: &str, body: &[u8]) -> &mut Self {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{fields}");
        if !body.is_empty() {
            bytes.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        bytes.push_str("\r\n");
        self.send([bytes.as_bytes(), body].concat())
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, "", b"").response()
    }

    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads more: whether there was any.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        let read = self.stream.read(&mut chunk).unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..read]);
        read > 0
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8(self.buffer.drain(..end + 2).collect()).unwrap();
                return Some(line.trim_end().to_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    pub fn take(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill(), "the connection ended {} bytes into {count}", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// A response's head, if one comes.
    pub fn head(&mut self) -> Option<Response> {
        let line = self.line()?;
        let status =
            line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{line:?}"))[..3].parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().expect("a whole head");
            if line.is_empty() {
                return Some(Response { status, headers, body: vec![] });
            }
            let (name, value) = line.split_once(": ").unwrap();
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// A whole response to anything but HEAD.
    pub fn response(&mut self) -> Response {
        let mut response = self.head().expect("a response");
        if response.status == 204 || response.status == 304 || response.status < 200 {
            return response;
        }
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line().expect("a chunk"), 16).unwrap();
                let chunk = self.take(size);
                response.body.extend(chunk);
                assert_eq!(self.line().as_deref(), Some(""));
                if size == 0 {
                    return response;
                }
            }
        }
        match response.header("content-length") {
            Some(length) => response.body = self.take(length.parse().unwrap()),
            None => response.body = self.rest(),
        }
        response
    }

    /// Everything until the connection ends.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits for the end of the connection; nothing may come before.
    pub fn assert_closed(&mut self) {
        assert_eq!(self.rest().escape_ascii().to_string(), "");
    }
}

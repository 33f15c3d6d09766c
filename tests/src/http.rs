//! A plain HTTP/1.1 client that shows exactly what came.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing of ours takes so long; a test that waits longer hangs.
const WATCHDOG: Duration = Duration::from_secs(180);

/// One connection, kept alive between requests.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Bytes that came and belong to the next response.
    rest: Vec<u8>,
}

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, de-chunked.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header field of this name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, WATCHDOG)?;
        stream.set_read_timeout(Some(WATCHDOG))?;
        stream.set_write_timeout(Some(WATCHDOG))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, rest: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one request, with a `Content-Length` where it has a body.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes)
    }

    /// Sends a GET and reads its response.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request("GET", path, &[], b"")?;
        self.read()
    }

    /// Sends a POST and reads its response.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Response> {
        self.request("POST", path, &[("content-type", "application/json")], body)?;
        self.read()
    }

    /// Reads one response, interim ones left out.
    ///
    /// # Errors
    /// The connection was closed before it was whole (`UnexpectedEof`), or it is malformed (`InvalidData`).
    pub fn read(&mut self) -> io::Result<Response> {
        loop {
            let (mut response, length) = self.read_head()?;
            if response.status < 200 && response.status != 101 {
                continue;
            }
            response.body = match length {
                Length::Known(length) => self.take(length)?,
                Length::Chunked => self.read_chunks()?,
                Length::UntilClose => self.read_to_end()?,
            };
            return Ok(response);
        }
    }

    /// The stream underneath, for tests that do what no client should.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether the other side has closed, with nothing left to read.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.rest.is_empty() && self.more()? == 0)
    }

    fn read_head(&mut self) -> io::Result<(Response, Length)> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 100];
            let mut parsed = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(used) =
                parsed.parse(&self.rest).map_err(|error| invalid(error.to_string()))?
            {
                let headers: Vec<(String, String)> = (parsed.headers.iter())
                    .map(|field| {
                        (field.name.to_lowercase(), String::from_utf8_lossy(field.value).into_owned())
                    })
                    .collect();
                let status = parsed.code.unwrap_or(0);
                let response = Response { status, headers, body: Vec::new() };
                let length = match (response.header("content-length"), response.header("transfer-encoding")) {
                    _ if status < 200 || status == 204 || status == 304 => Length::Known(0),
                    (Some(length), None) => {
                        Length::Known(length.parse().map_err(|_| invalid(format!("length {length}")))?)
                    }
                    (None, Some("chunked")) => Length::Chunked,
                    (None, None) => Length::UntilClose,
                    both => return Err(invalid(format!("framing {both:?}"))),
                };
                self.rest.drain(..used);
                return Ok((response, length));
            }
            self.more_or_fail()?;
        }
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line()?;
            let size = usize::from_str_radix(line.trim(), 16)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("chunk size {line:?}")))?;
            body.extend(self.take(size)?);
            let end = self.take_line()?;
            if !end.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("after a chunk: {end:?}")));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.rest.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2)?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more_or_fail()?;
        }
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.rest.len() < count {
            self.more_or_fail()?;
        }
        Ok(self.rest.drain(..count).collect())
    }

    fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.rest))
    }

    fn more_or_fail(&mut self) -> io::Result<()> {
        if self.more()? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 * 1024];
        let count = loop {
            match self.stream.read(&mut buffer) {
                // A read with a time limit is not begun again by the kernel when this process is stopped and goes on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        self.rest.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

enum Length {
    Known(usize),
    Chunked,
    UntilClose,
}

//! Follows a stream of server-sent events as an iterator that blocks.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::AdminError;
use super::http::{self, Ask, Method};
use super::sse::Parser;

/// What happens from now on. Ends when the supervisor ends, or after the first error.
#[derive(Debug)]
pub struct Follow<T> {
    socket: PathBuf,
    /// `None` once it has ended.
    source: Option<(Runtime, Incoming)>,
    parser: Parser,
    ready: VecDeque<Vec<u8>>,
    items: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Follow<T> {
    pub(super) fn open(socket: &Path, path: String) -> Result<Self, AdminError> {
        let (runtime, response) = http::send_streamed(socket, Ask::new(Method::GET, path))?;
        Ok(Self {
            socket: socket.to_owned(),
            source: Some((runtime, response.into_body())),
            parser: Parser::default(),
            ready: VecDeque::new(),
            items: PhantomData,
        })
    }

    fn strange(&self, what: String) -> AdminError {
        AdminError::Strange { socket: self.socket.clone(), what }
    }

    /// Reads one frame. `Ok(false)`: it was the end.
    fn read(&mut self) -> Result<bool, AdminError> {
        let Some((runtime, body)) = &mut self.source else { return Ok(false) };
        match runtime.block_on(body.frame()) {
            None => Ok(false),
            Some(Err(error)) => Err(http::broken(&self.socket, error)),
            Some(Ok(frame)) => {
                let bytes = frame.into_data().unwrap_or_default();
                let ready = &mut self.ready;
                let fed = self.parser.feed(&bytes, |data| ready.push_back(data.to_vec()));
                fed.map(|()| true).map_err(|_| self.strange("an event without end".to_owned()))
            }
        }
    }
}

impl<T: DeserializeOwned> Iterator for Follow<T> {
    type Item = Result<T, AdminError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                let item = serde_json::from_slice(&data);
                return Some(item.map_err(|error| self.strange(error.to_string())));
            }
            match self.read() {
                Ok(true) => {}
                Ok(false) => {
                    self.source = None;
                    return None;
                }
                Err(error) => {
                    self.source = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

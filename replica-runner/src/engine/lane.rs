//! A caller's lane, what comes by it, and what the class looks like that is asked for.

use decurion_ipc::channel::{InBlock, Request as Incoming, Responder, StreamId};
use decurion_ipc::control::CallerKind;
use decurion_ipc::record::{Kind, RecordError};

use crate::exchange::RequestView;
use crate::gate::Entry;
use crate::slab::Key;

/// What a class looks like from here.
#[derive(Debug, Default)]
pub(crate) struct ClassShape {
    /// How `call` takes the instance; `None`: no HTTP side.
    pub(crate) call: Option<Entry>,
    /// Name and entry of each method, by index.
    pub(crate) methods: Vec<(String, Entry)>,
}

impl ClassShape {
    /// Finds what a request asks for, and tells its view the method's index. `None`: there is no such entry.
    pub(super) fn find(&self, view: &mut RequestView) -> Option<Entry> {
        match view.kind() {
            Kind::Http => self.call,
            Kind::Call => {
                let asked = view.method();
                let index = self.methods.iter().position(|(known, _)| known == asked)?;
                view.set_method_index(u32::try_from(index).ok()?);
                Some(self.methods[index].1)
            }
        }
    }

    /// Why a request finds no entry.
    pub(super) fn refusal(&self, view: &RequestView) -> String {
        match view.kind() {
            Kind::Http => "this deployment has no HTTP side; it is reached by handle only".to_owned(),
            Kind::Call => {
                let names: Vec<&str> = self.methods.iter().map(|(name, _)| name.as_str()).collect();
                format!(
                    "there is no method '{}'; available methods: {}",
                    view.method(),
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                )
            }
        }
    }
}

/// A caller's lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) responder: Responder,
    pub(super) caller: CallerKind,
    /// Something was written to it that the caller was not told of yet.
    pub(super) dirty: bool,
    /// By the stream's index: the exchange of its last use, until that is over.
    streams: Vec<Option<(StreamId, Key)>>,
}

impl Lane {
    pub(super) fn new(responder: Responder, caller: CallerKind) -> Self {
        Self { responder, caller, dirty: false, streams: Vec::new() }
    }

    /// The exchange of a stream.
    pub(super) fn key(&self, stream: StreamId) -> Option<Key> {
        let (known, key) = self.streams.get(stream.index()).copied().flatten()?;
        (known == stream).then_some(key)
    }

    /// A stream begins. The channel has checked that its place is free.
    pub(super) fn begin(&mut self, stream: StreamId, key: Key) {
        if self.streams.len() <= stream.index() {
            self.streams.resize(stream.index() + 1, None);
        }
        self.streams[stream.index()] = Some((stream, key));
    }

    /// Forgets a stream, unless its place is in use again.
    pub(super) fn end(&mut self, stream: StreamId) {
        if self.key(stream).is_some() {
            self.streams[stream.index()] = None;
        }
    }

    /// Every exchange that is not over.
    pub(super) fn into_keys(self) -> impl Iterator<Item = Key> {
        self.streams.into_iter().flatten().map(|(_, key)| key)
    }
}

/// Views to be used again. In boxes, since the library holds pointers into them while they are in use.
pub(super) type SpareViews = Vec<Box<RequestView>>;

/// What a caller sent, copied out of its lane.
#[derive(Debug)]
pub(super) enum Arrival {
    Open { stream: StreamId, view: Result<Box<RequestView>, RecordError>, body: Option<InBlock>, end: bool },
    Data { stream: StreamId, block: InBlock, end: bool },
    End(StreamId),
    Cancel(StreamId),
    Room(StreamId),
}

impl Arrival {
    /// Takes a view from the spare ones where there is one: most requests then need no memory of their own.
    pub(super) fn of(request: Incoming<'_>, spare: &mut SpareViews) -> Self {
        match request {
            Incoming::Open { stream, head, body, end } => {
                let mut view = spare.pop().unwrap_or_default();
                let view = view.read(head).map(|()| view);
                Arrival::Open { stream, view, body, end }
            }
            Incoming::Data { stream, block, end } => Arrival::Data { stream, block, end },
            Incoming::End(stream) => Arrival::End(stream),
            Incoming::Cancel(stream) => Arrival::Cancel(stream),
            Incoming::Room(stream) => Arrival::Room(stream),
        }
    }
}

//! One call through a handle, from its arguments to its reply.

use decurion_api::name::nearest;
use decurion_api::{DeploymentName, ReplicaId};

use super::REPLY_MAX;
use crate::board::model_hash;
use crate::channel::{BLOCK_MAX, Busy, InBlock, NoRoom, Requester, StreamId};
use crate::epoch::Epoch;
use crate::record::{HEAD_MAX, Kind, RecordError, RequestHead, ResponseHead};

/// Names a call of one [`Caller`](super::Caller); never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub(super) u64);

/// Header fields, name and value.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a call is made of. All but the body is written into its head at once, and so only lent.
#[derive(Clone, Debug)]
pub struct NewCall<'a> {
    /// Who is called.
    pub deployment: DeploymentName,
    /// A method, or the class's `call`.
    pub kind: Kind,
    /// The method's name, or the HTTP method.
    pub method: &'a str,
    /// Path and query for HTTP.
    pub target: &'a str,
    /// Header fields, name and value.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// `decurion_abi::encoding` of the body.
    pub encoding: u32,
    /// Arguments, or the HTTP body.
    pub body: Vec<u8>,
    /// Request id that travels along.
    pub id: &'a str,
    /// Trace context that travels along.
    pub traceparent: &'a str,
    /// CLOCK_MONOTONIC nanoseconds; 0: no deadline.
    pub deadline_ns: u64,
    /// Model that it asks for, or empty: replicas that hold it are preferred.
    pub model_id: &'a str,
    /// The one replica that is to answer, whatever its version; `None`: the least loaded.
    pub replica: Option<ReplicaId>,
    /// Of the request on whose behalf it is made; `None`: it enters here, with the present one.
    pub epoch: Option<Epoch>,
}

/// A whole reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status, or 200 for a result and else the class of the error.
    pub status: u16,
    /// `decurion_abi::encoding` of the body.
    pub encoding: u32,
    /// Header fields of an HTTP answer.
    pub headers: Fields,
    /// The result, the answer's body, or the error's text.
    pub body: Vec<u8>,
}

/// Why a call has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no such deployment.
    #[error("there is no deployment '{deployment}'{}; there are: {}", meant(deployment, known), names(known))]
    NotFound {
        /// Which was asked for.
        deployment: DeploymentName,
        /// Those that exist.
        known: Vec<DeploymentName>,
    },
    /// Too many calls wait. Nothing was run.
    #[error("no replica has room, and {waiting} calls wait already")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The deployment failed and nothing of it serves. Nothing was run.
    #[error("{0}")]
    Unavailable(String),
    /// Its header fields, target and names do not fit one head. Nothing was run.
    #[error("the call's head has {length} bytes, and at most {HEAD_MAX} are allowed")]
    TooLarge {
        /// Of the head.
        length: usize,
    },
    /// The one replica that was to answer takes no calls any more. Nothing was run.
    #[error("replica {0} takes no calls any more")]
    Gone(ReplicaId),
    /// Nobody waits any more.
    #[error("cancelled")]
    Cancelled,
    /// The time is up.
    #[error("the deadline passed")]
    Deadline,
    /// The replica died, or cut its answer off, after it had taken the call.
    #[error("the replica died while it ran the call")]
    Broken,
}

fn meant(asked: &DeploymentName, known: &[DeploymentName]) -> String {
    let nearest = nearest(asked.as_str(), known.iter().map(DeploymentName::as_str));
    nearest.map_or_else(String::new, |name| format!(", did you mean '{name}'?"))
}

fn names(known: &[DeploymentName]) -> String {
    if known.is_empty() {
        return "none".to_owned();
    }
    known.iter().map(DeploymentName::as_str).collect::<Vec<_>>().join(", ")
}

/// What became of a call so far.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// The reply is complete.
    Ready,
    /// There will be none.
    Failed(CallError),
}

/// Where a call stands.
#[derive(Debug)]
pub(super) enum State {
    /// For a replica with room.
    Waiting,
    /// With a replica; no byte of a reply has come.
    Sent,
    /// The reply comes in.
    Replying,
    /// The reply is complete.
    Complete,
    /// There will be none.
    Failed(CallError),
}

/// Where a call was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) replica: ReplicaId,
    pub(super) stream: StreamId,
}

/// A call in progress.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) deployment: DeploymentName,
    /// The one replica that is to answer.
    pub(super) only: Option<ReplicaId>,
    /// Of the request on whose behalf it is made; `None`: it enters here.
    pub(super) of_epoch: Option<Epoch>,
    pub(super) deadline_ns: u64,
    /// Its head, as it is sent.
    record: Vec<u8>,
    /// Kept whole until the call is over: it may have to be sent again.
    body: Vec<u8>,
    pub(super) state: State,
    pub(super) sent: Option<Sent>,
    /// How much of the body was sent. `0 <= pumped <= body.len()`
    pumped: usize,
    reply: Reply,
    /// How much of the reply's body was read as a stream; `None`: it is kept as a whole.
    read: Option<usize>,
    /// Of the reply, not copied yet.
    pub(super) blocks: Vec<InBlock>,
    /// Somebody wants to be told when something becomes of it.
    pub(super) watched: bool,
    /// Hash of its model; 0: none.
    pub(super) model: u64,
    /// With which epoch it was sent.
    pub(super) epoch: Epoch,
}

impl Call {
    pub(super) fn new(new: NewCall<'_>) -> Self {
        let record = record(&new);
        let epoch = new.epoch.unwrap_or_default();
        let model = if new.model_id.is_empty() { 0 } else { model_hash(new.model_id) };
        Self {
            deployment: new.deployment,
            only: new.replica,
            of_epoch: new.epoch,
            deadline_ns: new.deadline_ns,
            record,
            body: new.body,
            state: State::Waiting,
            sent: None,
            pumped: 0,
            reply: Reply::default(),
            read: None,
            blocks: Vec::new(),
            watched: false,
            model,
            epoch,
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match &self.state {
            State::Waiting | State::Sent | State::Replying => Outcome::Pending,
            State::Complete => Outcome::Ready,
            State::Failed(error) => Outcome::Failed(error.clone()),
        }
    }

    /// Status, encoding and fields of a reply that has begun.
    pub(super) fn begun(&self) -> Option<&Reply> {
        matches!(self.state, State::Replying | State::Complete).then_some(&self.reply)
    }

    pub(super) fn take_reply(&mut self) -> Option<Reply> {
        matches!(self.state, State::Complete).then(|| std::mem::take(&mut self.reply))
    }

    pub(super) fn is_streamed(&self) -> bool {
        self.read.is_some()
    }

    /// Bytes of a streamed reply that nobody has read yet.
    pub(super) fn held_back(&self) -> usize {
        self.reply.body.len()
    }

    pub(super) fn stream(&mut self) {
        self.read.get_or_insert(0);
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, CallError> {
        self.read.get_or_insert(0);
        let count = buffer.len().min(self.reply.body.len());
        if count > 0 {
            buffer[..count].copy_from_slice(&self.reply.body[..count]);
            self.reply.body.drain(..count);
            return Ok(Some(count));
        }
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            State::Complete => Ok(Some(0)),
            State::Waiting | State::Sent | State::Replying => Ok(None),
        }
    }

    /// Whether it was sent, but for some of its arguments.
    pub(super) fn is_partly_sent(&self) -> bool {
        self.sent.is_some() && self.pumped < self.body.len()
    }

    /// Bytes of its head's record.
    pub(super) fn head_length(&self) -> usize {
        self.record.len()
    }

    /// Opens a stream for this call, with the body where it fits.
    pub(super) fn open(&mut self, lane: &mut Requester, epoch: Epoch) -> Result<StreamId, Busy> {
        RequestHead::stamp(&mut self.record, epoch);
        self.epoch = epoch;
        let (record, body) = (&self.record, &self.body);
        let fits = record.len() + body.len() <= BLOCK_MAX;
        let inline = if fits { body.as_slice() } else { &[] };
        let (stream, sent) = match lane.open(record, inline, fits) {
            // Room for the head alone may be there, and the rest follows as room comes.
            Err(Busy::Arena) if !inline.is_empty() => (lane.open(record, &[], false)?, 0),
            opened => (opened?, inline.len()),
        };
        self.pumped = sent;
        Ok(stream)
    }

    /// Sends more of the body, as far as there is room.
    pub(super) fn pump(&mut self, lane: &mut Requester, stream: StreamId) {
        while self.pumped < self.body.len() {
            let rest = &self.body[self.pumped..];
            match lane.block(stream, rest.len().min(BLOCK_MAX)) {
                Ok(mut block) => {
                    self.pumped += lane.fill(&mut block, rest);
                    lane.send(stream, block, self.pumped == self.body.len());
                }
                // Later: a `Room` will come. The other two: the stream is over, and its end comes by itself.
                Err(NoRoom::Later | NoRoom::TooLarge | NoRoom::Gone) => return,
            }
        }
    }

    /// Whether it has entered here, with an epoch before this one, and is under way.
    pub(super) fn has_entered_before(&self, entry: Epoch) -> bool {
        let under_way = matches!(self.state, State::Sent | State::Replying);
        self.of_epoch.is_none() && under_way && self.epoch < entry
    }

    /// Nothing of it was run: it may be sent again.
    pub(super) fn withdraw(&mut self) {
        self.sent = None;
        self.pumped = 0;
        self.state = State::Waiting;
    }

    pub(super) fn begin_reply(&mut self, head: ReplyHead) {
        self.reply.status = head.status;
        self.reply.encoding = head.encoding;
        self.reply.headers = head.headers;
        if matches!(self.state, State::Sent) {
            self.state = State::Replying;
        }
    }

    /// Copies blocks that have come; `false` where the reply is larger than it may be.
    pub(super) fn absorb(&mut self, lane: &mut Requester) -> bool {
        let mut fits = true;
        for block in self.blocks.drain(..) {
            let at = self.reply.body.len();
            fits &= at + block.len() <= REPLY_MAX;
            if fits {
                self.reply.body.resize(at + block.len(), 0);
                lane.copy_to(&block, 0, &mut self.reply.body[at..]);
            }
            lane.give_back(block);
        }
        fits
    }

    /// The reply is whole. What was not sent of the arguments is not wanted any more.
    pub(super) fn complete(&mut self, lane: &mut Requester, stream: StreamId) {
        self.absorb(lane);
        if self.pumped < self.body.len() {
            lane.cancel(stream);
        }
        self.sent = None;
        if matches!(self.state, State::Sent | State::Replying) {
            self.state = State::Complete;
        }
    }
}

/// What a reply begins with.
#[derive(Debug)]
pub(super) struct ReplyHead {
    status: u16,
    encoding: u32,
    headers: Fields,
}

impl ReplyHead {
    pub(super) fn read(record: &[u8]) -> Result<Self, RecordError> {
        let (ResponseHead { status, encoding, .. }, fields) = ResponseHead::parse(record)?;
        let headers = fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        Ok(Self { status, encoding, headers })
    }
}

/// The head of a call.
fn record(new: &NewCall<'_>) -> Vec<u8> {
    let (path, query) = new.target.split_once('?').unwrap_or((new.target, ""));
    let head = RequestHead {
        kind: new.kind,
        id: new.id,
        method: new.method,
        path: path.as_bytes(),
        query: query.as_bytes(),
        route_prefix: "",
        traceparent: new.traceparent,
        model_id: new.model_id,
        deadline_ns: new.deadline_ns,
        content_length: Some(new.body.len() as u64),
        encoding: new.encoding,
        method_index: u32::MAX,
        epoch: new.epoch.unwrap_or_default(),
    };
    let mut record = Vec::with_capacity(256);
    head.encode(new.headers.iter().copied(), &mut record);
    record
}

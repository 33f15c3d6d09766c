//! What a process with handles knows of the deployments it calls, and of their replicas.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use decurion_api::{DeploymentName, ReplicaId};

use super::call::{CallError, CallKey};
use super::own_map::OwnMap;
use crate::board::BoardReader;
use crate::channel::{Requester, StreamId};
use crate::control::{CanaryView, DeploymentView, Generation};
use crate::epoch::Epoch;

/// One deployment, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Callee {
    current: Known,
    announced: Option<(Generation, Known)>,
    /// Counts what was sent, so that equally loaded replicas have their turns.
    pub(super) turn: usize,
    /// Calls without a replica, first come first.
    pub(super) waiting: VecDeque<CallKey>,
    /// The supervisor was told that some wait where there is no replica.
    told: bool,
}

/// What the supervisor has said.
#[derive(Debug, Default)]
enum Known {
    /// Nothing yet.
    #[default]
    Nothing,
    /// It exists.
    View(Box<DeploymentView>),
    /// It does not; these do.
    Absent(Vec<DeploymentName>),
}

impl Callee {
    /// Keeps what the supervisor says until it can be acted on; the newest word wins.
    pub(super) fn announce(
        &mut self,
        generation: Generation,
        view: Option<Box<DeploymentView>>,
        known: Vec<DeploymentName>,
    ) {
        let news = view.map_or(Known::Absent(known), Known::View);
        self.announced = Some((generation, news));
    }

    /// How many wait, where the supervisor has to be told: some do and there is no replica, or none do any more.
    pub(super) fn news_of_waiting(&mut self) -> Option<u32> {
        let without = matches!(&self.current, Known::View(view) if view.replicas.is_empty());
        let wait = !self.waiting.is_empty();
        if wait == self.told || (wait && !without) {
            return None;
        }
        self.told = wait;
        Some(u32::try_from(self.waiting.len()).unwrap_or(u32::MAX))
    }

    /// Whether what was announced can be acted on.
    pub(super) fn is_ready(&self, awaited: &BTreeSet<ReplicaId>) -> bool {
        match &self.announced {
            Some((_, Known::View(view))) => !view.replicas.iter().any(|replica| awaited.contains(replica)),
            Some(_) => true,
            None => false,
        }
    }

    /// Acts on what was announced.
    pub(super) fn apply(&mut self) -> Option<Generation> {
        let (generation, news) = self.announced.take()?;
        self.current = news;
        Some(generation)
    }

    /// The view to go by; `None`: nothing is known yet.
    pub(super) fn check(&self, deployment: &DeploymentName) -> Result<Option<&DeploymentView>, CallError> {
        match &self.current {
            Known::Nothing => Ok(None),
            Known::View(view) => Ok(Some(view)),
            Known::Absent(known) => {
                Err(CallError::NotFound { deployment: deployment.clone(), known: known.clone() })
            }
        }
    }

    /// What calls that enter now carry; `None`: there is no view.
    pub(super) fn entry(&self) -> Option<Epoch> {
        match &self.current {
            Known::View(view) => Some(view.entry),
            Known::Nothing | Known::Absent(_) => None,
        }
    }

    /// Whether new calls may go to this replica, now or by what was announced.
    pub(super) fn names(&self, replica: &ReplicaId) -> bool {
        let announced = self.announced.as_ref().map(|(_, known)| known);
        [Some(&self.current), announced].into_iter().flatten().any(|known| match known {
            Known::View(view) => view.replicas.contains(replica),
            Known::Nothing | Known::Absent(_) => false,
        })
    }
}

/// A channel to one replica.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) lane: Requester,
    /// Nothing may be sent to it any more.
    pub(super) dead: bool,
    /// A view has named it.
    pub(super) named: bool,
    board: BoardReader,
    /// Calls by their stream, until the stream has ended.
    pub(super) streams: OwnMap<StreamId, CallKey>,
}

impl Peer {
    pub(super) fn new(lane: Requester, board: BoardReader) -> Self {
        Self { lane, dead: false, named: false, board, streams: OwnMap::default() }
    }

    /// Whether one more call of ours fits. Others' calls are the replica's to count: it takes no more than its
    /// bound, whoever calls.
    pub(super) fn has_room(&self, view: &DeploymentView) -> bool {
        !self.dead && self.lane.in_flight() < view.max_ongoing_requests as usize
    }

    /// Requests in flight there: ours, and those of others as far as it says.
    fn load(&self) -> u64 {
        self.board.ongoing().max(self.lane.in_flight() as u64)
    }
}

/// What a call asks of the replica it goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// Decides between equals, so that each has its share, and whether a version that is a canary has its own.
    pub(super) turn: usize,
    /// Hash of a model; 0: none.
    pub(super) model: u64,
    /// No other will do.
    pub(super) only: Option<&'a ReplicaId>,
    /// They were tried, and had no room after all.
    pub(super) tried: &'a [ReplicaId],
    /// Of the request.
    pub(super) epoch: Epoch,
}

/// The least loaded replica with room. Those that hold the model come first; among equals without it, the same one
/// for each who asks for that model.
pub(super) fn least_loaded<'a>(
    view: &'a DeploymentView,
    peers: &BTreeMap<ReplicaId, Peer>,
    wish: Wish<'_>,
) -> Option<&'a ReplicaId> {
    let count = view.replicas.len();
    let turn = if wish.model == 0 { wish.turn } else { usize::try_from(wish.model >> 1).unwrap_or(0) };
    // One replica that is asked for by name answers whatever its version.
    let suitable = || {
        let any = wish.only.map(|_| view.in_rotation()).into_iter().flatten();
        let of_its_epoch = wish.only.is_none().then(|| view.in_rotation_at(wish.epoch)).into_iter().flatten();
        any.chain(of_its_epoch)
    };
    let least = |belongs: &dyn Fn(&ReplicaId) -> bool| {
        let fitting = suitable().enumerate().filter_map(|(place, id)| {
            if wish.only.is_some_and(|only| only != id) || wish.tried.contains(id) || !belongs(id) {
                return None;
            }
            let peer = peers.get(id).filter(|peer| peer.has_room(view))?;
            let lacks = wish.model != 0 && !peer.board.holds_model(wish.model);
            // What it says itself may be old: it has answered, and has not counted that yet. Ours is not.
            Some((lacks, peer.load(), peer.lane.in_flight(), place.wrapping_add(turn) % count, id))
        });
        fitting.min().map(|(.., id)| id)
    };
    let Some(canary) = view.canary.as_ref().filter(|_| wish.only.is_none()) else { return least(&|_| true) };
    let is_canary = |id: &ReplicaId| canary.replicas.contains(id);
    let lives = |id: &ReplicaId| peers.get(id).is_some_and(|peer| !peer.dead);
    if CanaryView::draws(canary.weight, u64::try_from(wish.turn).unwrap_or(0)) {
        least(&is_canary).or_else(|| least(&|id| !is_canary(id)))
    } else if view.in_rotation().any(|id| !is_canary(id) && lives(id)) {
        least(&|id| !is_canary(id))
    } else {
        least(&is_canary)
    }
}

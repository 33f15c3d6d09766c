//! One deployment as it is observed: its places, how its newest change goes, and who ended.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use decurion_api::status::EndedReplica;
use decurion_ipc::epoch::Epoch;

use crate::desired::{ConfigId, TemplateId, Wanted, fields_of};
use crate::reconcile::autoscale::Autoscaler;
use crate::reconcile::backoff::{self, DELAY_MAX, DELAY_UNPROVEN_MAX, GOOD_LIFE};
use crate::reconcile::canary::Canary;
use crate::reconcile::fact::CallerId;
use crate::reconcile::together::Form;

/// One deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// What it is to be, or was to be before it was deleted.
    pub wanted: Wanted,
    /// Whether it is deleted, and only its replicas are still to go.
    pub deleted: bool,
    /// What became of each place; made when a replica fails there.
    pub places: BTreeMap<u32, Place>,
    /// What requests meet that enter now: another template waits until its set changes over.
    pub form: Form,
    /// How the newest change goes.
    pub rollout: Rollout,
    /// Templates that were good once, newest last; at most [`RAN_MAX`].
    pub ran: VecDeque<TemplateId>,
    /// How replicas ended, newest first; at most [`ENDED_MAX`].
    pub ended: VecDeque<EndedReplica>,
    /// A `user_config` that a replica has refused, with its words.
    pub config_refused: Option<(ConfigId, String)>,
    /// When the desired state may be asked to go back (again).
    pub put_back_at: Option<Instant>,
    /// What decides the number of its replicas, where the load does.
    pub autoscaler: Option<Autoscaler>,
    /// The number that it may go to, if that holds: when, and one sentence.
    pub leaning: Option<(Instant, String)>,
    /// A new version that is tried, or was.
    pub canary: Option<Canary>,
    /// How the trial goes: one sentence, and when there may be more to say.
    pub trial: Option<(String, Option<Instant>)>,
    /// The load has moved the number, and the replicas are not there yet, or not gone.
    pub moving: bool,
    /// A replica of it can't start for want of room.
    pub short_of_room: bool,
    /// Requests that wait for a replica, by who has them.
    pub waiting: BTreeMap<CallerId, u64>,
    /// Requests that are with a replica, by who has sent them.
    pub in_flight: BTreeMap<CallerId, u64>,
}

/// What became of the replicas of one place.
#[derive(Clone, Debug)]
pub struct Place {
    /// What they ran: another template starts from nothing.
    pub template: TemplateId,
    /// Failures in a row.
    pub failures: u32,
    /// Failures in sum.
    pub restarts: u64,
    /// Before this none is started there.
    pub next_start: Instant,
}

/// How the newest change of a deployment goes.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Revision that holds the change.
    pub revision: u64,
    /// What kind of change.
    pub kind: RolloutKind,
    /// How it goes.
    pub outcome: Outcome,
    /// Failed starts since the template is wanted, or since it was last good.
    pub failures: u32,
    /// Before this no replica of a template that never ran is started.
    pub next_start: Option<Instant>,
    /// How the last one failed.
    pub last_failure: Option<String>,
}

/// Kinds of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutKind {
    /// There was none before.
    Create,
    /// Another template.
    Update,
    /// Settings that running replicas take.
    Configure,
    /// More replicas, and nothing else.
    Upscale,
    /// Fewer replicas, and nothing else.
    Downscale,
}

/// How a change goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On its way.
    Progressing,
    /// Everything is as wanted.
    Done,
    /// It stopped; this is why.
    Failed(String),
}

/// Ended replicas that a deployment remembers.
pub const ENDED_MAX: usize = 10;
/// Templates that a deployment remembers as good.
pub const RAN_MAX: usize = 16;

impl Deployment {
    /// A deployment that is new to us.
    #[must_use]
    pub fn new(wanted: &Wanted) -> Self {
        Self {
            wanted: wanted.clone(),
            deleted: false,
            places: BTreeMap::new(),
            form: Form { template: wanted.template.clone(), since: Epoch::default() },
            rollout: Rollout::new(wanted.revision, RolloutKind::Create),
            ran: VecDeque::new(),
            ended: VecDeque::new(),
            config_refused: None,
            put_back_at: None,
            autoscaler: wanted
                .spec
                .autoscaling
                .as_ref()
                .map(|spec| Autoscaler::new(spec, wanted.spec.num_replicas)),
            canary: None,
            trial: None,
            leaning: None,
            moving: false,
            short_of_room: false,
            waiting: BTreeMap::new(),
            in_flight: BTreeMap::new(),
        }
    }

    /// How many replicas there are to be.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.autoscaler.as_ref().map_or(self.wanted.spec.num_replicas, Autoscaler::number)
    }

    /// Whether it asks for more than it had: whoever only wants back what it had comes before.
    #[must_use]
    pub fn asks_for_more(&self) -> bool {
        let grows = matches!(self.rollout.kind, RolloutKind::Create | RolloutKind::Upscale);
        self.moving || (grows && self.rollout.outcome != Outcome::Done)
    }

    /// Takes a newer form of what it is to be.
    pub fn accept(&mut self, wanted: &Wanted) {
        let revived = std::mem::replace(&mut self.deleted, false);
        if wanted.revision != self.rollout.revision || revived {
            self.rollout = self.next_rollout(wanted, revived);
            if wanted.template != self.wanted.template {
                self.canary = self.wants_trial(wanted).then(Canary::default);
                self.trial = None;
            }
            self.config_refused = None;
            self.put_back_at = None;
        }
        let number = self.number();
        match (&wanted.spec.autoscaling, &mut self.autoscaler) {
            (Some(spec), Some(scaler)) if !revived => scaler.accept(spec),
            (Some(spec), scaler) => {
                let first = if revived { wanted.spec.num_replicas } else { number };
                *scaler = Some(Autoscaler::new(spec, first));
            }
            (None, scaler) => *scaler = None,
        }
        self.wanted = wanted.clone();
    }

    /// The first request after a time without replicas: what was deployed meanwhile is tried only now.
    pub fn wake(&mut self) {
        if !self.has_run(&self.wanted.template) && self.rollout.outcome == Outcome::Done {
            self.rollout.outcome = Outcome::Progressing;
        }
    }

    /// Whether a new version is to be tried first: one that is known to be good need not, and one whose answers can't
    /// be told from the old one's can't.
    fn wants_trial(&self, wanted: &Wanted) -> bool {
        wanted.spec.rollout.canary.is_some()
            && wanted.before.as_ref().is_some_and(|before| before.version != wanted.version)
            && !self.has_run(&wanted.template)
            && wanted.rolled_back.is_none()
    }

    /// Whether a new version is being tried.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        self.rollout.outcome == Outcome::Progressing
            && self.wanted.spec.rollout.canary.is_some()
            && self.canary.as_ref().is_some_and(Canary::is_tried)
    }

    /// Whether the new version was tried and is to go.
    #[must_use]
    pub fn is_taken_back(&self) -> bool {
        self.canary.as_ref().is_some_and(Canary::is_taken_back)
    }

    fn next_rollout(&self, wanted: &Wanted, revived: bool) -> Rollout {
        let held = &self.rollout;
        if revived {
            return Rollout::new(wanted.revision, RolloutKind::Create);
        }
        if wanted.template != self.wanted.template {
            return Rollout::new(wanted.revision, RolloutKind::Update);
        }
        let kind = match (held.kind, &held.outcome) {
            // A change of the number while another change goes on is part of that.
            (RolloutKind::Create | RolloutKind::Update, Outcome::Progressing | Outcome::Failed(_)) => {
                held.kind
            }
            _ => self.kind_without_restart(wanted),
        };
        let outcome = match &held.outcome {
            // The same code that failed: asking for another number of it is no other try.
            Outcome::Failed(why) => Outcome::Failed(why.clone()),
            _ => Outcome::Progressing,
        };
        Rollout { revision: wanted.revision, kind, outcome, ..held.clone() }
    }

    fn kind_without_restart(&self, wanted: &Wanted) -> RolloutKind {
        let (held, next) = (fields_of(&self.wanted.spec), fields_of(&wanted.spec));
        let only_number =
            next.iter().all(|(field, value)| field == "num_replicas" || held.get(field) == Some(value));
        match wanted.spec.num_replicas.cmp(&self.wanted.spec.num_replicas) {
            std::cmp::Ordering::Greater if only_number => RolloutKind::Upscale,
            std::cmp::Ordering::Less if only_number => RolloutKind::Downscale,
            _ => RolloutKind::Configure,
        }
    }

    /// Whether it is rolled out only in that no replica of it is wanted, and none ever ran.
    #[must_use]
    pub fn is_untried(&self) -> bool {
        self.number() == 0 && !self.has_run(&self.wanted.template)
    }

    /// Whether the update has failed and stopped.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        matches!(self.rollout.outcome, Outcome::Failed(_))
    }

    /// What runs where the update has stopped: the last good form.
    #[must_use]
    pub fn fallback(&self) -> Option<&Wanted> {
        let before = self.wanted.before.as_deref().filter(|_| self.is_halted());
        before.filter(|before| self.may_run(&before.template))
    }

    /// Whether this template was good once.
    #[must_use]
    pub fn has_run(&self, template: &TemplateId) -> bool {
        self.ran.contains(template) || self.wanted.before.as_deref().is_some_and(|w| w.template == *template)
    }

    /// Notes that the wanted template is good.
    pub fn prove(&mut self) {
        let template = self.wanted.template.clone();
        if !self.ran.contains(&template) {
            if self.ran.len() == RAN_MAX {
                self.ran.pop_front();
            }
            self.ran.push_back(template);
        }
        self.rollout.failures = 0;
        self.rollout.next_start = None;
    }

    /// Notes that a replica has failed, and stops an update that has failed too often.
    pub fn fail(&mut self, place: u32, template: &TemplateId, life: Duration, why: &str, now: Instant) {
        let proven = self.has_run(template);
        let held = self.places.entry(place).or_insert_with(|| Place::new(template, now));
        if held.template != *template {
            *held = Place::new(template, now);
        }
        held.failures = backoff::failures_after(held.failures, life);
        held.restarts += 1;
        if proven {
            held.next_start = now + backoff::delay(held.failures, DELAY_MAX);
        }
        if *template != self.wanted.template {
            return;
        }
        self.rollout.last_failure = Some(why.to_owned());
        if let Some(canary) = &mut self.canary {
            canary.crashed();
        }
        if proven || life >= GOOD_LIFE {
            return;
        }
        let number = self.number();
        let rollout = &mut self.rollout;
        rollout.failures += 1;
        rollout.next_start = Some(now + backoff::delay(rollout.failures, DELAY_UNPROVEN_MAX));
        if rollout.failures >= backoff::start_failures_max(number.max(1))
            && rollout.outcome == Outcome::Progressing
        {
            let times = rollout.failures;
            rollout.outcome =
                Outcome::Failed(format!("{times} starts in a row have failed; the last replica {why}"));
        }
    }

    /// When a replica of this template may be started in a place.
    #[must_use]
    pub fn start_at(&self, place: u32, template: &TemplateId) -> Option<Instant> {
        if *template == self.wanted.template && !self.has_run(template) {
            return self.rollout.next_start;
        }
        self.places.get(&place).filter(|held| held.template == *template).map(|held| held.next_start)
    }

    /// How many replicas of this template have failed in a place.
    #[must_use]
    pub fn restarts(&self, place: u32, template: &TemplateId) -> u64 {
        self.places.get(&place).filter(|held| held.template == *template).map_or(0, |held| held.restarts)
    }

    /// Remembers how a replica ended.
    pub fn remember(&mut self, ended: EndedReplica) {
        self.ended.truncate(ENDED_MAX - 1);
        self.ended.push_front(ended);
    }
}

impl Place {
    fn new(template: &TemplateId, now: Instant) -> Self {
        Self { template: template.clone(), failures: 0, restarts: 0, next_start: now }
    }
}

impl Rollout {
    fn new(revision: u64, kind: RolloutKind) -> Self {
        Self {
            revision,
            kind,
            outcome: Outcome::Progressing,
            failures: 0,
            next_start: None,
            last_failure: None,
        }
    }
}

//! The roster: what the next supervisor has to know of each child, were this one to die now.
//!
//! One small file for each child, written before the child is told anything, gone when the child is. It has to outlive
//! a kill of the supervisor and no more: nothing here is made durable, and what another boot has left is dropped. A
//! child without a file is a stranger to the next supervisor, which replaces it; so a file that can't be written costs
//! that and nothing else.

use std::collections::BTreeMap;
use std::io;

use decurion_api::ReplicaId;
use serde::{Deserialize, Serialize};

use crate::capacity::Reservation;
use crate::desired::{ConfigId, TemplateId, Wanted};
use crate::reconcile::Why;
use crate::reconcile::together::SetsRecord;
use crate::store::Disk;

/// Every child's entry, and the folder that they are kept in.
#[derive(Debug)]
pub(crate) struct Roster<D> {
    disk: D,
    boot: String,
    entries: BTreeMap<String, Entry>,
}

/// One child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its process id.
    pub(crate) pid: i32,
    /// When its process was made, in the kernel's ticks: tells it from a later one of the same id.
    pub(crate) ticks: u64,
    /// The same in Unix time, milliseconds.
    pub(crate) started_ms: u64,
    /// What it is.
    pub(crate) child: Child,
}

/// What a child is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Child {
    /// A replica.
    Replica(Box<ReplicaEntry>),
    /// A proxy, by its number.
    Proxy(u32),
}

/// What is known of a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReplicaEntry {
    /// Which.
    pub(crate) replica: ReplicaId,
    /// What its deployment was to be when it was started.
    pub(crate) wanted: Wanted,
    /// What it runs.
    pub(crate) template: TemplateId,
    /// The version of that.
    pub(crate) version: String,
    /// Which of the deployment's places it fills.
    pub(crate) place: u32,
    /// How many came before it in its place because they failed.
    pub(crate) restarts: u64,
    /// The `user_config` that it starts with.
    pub(crate) config: ConfigId,
    /// What it has of the machine.
    #[serde(default)]
    pub(crate) reservation: Reservation,
    /// Why it was told to drain, once it was.
    pub(crate) leaving: Option<Why>,
}

/// One file.
#[derive(Serialize, Deserialize)]
struct Page {
    format: u32,
    boot: String,
    entry: Entry,
}

#[derive(Serialize, Deserialize)]
struct Life {
    life: u32,
}

/// Of the files; others are not read.
const FORMAT: u32 = 1;
const SUFFIX: &str = ".json";
const TEMPORARY: &str = "incoming.tmp";
const LIFE: &str = "life";
const SETS: &str = "sets";

impl<D: Disk> Roster<D> {
    /// Reads what an earlier supervisor has left in a folder. What can't be read, or is of another boot, is dropped.
    pub(crate) fn open(mut disk: D, boot: String) -> io::Result<(Self, Vec<Entry>)> {
        let mut entries = BTreeMap::new();
        for name in disk.list()?.into_iter().filter(|name| name.ends_with(SUFFIX)) {
            let page = disk.read(&name).ok().and_then(|bytes| serde_json::from_slice::<Page>(&bytes).ok());
            match page.filter(|page| page.format == FORMAT && page.boot == boot) {
                Some(page) => {
                    entries.insert(name, page.entry);
                }
                None => disk.remove(&name)?,
            }
        }
        let left = entries.values().cloned().collect();
        Ok((Self { disk, boot, entries }, left))
    }

    /// The number of this life: higher than that of each one before it.
    pub(crate) fn begin_life(&mut self) -> u32 {
        let last = self.disk.read(LIFE).ok().and_then(|bytes| serde_json::from_slice::<Life>(&bytes).ok());
        let life = last.map_or(0, |last| last.life).wrapping_add(1).max(1);
        if let Err(error) = self.put(LIFE, &Life { life }) {
            tracing::warn!("the number of this life can't be kept: {error}");
        }
        life
    }

    /// How far sets of deployments were, as an earlier supervisor has noted it.
    pub(crate) fn sets(&mut self) -> SetsRecord {
        let kept = self.disk.read(SETS).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        kept.unwrap_or_default()
    }

    /// Notes how far sets of deployments are.
    pub(crate) fn note_sets(&mut self, record: &SetsRecord) {
        if let Err(error) = self.put(SETS, record) {
            tracing::warn!(
                "how far sets of deployments are can't be noted; a supervisor after this one would not know: {error}"
            );
        }
    }

    /// Notes a child, or how it stands now.
    pub(crate) fn note(&mut self, entry: Entry) {
        let name = entry.child.file();
        let page = Page { format: FORMAT, boot: self.boot.clone(), entry };
        if let Err(error) = self.put(&name, &page) {
            let pid = page.entry.pid;
            tracing::warn!("pid {pid} can't be noted; a supervisor after this one would replace it: {error}");
        }
        self.entries.insert(name, page.entry);
    }

    /// Notes that a replica was told to drain.
    pub(crate) fn note_leaving(&mut self, replica: &ReplicaId, why: &Why) {
        let held = self.entries.get(&replica_file(replica)).cloned();
        if let Some(mut entry) = held
            && let Child::Replica(held) = &mut entry.child
        {
            held.leaving = Some(why.clone());
            self.note(entry);
        }
    }

    /// Forgets a replica that is gone.
    pub(crate) fn forget_replica(&mut self, replica: &ReplicaId) {
        self.forget(&replica_file(replica));
    }

    /// Forgets a proxy that is gone.
    pub(crate) fn forget_proxy(&mut self, number: u32) {
        self.forget(&Child::Proxy(number).file());
    }

    fn forget(&mut self, name: &str) {
        // What stays behind names a process that is gone, and is dropped by whoever finds that.
        if self.entries.remove(name).is_some()
            && let Err(error) = self.disk.remove(name)
        {
            tracing::warn!("{} can't be removed: {error}", self.disk.path_of(name));
        }
    }

    /// Written whole under another name first: a torn file would make a stranger of a child.
    fn put<T: Serialize>(&mut self, name: &str, value: &T) -> io::Result<()> {
        self.disk.write(TEMPORARY, &serde_json::to_vec(value)?)?;
        self.disk.rename(TEMPORARY, name)
    }
}

impl Child {
    fn file(&self) -> String {
        match self {
            Child::Replica(entry) => replica_file(&entry.replica),
            Child::Proxy(number) => format!("proxy-{number}{SUFFIX}"),
        }
    }
}

fn replica_file(replica: &ReplicaId) -> String {
    format!("replica-{replica}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use decurion_ipc::epoch::Epoch;

    use crate::reconcile::world::{World, name, spec};
    use crate::store::paper::Paper;

    fn entry(pid: i32) -> Entry {
        let world = World::with(&[spec("a", "1", 1)]);
        let wanted = world.core.desired().deployments[&name("a")].clone();
        let replica = ReplicaEntry {
            replica: ReplicaId::new("a-1").unwrap(),
            template: wanted.template.clone(),
            version: wanted.version.clone(),
            config: wanted.config.clone(),
            wanted,
            place: 0,
            restarts: 2,
            reservation: Reservation::default(),
            leaving: None,
        };
        Entry { pid, ticks: 7, started_ms: 8, child: Child::Replica(Box::new(replica)) }
    }

    fn reopen(disk: Paper, boot: &str) -> (Roster<Paper>, Vec<Entry>) {
        Roster::open(disk, boot.to_owned()).unwrap()
    }

    #[test]
    fn who_was_noted_is_found_until_it_is_gone() {
        let (mut roster, left) = reopen(Paper::default(), "boot");
        assert!(left.is_empty());
        let proxy = Entry { child: Child::Proxy(3), ..entry(5) };
        roster.note(entry(4));
        roster.note(proxy.clone());
        let id = ReplicaId::new("a-1").unwrap();
        roster.note_leaving(&id, &Why::Failed("it did".to_owned()));
        let (mut roster, left) = reopen(roster.disk, "boot");
        let [Entry { child: Child::Proxy(3), pid: 5, .. }, Entry { child: Child::Replica(replica), .. }] =
            &left[..]
        else {
            panic!("{left:?}")
        };
        assert_eq!((replica.restarts, &replica.leaving), (2, &Some(Why::Failed("it did".to_owned()))));
        roster.forget_replica(&id);
        assert_eq!(reopen(roster.disk, "boot").1, [proxy]);
    }

    #[test]
    fn another_boot_and_torn_files_leave_nobody() {
        let (mut roster, _) = reopen(Paper::default(), "boot");
        roster.note(entry(4));
        let mut torn = roster.disk.clone();
        let bytes = torn.read("replica-a-1.json").unwrap();
        torn.write("replica-a-1.json", &bytes[..bytes.len() / 2]).unwrap();
        for (disk, boot) in [(torn, "boot"), (roster.disk, "another")] {
            let (roster, left) = reopen(disk, boot);
            assert!(left.is_empty());
            assert!(reopen(roster.disk, "boot").1.is_empty(), "and it is gone");
        }
    }

    #[test]
    fn how_far_sets_are_is_kept() {
        let (mut roster, _) = reopen(Paper::default(), "boot");
        assert_eq!(roster.sets(), SetsRecord::default());
        let record = SetsRecord { known: Epoch(4), ..SetsRecord::default() };
        roster.note_sets(&record);
        assert_eq!(reopen(roster.disk, "boot").0.sets(), record);
    }

    #[test]
    fn each_life_has_a_higher_number() {
        let (mut roster, _) = reopen(Paper::default(), "boot");
        assert_eq!(roster.begin_life(), 1);
        assert_eq!(reopen(roster.disk, "another").0.begin_life(), 2);
    }
}

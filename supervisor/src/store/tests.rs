//! The store on a disk that forgets and refuses.

use std::io;

use decurion_api::limits::REVISIONS_MAX;

use super::paper::Paper;
use super::*;
use crate::reconcile::world::{World, name, spec};

fn revisions() -> Vec<Desired> {
    let mut world = World::with(&[spec("a", "1", 1)]);
    let mut all = vec![world.core.desired().clone()];
    for replicas in 2..5 {
        world.scale("a", replicas);
        all.push(world.core.desired().clone());
    }
    all
}

fn stored(disk: &Paper) -> Desired {
    Revisions::new(disk.clone()).load().unwrap().desired
}

#[test]
fn what_is_saved_is_loaded() {
    let mut store = Revisions::new(Paper::default());
    assert_eq!(store.load().unwrap().desired, Desired::default());
    for desired in revisions() {
        store.save(&desired).unwrap();
        assert_eq!(store.load().unwrap(), Loaded { desired, damaged: vec![] });
    }
}

#[test]
fn stopped_after_any_operation_it_is_the_old_or_the_new_one() {
    let all = revisions();
    let mut store = Revisions::new(Paper::default());
    store.save(&all[0]).unwrap();
    let before = store.disk_for_test().clone();
    let mut outcomes = Vec::new();
    for operations in 0..10 {
        let mut store = Revisions::new(Paper { left: Some(operations), ..before.clone() });
        let saved = store.save(&all[1]);
        let disk = store.disk_for_test();
        for found in [stored(&disk.after_kill()), stored(&disk.after_power_cut())] {
            assert!(found == all[0] || found == all[1], "after {operations} operations: {found:?}");
            if saved.is_ok() {
                assert_eq!(found, all[1], "an acknowledged revision was lost");
            }
            outcomes.push(found == all[1]);
        }
    }
    assert!(outcomes.contains(&true) && outcomes.contains(&false));
}

#[test]
fn an_operation_that_fails_alone_loses_nothing_and_the_next_save_succeeds() {
    let all = revisions();
    let mut store = Revisions::new(Paper::default());
    store.save(&all[0]).unwrap();
    let before = store.disk_for_test().clone();
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::Other,
    ];
    for kind in kinds {
        // Written, made durable, renamed, the folder made durable.
        for at in 0..4 {
            let disk = Paper { left: Some(at), error: Some(kind), once: true, ..before.clone() };
            let mut store = Revisions::new(disk);
            let saved = store.save(&all[1]);
            let disk = store.disk_for_test();
            for found in [stored(&disk.after_kill()), stored(&disk.after_power_cut())] {
                let expected = if saved.is_ok() { &all[1] } else { &all[0] };
                assert_eq!(&found, expected, "{kind} at operation {at}: what was refused is not done");
            }
            store.save(&all[2]).unwrap();
            assert_eq!(stored(&store.disk_for_test().after_power_cut()), all[2]);
        }
    }
}

#[test]
fn a_torn_or_changed_newest_file_falls_back_to_the_one_before_and_says_so() {
    let all = revisions();
    let mut store = Revisions::new(Paper::default());
    store.save(&all[0]).unwrap();
    store.save(&all[1]).unwrap();
    let good = store.disk_for_test().clone();
    let file = good.files.keys().last().unwrap().clone();
    let bytes = good.files[&file].clone();
    for at in 0..bytes.len() {
        let mut torn = good.clone();
        torn.files.get_mut(&file).unwrap().truncate(at);
        let mut flipped = good.clone();
        flipped.files.get_mut(&file).unwrap()[at] ^= 1;
        for disk in [torn, flipped] {
            let loaded = Revisions::new(disk).load();
            // A flipped digit may make the format a later one, which is refused.
            let Ok(loaded) = loaded else { continue };
            let is_new = loaded.damaged.is_empty();
            let expected = if is_new { &all[1] } else { &all[0] };
            assert_eq!(loaded.desired.deployments, expected.deployments, "byte {at}");
            assert_eq!(loaded.desired.revision, all[1].revision, "its number is not given away again");
        }
    }
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let mut disk = Paper::default();
    let file = b"{\"format\":2,\"what\":\"ever\"}".to_vec();
    disk.files.insert("revision-0000000009.json".to_owned(), file);
    let error = Revisions::new(disk).load().unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 2, .. }), "{error}");
}

#[test]
fn the_last_revisions_are_kept_and_can_be_read() {
    let mut desired = revisions().remove(0);
    let mut store = Revisions::new(Paper::default());
    for revision in 1..=REVISIONS_MAX as u64 + 5 {
        desired.revision = revision;
        store.save(&desired).unwrap();
    }
    assert_eq!(store.revisions().unwrap().len(), REVISIONS_MAX);
    assert!(matches!(store.read(3), Err(StoreError::NoSuchRevision { revision: 3, .. })));
    assert!(store.read(10).unwrap().deployments.contains_key(&name("a")));
}

//! Many connections: which worker gets them.

mod rig;

use std::collections::BTreeMap;

use decurion_ipc::control::ProxySettings;
use rig::Rig;
use rig::client::Client;
use rig::replica::Behaviour;

/// A proxy with so many workers that takes as many connections as there can be.
fn roomy(workers: u32, behaviour: Behaviour) -> (Rig, rig::replica::FakeReplica) {
    let mut rig = Rig::with(ProxySettings { workers, max_connections: 100_000, ..ProxySettings::default() });
    let replica = rig.replica("many", 1, behaviour);
    rig.deployment("many", &[&replica], |_| {});
    rig.apply();
    (rig, replica)
}

#[test]
fn connections_are_shared_fairly_between_workers() {
    const CONNECTIONS: usize = 400;
    let (rig, _replica) = roomy(4, Behaviour::Lane);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| rig.client()).collect();
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for client in &mut clients {
        *shares.entry(client.get("/many").text().to_owned()).or_default() += 1;
    }
    let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
    assert!(shares.len() == 4 && *most <= least + least / 4 + 20, "{shares:?}");
}

#[test]
fn who_has_fewer_connections_gets_the_next() {
    let (rig, _replica) = roomy(4, Behaviour::Lane);
    let mut clients: Vec<(String, Client)> = (0..200).map(|_| rig.client()).map(with_worker).collect();
    // All but one worker lose theirs, one by one so that all of them go on.
    let keeper = clients[0].0.clone();
    clients.retain(|(worker, _)| *worker == keeper);
    let before = clients.len();
    clients.extend((0..100).map(|_| rig.client()).map(with_worker));
    let kept = clients.iter().filter(|(worker, _)| *worker == keeper).count();
    assert!(kept - before < 50, "{kept} of {} with {before} before", clients.len());
}

fn with_worker(mut client: Client) -> (String, Client) {
    (client.get("/many").text().to_owned(), client)
}

//! Sets of deployments that change over as one: no request meets two versions.

use std::collections::BTreeSet;
use std::fs;

use decurion_api::status::{DeploymentState, RolloutOutcome};
use decurion_tests::{Load, Tally, World, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `a` calls `b` and then `c`, and `b` calls `c`: three deployments, four words in an answer. The graph calls `b` and `c`.
struct Chain<'a> {
    world: &'a World,
    set: bool,
    replicas: u32,
    /// Further lines of each of the three.
    lines: &'static str,
}

impl Chain<'_> {
    fn config(&self, words: [&str; 3]) -> String {
        let (library, folder) = (library("fixtures"), self.world.path().display());
        let rollout = if self.set { "rollout = { together = \"chain\" }\n" } else { "" };
        let mut config = "application = \"demo\"\n".to_owned();
        for (name, word, calls) in [
            ("a", words[0], "next = \"@b\", also = \"@c\""),
            ("b", words[1], "next = \"@c\""),
            ("c", words[2], ""),
        ] {
            config += &format!(
                "[[deployment]]\nname = \"{name}\"\nlibrary = \"{}\"\nclass = \"Hop\"\nnum_replicas = {}\n\
                 args = {{ word = \"{word}\", folder = \"{folder}\", {calls} }}\n{rollout}{}",
                library.display(),
                self.replicas,
                self.lines
            );
        }
        config
            + "[[graph]]\nname = \"sum\"\ninput = \"inp\"\n[graph.steps]\n\
               b = { call = \"b.words\" }\nc = { call = \"c.words\" }\noutput = [\"$b\", \"$c\"]\n"
    }

    fn deploy(&self, words: [&str; 3]) {
        let _ = self.world.deploy(&self.config(words)).ok();
    }

    /// Deploys, and waits for nothing.
    fn begin(&self, words: [&str; 3]) {
        fs::write(self.world.path().join("next.toml"), self.config(words)).expect("write");
        let _ = self.world.run(&["deploy", "--no-wait", "next.toml"]).ok();
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.world.path().join(name)
    }
}

fn answer([a, b, c]: [&str; 3]) -> String {
    format!("a={a} b={b} c={c} c={c}")
}

/// Every answer that came, but for those that these words give.
fn others(tally: &Tally, known: &[[&str; 3]]) -> Vec<String> {
    let known: BTreeSet<String> = known.iter().map(|words| answer(*words)).collect();
    let answers = tally.answers.keys().filter(|(status, _)| *status == 200).map(|(_, text)| text);
    answers.filter(|text| !known.contains(*text)).cloned().collect()
}

fn ready(world: &World, name: &str, word: &str) {
    let version = world.deployment(name).version;
    world.until(&format!("{name} has version {version} ({word})"), |status| {
        let found = status.deployments.iter().find(|it| it.name.as_str() == name);
        found.is_some_and(|it| {
            let serving = it.replicas.iter().filter(|it| it.state.can_serve() && it.version == version);
            serving.count() == it.target_replicas as usize
        })
    });
}

/// Waits until each of the chain has its change behind it.
fn rolled_out(world: &World) {
    for name in ["a", "b", "c"] {
        let _ = world.run(&["rollout", "status", name]).ok();
    }
}

/// The chain of two replicas each has changed over under load: nothing was lost, nothing mixed, and the new one serves.
fn has_changed_over(world: &World, load: Load, old: [&str; 3], new: [&str; 3]) {
    rolled_out(world);
    load.answer_more(50);
    let tally = load.stop();
    assert_eq!((tally.failures(), others(&tally, &[old, new])), (Vec::new(), Vec::new()));
    assert_eq!(world.get("/a").text(), answer(new));
    assert_eq!(["a", "b", "c"].map(|name| world.pids(name).len()), [2, 2, 2]);
}

#[test]
fn no_request_meets_two_versions_of_a_set_and_none_is_lost() {
    let world = World::start();
    let chain = Chain { world: &world, set: true, replicas: 2, lines: "" };
    let all: [[&str; 3]; 5] =
        [["1", "1", "1"], ["2", "2", "2"], ["3", "2", "3"], ["3", "4", "4"], ["5", "5", "4"]];
    chain.deploy(all[0]);
    let load = Load::start(world.address(), "/a", 6);
    load.answer_more(50);
    for words in &all[1..] {
        chain.deploy(*words);
        load.answer_more(50);
    }
    let tally = load.stop();
    assert_eq!(tally.failures(), Vec::<String>::new());
    assert_eq!(others(&tally, &all), Vec::<String>::new());
    assert!(
        all.iter().all(|words| tally.answers.contains_key(&(200, answer(*words)))),
        "{:?}",
        tally.answers
    );
    assert_eq!(world.pids("a").len(), 2);
}

#[test]
fn a_deploy_of_a_set_of_which_one_fails_and_is_not_undone_ends_and_says_what_to_do() {
    let world = World::start();
    let chain = Chain { world: &world, set: true, replicas: 1, lines: "" };
    let (old, new, mended) = (["1", "1", "1"], ["2", "2", "2"], ["2", "2", "3"]);
    chain.deploy(old);
    fs::write(chain.file("fail-c-2"), "").expect("write");
    let kept = |words| {
        chain.config(words).replace("together = \"chain\"", "together = \"chain\", auto_rollback = false")
    };
    let said = world.deploy(&kept(new)).code(1).stderr;
    for words in [
        "of 'c' failed",
        "it was told to fail",
        "the change of 'a' can't go on",
        "'c' has failed and is not undone",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert!(world.deployment("a").rollout.blocked);
    assert_eq!(world.get("/a").text(), answer(old), "nobody has met the new ones");
    let _ = world.deploy(&kept(mended)).ok();
    assert_eq!(world.get("/a").text(), answer(mended));
}

#[test]
fn a_version_that_is_ready_waits_for_the_rest_of_its_set() {
    let world = World::start();
    let chain = Chain { world: &world, set: true, replicas: 2, lines: "" };
    let (old, new) = (["1", "1", "1"], ["2", "2", "2"]);
    chain.deploy(old);
    fs::write(chain.file("hold-c-2"), "").expect("write");
    let load = Load::start(world.address(), "/a", 4);
    let sums = Load::start(world.address(), "/sum", 2);
    chain.begin(new);
    ready(&world, "a", "2");
    ready(&world, "b", "2");
    load.answer_more(50);
    let why = "the set 'chain' changes over as one: 'c' has 0 of 2 replicas";
    world.until(why, |status| {
        status.deployments.iter().any(|it| it.name.as_str() == "b" && it.message.contains(why))
    });
    let before = load.stop();
    assert_eq!((before.failures(), others(&before, &[old])), (Vec::new(), Vec::new()));

    let load = Load::start(world.address(), "/a", 4);
    fs::remove_file(chain.file("hold-c-2")).expect("a file");
    let _ = world.run(&["rollout", "status", "c"]).ok();
    load.answer_more(50);
    let (tally, sums) = (load.stop(), sums.stop());
    assert_eq!((tally.failures(), others(&tally, &[old, new])), (Vec::new(), Vec::new()));
    assert_eq!(sums.failures(), Vec::<String>::new());
    for (_, text) in sums.answers.keys() {
        let whole = ["1", "2"].map(|word| format!("[\"b={word} c={word}\",\"c={word}\"]"));
        assert!(whole.contains(text), "{text}");
    }
    assert_eq!(world.get("/a").text(), answer(new));
}

/// The same as above without a set, which shows that it would be seen.
#[test]
fn without_a_set_a_request_meets_both_versions() {
    let world = World::start();
    let chain = Chain { world: &world, set: false, replicas: 1, lines: "" };
    chain.deploy(["1", "1", "1"]);
    fs::write(chain.file("hold-c-2"), "").expect("write");
    chain.begin(["2", "2", "2"]);
    world.until("a and b are new", |status| {
        let of = |name: &str| status.deployments.iter().find(|it| it.name.as_str() == name);
        ["a", "b"].iter().all(|name| of(name).is_some_and(|it| it.status == DeploymentState::Healthy))
    });
    assert_eq!(world.get("/a").text(), "a=2 b=2 c=1 c=1");
    fs::remove_file(chain.file("hold-c-2")).expect("a file");
    let _ = world.run(&["rollout", "status", "c"]).ok();
    assert_eq!(world.get("/a").text(), answer(["2", "2", "2"]));
}

#[test]
fn where_one_of_a_set_fails_the_set_goes_back() {
    let world = World::start();
    let chain = Chain { world: &world, set: true, replicas: 2, lines: "" };
    let (old, bad, good) = (["1", "1", "1"], ["2", "2", "2"], ["3", "3", "3"]);
    chain.deploy(old);
    let versions = ["a", "b", "c"].map(|name| world.deployment(name).version);
    let load = Load::start(world.address(), "/a", 4);
    fs::write(chain.file("fail-c-2"), "").expect("write");
    let failed = world.deploy(&chain.config(bad)).code(3);
    assert!(failed.stderr.contains("it was told to fail"), "{}", failed.stderr);
    load.answer_more(50);
    for (name, version) in ["a", "b", "c"].into_iter().zip(versions) {
        let status = world.until(&format!("{name} is healthy"), |status| {
            let found = status.deployments.iter().find(|it| it.name.as_str() == name);
            found.is_some_and(|it| it.status == DeploymentState::Healthy)
        });
        let found = status.deployments.iter().find(|it| it.name.as_str() == name).expect("it is there");
        assert_eq!((&found.version, found.rollout.outcome), (&version, RolloutOutcome::RolledBack), "{name}");
    }
    chain.deploy(good);
    load.answer_more(50);
    let tally = load.stop();
    assert_eq!((tally.failures(), others(&tally, &[old, good])), (Vec::new(), Vec::new()));
}

/// With both versions of one replica of each, at most.
#[test]
fn a_set_without_room_for_both_versions_changes_over_and_mixes_nothing() {
    let world = World::start_as("", &["--capacity", "cpus=6"]);
    let lines = "resources = { cpus = 1 }\n";
    let chain = Chain { world: &world, set: true, replicas: 2, lines };
    let (old, new) = (["1", "1", "1"], ["2", "2", "2"]);
    chain.deploy(old);
    let hold = chain.file("hold-c-2");
    fs::write(&hold, "").expect("write");
    let load = Load::start(world.address(), "/a", 4);
    chain.begin(new);
    // One of each has made room for its successor, and what is left of the old version serves.
    for name in ["a", "b"] {
        world.until(&format!("one of {name} is new"), |status| {
            let found = status.deployments.iter().find(|it| it.name.as_str() == name);
            found.is_some_and(|it| it.rollout.updated == 1 && it.replicas.len() == 2)
        });
    }
    load.answer_more(50);
    fs::remove_file(&hold).expect("a file");
    has_changed_over(&world, load, old, new);
    let told = world.run(&["events"]).ok().stdout;
    assert!(told.contains("no room for both: it needs 1 cpu, and 0 of 6 are free"), "{told}");
}

/// Where nothing is left of the old version, requests wait for the new one; who is half way through fails.
#[test]
fn a_set_of_single_replicas_without_room_ends_its_change_and_mixes_nothing() {
    let world = World::start_as("", &["--capacity", "cpus=3"]);
    let lines = "resources = { cpus = 1 }\n";
    let chain = Chain { world: &world, set: true, replicas: 1, lines };
    let all = [["1", "1", "1"], ["2", "2", "2"], ["3", "2", "3"]];
    chain.deploy(all[0]);
    let load = Load::start(world.address(), "/a", 4);
    load.answer_more(20);
    for words in &all[1..] {
        chain.deploy(*words);
        load.answer_more(20);
        assert_eq!(world.get("/a").text(), answer(*words));
    }
    let tally = load.stop();
    assert_eq!(others(&tally, &all), Vec::<String>::new());
    assert_eq!(tally.errors, Vec::<String>::new());
    let refused = tally.answers.keys().filter(|(status, _)| *status != 200);
    for (status, text) in refused {
        assert_eq!(*status, 503, "{text}");
    }
}

#[test]
fn replicas_that_are_killed_during_a_change_mix_nothing() {
    let world = World::start();
    let chain = Chain { world: &world, set: true, replicas: 2, lines: "" };
    let (old, new) = (["1", "1", "1"], ["2", "2", "2"]);
    chain.deploy(old);
    let load = Load::start(world.address(), "/a", 4);
    for (words, victim) in [(new, "b"), (old, "c"), (new, "a")] {
        let hold = chain.file(&format!("hold-{victim}-{}", words[0]));
        fs::write(&hold, "").expect("write");
        chain.begin(words);
        // Both versions are there, but for the one that is held.
        load.answer_more(20);
        for name in ["a", "b", "c"] {
            let pid = world.pids(name)[0];
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a replica");
        }
        load.answer_more(20);
        fs::remove_file(&hold).expect("a file");
        rolled_out(&world);
        load.answer_more(20);
        assert_eq!(world.get("/a").text(), answer(words));
    }
    let tally = load.stop();
    assert_eq!(others(&tally, &[old, new]), Vec::<String>::new());
    // What a replica was at when it was killed may fail, and nothing else does.
    let failed: u64 =
        tally.answers.iter().filter(|((status, _), _)| *status != 200).map(|(_, count)| count).sum();
    assert!(failed <= 9 * 4 && tally.errors.is_empty(), "{:?}", tally.failures());
}

#[test]
fn a_supervisor_that_dies_in_the_middle_of_a_change_mixes_nothing() {
    fn chain(world: &World) -> Chain<'_> {
        Chain { world, set: true, replicas: 2, lines: "" }
    }
    let mut world = World::start();
    let (old, new) = (["1", "1", "1"], ["2", "2", "2"]);
    chain(&world).deploy(old);
    let hold = chain(&world).file("hold-c-2");
    fs::write(&hold, "").expect("write");
    let load = Load::start(world.address(), "/a", 4);
    chain(&world).begin(new);
    ready(&world, "a", "2");
    for held in [true, false] {
        assert_eq!(world.end_supervisor(Signal::SIGKILL), -1);
        load.answer_more(20);
        if !held {
            // It becomes ready while nobody looks.
            fs::remove_file(&hold).expect("a file");
        }
        world.start_supervisor();
        load.answer_more(20);
    }
    has_changed_over(&world, load, old, new);
}

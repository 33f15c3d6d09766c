//! A replica that turns on its host: it is named and replaced, and nobody else notices.

use std::time::Duration;

use decurion_api::status::SystemStatus;
use decurion_client::Client;
use decurion_tests::{Account, Load, Tally, Verified, World, library};

/// A well-behaved deployment under load beside a hostile one, and the processes that must not change.
struct Neighbours {
    world: World,
    load: Load,
    verified: Verified,
    good: Vec<i32>,
    proxy: Option<i32>,
}

impl Neighbours {
    fn start() -> Self {
        Self::start_with("")
    }

    /// The same where what is asked of the hostile one may never be answered, and so is soon given up.
    fn start_impatient() -> Self {
        Self::start_with("request_timeout_s = 5\n")
    }

    fn start_with(bad: &str) -> Self {
        let world = World::start();
        let config = format!(
            "application = \"hostile\"\n\
             [[deployment]]\nname = \"good\"\nlibrary = \"{0}\"\nclass = \"Who\"\nnum_replicas = 2\nargs = [\"good\"]\n\
             [[deployment]]\nname = \"echo\"\nlibrary = \"{0}\"\nclass = \"Echo\"\n\
             [[deployment]]\nname = \"bad\"\nlibrary = \"{0}\"\nclass = \"Hostile\"\ngraceful_shutdown_timeout_s = 1\n{bad}",
            library("fixtures").display()
        );
        let _ = world.deploy(&config).ok();
        let good = [world.pids("good"), world.pids("echo")].concat();
        let proxy = world.status().proxy.pid;
        let load = Load::start(world.address(), "/good", 2);
        let verified = Verified::start(world.address(), "/echo", "POST", 2);
        load.answer_more(50);
        verified.answer_more(20);
        Self { world, load, verified, good, proxy }
    }

    /// Asks the hostile replica for its deed, over and over, and waits until it was replaced.
    fn provoke_until_replaced(&self, path: &str) {
        let bad = |status: &SystemStatus| {
            let mut all = status.deployments.iter();
            all.find(|it| it.name.as_str() == "bad").expect("it exists").clone()
        };
        // The one that replaces an offender may have been provoked as well, and be on its way out.
        let serving = |status: &SystemStatus| {
            bad(status).replicas.iter().find(|it| it.state.can_serve()).map(|it| it.pid)
        };
        let status = self.world.until("there is one", |status| serving(status).is_some());
        let victim = serving(&status).expect("it was there");
        self.world.until("replaced", |status| {
            let mut connection = self.world.connect();
            // Whatever comes of it: an answer, a 502, a cut.
            let _ = connection.get(path);
            bad(status).ended.iter().any(|it| it.pid == victim && it.failed)
        });
    }

    /// Stops the load and looks whether anybody but the offender has noticed.
    fn unharmed(self) -> World {
        self.load.answer_more(50);
        self.verified.answer_more(50);
        let account = self.verified.stop();
        assert_eq!(account, Account { right: account.sent(), ..Account::default() });
        let Tally { answers, errors, .. } = self.load.stop();
        assert_eq!(errors, Vec::<String>::new());
        let foreign: Vec<_> =
            answers.keys().filter(|(status, body)| *status != 200 || !body.ends_with(" good")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        assert_eq!([self.world.pids("good"), self.world.pids("echo")].concat(), self.good);
        assert_eq!(self.world.status().proxy.pid, self.proxy);
        self.world
    }
}

/// How often each misbehaviour is repeated.
#[expect(clippy::disallowed_methods, reason = "a campaign by hand is longer than the suite's")]
fn rounds() -> u32 {
    std::env::var("DECURION_HOSTILE").ok().and_then(|number| number.parse().ok()).unwrap_or(2)
}

/// Provokes a deed again and again; each time the offender is named for a fault of the data plane, and replaced.
fn is_named_and_replaced(path: &str) {
    let scene = Neighbours::start_impatient();
    for _ in 0..rounds() {
        // So that there is something in each ring. The one that replaces an offender may have been provoked as well.
        scene.world.until("one answers", |_| {
            scene.world.connect().get("/bad").is_ok_and(|answer| answer.status == 200)
        });
        scene.provoke_until_replaced(path);
    }
    let world = scene.unharmed();
    let events = world.run(&["events"]).ok();
    let named = |line: &&str| line.contains("bad-") && line.contains("broke the rules of the data plane");
    assert!(events.stdout.lines().any(|line| named(&line)), "{}", events.stdout);
    let logged = world.log();
    assert!(logged.lines().any(|line| named(&line)), "{logged}");
}

#[test]
fn a_replica_that_scribbles_over_what_is_shared_is_named_and_replaced() {
    is_named_and_replaced("/bad/scribble");
}

#[test]
fn a_replica_that_says_again_what_it_has_said_is_named_and_replaced() {
    is_named_and_replaced("/bad/replay");
}

#[test]
fn a_replica_that_lies_about_lengths_is_named_and_replaced() {
    is_named_and_replaced("/bad/lie");
}

#[test]
fn a_replica_that_sends_junk_over_its_sockets_is_replaced() {
    let scene = Neighbours::start_impatient();
    for _ in 0..rounds() {
        scene.provoke_until_replaced("/bad/junk");
    }
    let _ = scene.unharmed();
}

#[test]
fn a_replica_that_closes_descriptors_at_random_is_replaced() {
    let scene = Neighbours::start_impatient();
    for _ in 0..rounds() {
        scene.provoke_until_replaced("/bad/close-some");
    }
    let _ = scene.unharmed();
}

#[test]
fn nothing_that_is_shared_can_be_cut_punched_or_made_writable() {
    let scene = Neighbours::start();
    for _ in 0..rounds() {
        let answer = scene.world.get("/bad/unseal");
        assert_eq!((answer.status, answer.text()), (200, String::new()));
    }
    assert_eq!(scene.world.get("/bad").status, 200);
    let _ = scene.unharmed();
}

#[test]
fn a_replica_that_rings_without_end_is_named_and_harms_nobody() {
    let scene = Neighbours::start();
    let flooding = scene.world.get("/bad/ring").text();
    // Nothing else is asked of it meanwhile: an answer is news, and excuses its rings.
    scene.world.until("it is named", |_| scene.world.log().contains("rings without end"));
    assert_eq!(scene.world.get("/bad").text(), flooding, "it is heard again for its next request");
    scene.load.answer_more(500);
    scene.verified.answer_more(200);
    assert_eq!(scene.world.get("/bad").text(), flooding, "it still answers what it is asked");
    let _ = scene.unharmed();
}

#[test]
fn a_replica_that_rings_its_callers_over_handles_without_end_is_named_and_still_answers() {
    let world = World::start();
    let config = format!(
        "application = \"hostile\"\n\
         [[deployment]]\nname = \"bad\"\nlibrary = \"{0}\"\nclass = \"Hostile\"\n\
         [[deployment]]\nname = \"relay\"\nlibrary = \"{0}\"\nclass = \"Relay\"\nargs = {{ gate = \"@bad\" }}\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let pids = [world.pids("bad"), world.pids("relay")];
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a client");
    let bad = client.deployment("bad").expect("a deployment").handle();
    assert!(bad.call::<bool>("hold", ("", "/ring")).expect("an answer"));
    // Sent there as well, so that the relay has a bell to be rung by; once, since an answer is news, and excuses its rings.
    assert_eq!(world.get("/relay?until=").text(), "true");
    world.until("it is named", |_| {
        let named = |line: &str| line.contains("replica bad-") && line.contains("relay");
        world.log().lines().any(|line| line.contains("rings without end") && named(line))
    });
    for _ in 0..100 {
        assert!(bad.call::<bool>("hold", ("", "")).expect("an answer"), "a client gets its answers");
        assert_eq!(world.get("/relay?until=").text(), "true");
    }
    assert_eq!([world.pids("bad"), world.pids("relay")], pids, "nobody was replaced");
}

/// Has a deed done by a way that goes through one caller; whether an answer came.
type Deed<'d> = &'d dyn Fn(&str) -> bool;

#[test]
fn a_replica_that_broke_the_rules_towards_handles_gets_a_new_channel() {
    let world = World::start();
    let config = format!(
        "application = \"hostile\"\n\
         [[deployment]]\nname = \"bad\"\nlibrary = \"{0}\"\nclass = \"Hostile\"\nroute_prefix = \"\"\n\
         [[deployment]]\nname = \"relay\"\nlibrary = \"{0}\"\nclass = \"Relay\"\nrequest_timeout_s = 2\nargs = {{ gate = \"@bad\" }}\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let pids = [world.pids("bad"), world.pids("relay")];
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a client");
    let bad = client.deployment("bad").expect("a deployment").handle().with_timeout(Duration::from_secs(2));
    let through_client = |deed: &str| bad.call::<bool>("hold", ("", deed)).is_ok();
    let through_relay = |deed: &str| world.get(&format!("/relay?until={deed}")).text() == "true";
    // Each has the other lied to, and then calls. An answer that comes at once stands in the place of the lie, which is not
    // found then: it is told again.
    let pairs: [(_, Deed<'_>, Deed<'_>); 2] =
        [("replica relay-", &through_client, &through_relay), ("client ", &through_relay, &through_client)];
    for (who, provoke, call) in pairs {
        world.until("it is cut off", |_| {
            let _ = (call(""), provoke("/lie-once"), call(""));
            let events = world.run(&["events"]).ok().stdout;
            let named = |line: &str| {
                line.contains("handle-cut-off") && line.contains("bad-") && line.contains(&format!(" {who}"))
            };
            events.lines().any(named)
        });
        world.until("calls are answered again", |_| call("") && call(""));
    }
    let metrics = world.admin().metrics().expect("metrics");
    assert!(
        metrics.contains("decurion_handle_cut_offs_total{deployment=\"bad\",replica=\"bad-"),
        "{metrics}"
    );
    assert_eq!(
        [world.pids("bad"), world.pids("relay")],
        pids,
        "nobody was killed on the word of one that is not trusted"
    );
}

#[test]
fn a_caller_that_a_replica_has_cut_off_gets_a_new_channel() {
    let world = World::start();
    let config = format!(
        "application = \"hostile\"\n\
         [[deployment]]\nname = \"good\"\nlibrary = \"{0}\"\nclass = \"Hostile\"\nroute_prefix = \"\"\n\
         [[deployment]]\nname = \"traitor\"\nlibrary = \"{0}\"\nclass = \"Traitor\"\nargs = {{ partner = \"@good\" }}\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let pids = [world.pids("good"), world.pids("traitor")];
    assert_eq!(world.get("/traitor").text(), "true");
    world.until("it is cut off, and joined anew", |_| {
        // An answer of the request itself: without a new channel it never came, and ends with the request's time.
        assert_eq!(world.get("/traitor/lie").text(), "true");
        let events = world.run(&["events"]).ok().stdout;
        let named = |line: &str| {
            line.contains("handle-joined-anew") && line.contains("good-") && line.contains("replica traitor-")
        };
        world.log().contains("has cut off") && events.lines().any(named)
    });
    assert_eq!(world.get("/traitor").text(), "true");
    assert_eq!([world.pids("good"), world.pids("traitor")], pids, "nobody was killed");
}

#[test]
fn a_handle_that_could_not_be_joined_is_joined_when_that_can_be() {
    let world = World::start();
    let config = format!(
        "application = \"hostile\"\n\
         [[deployment]]\nname = \"full\"\nlibrary = \"{0}\"\nclass = \"Hostile\"\nmax_ongoing_requests = 8\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let pids = world.pids("full");
    // The proxy is joined already.
    assert_eq!(world.get("/full/hoard").status, 200);
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a client");
    let full = client.deployment("full").expect("a deployment").handle();
    let call = full.start("hold", ("", "")).expect("it may wait");
    world.until("it could not be joined", |_| {
        let events = world.run(&["events"]).ok().stdout;
        events.lines().any(|line| line.contains("handle-joined-anew") && line.contains("client "))
    });
    assert_eq!(world.get("/full/let-go").status, 200);
    assert!(call.wait::<bool>().expect("an answer, though nobody asked again"));
    assert_eq!(world.pids("full"), pids, "nobody was killed");
}

#[test]
fn a_replica_that_closes_its_descriptors_is_replaced() {
    let scene = Neighbours::start_impatient();
    scene.provoke_until_replaced("/bad/close");
    let _ = scene.unharmed();
}

#[test]
fn the_death_of_a_replica_that_forked_is_noticed_all_the_same() {
    let scene = Neighbours::start();
    assert_eq!(scene.world.get("/bad/fork").status, 200);
    let victim = scene.world.pids("bad")[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), nix::sys::signal::Signal::SIGKILL)
        .expect("kill");
    scene.world.until("replaced", |status| {
        let bad = status.deployments.iter().find(|it| it.name.as_str() == "bad").expect("it exists");
        bad.replicas.iter().any(|it| it.pid != victim && it.state.can_serve())
    });
    assert_eq!(scene.world.get("/bad").status, 200);
    let _ = scene.unharmed();
}

#[test]
fn a_replica_that_floods_its_output_or_changes_folder_harms_nobody() {
    let scene = Neighbours::start();
    assert_eq!(scene.world.get("/bad/chdir").status, 200);
    assert_eq!(scene.world.get("/bad/flood").status, 200);
    assert_eq!(scene.world.get("/bad").status, 200);
    let _ = scene.unharmed();
}

#[test]
fn requests_of_a_stopped_replica_end_on_time() {
    let scene = Neighbours::start();
    let mut connection = scene.world.connect();
    let headers = [("x-request-timeout-seconds", "0.5")];
    connection.request("GET", "/bad/stop", &headers, b"").expect("sent");
    assert_eq!(connection.read().expect("an answer").status, 504);
    let _ = scene.unharmed();
}

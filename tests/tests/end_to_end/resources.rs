//! What each replica has of the machine, and what becomes of those that don't fit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use decurion_tests::{World, library};
use nix::sys::signal::Signal;

fn who(name: &str, replicas: u32, word: &str, lines: &str) -> String {
    format!(
        "application = \"{name}\"\n[[deployment]]\nname = \"{name}\"\nlibrary = \"{}\"\nclass = \"Who\"\n\
         num_replicas = {replicas}\nargs = {{ word = \"{word}\" }}\n{lines}\n",
        library("fixtures").display()
    )
}

fn on(capacity: &str) -> World {
    World::start_as("", &["--capacity", capacity])
}

/// Environment of a process.
fn environment(pid: i32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).expect("a process that runs");
    let variables = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    variables
        .filter_map(|variable| {
            variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The CPUs that each thread of a process may run on.
fn allowed(pid: &str) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process that runs").flatten();
    let of_task = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.map(|list| list.trim().to_owned())
    };
    // A thread may end while they are looked at.
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses.filter_map(of_task).collect()
}

#[test]
fn a_replica_finds_in_its_environment_what_it_has() {
    let world = on("cpus=8,memory=64GiB,gpus=2");
    let resources = "resources = { cpus = 1.5, memory = \"2GiB\", gpus = 0.5 }";
    let _ = world.deploy(&who("a", 2, "", resources)).ok();
    for pid in world.pids("a") {
        let environment = environment(pid);
        assert_eq!(environment["OMP_NUM_THREADS"], "2");
        assert_eq!(environment["CUDA_VISIBLE_DEVICES"], "0", "parts share one");
    }
    let own =
        "resources = { cpus = 1.5, gpus = 1 }\nruntime_env = { env_vars = { OMP_NUM_THREADS = \"7\" } }";
    let _ = world.deploy(&who("b", 1, "", own)).ok();
    let environment_of_b = environment(world.pids("b")[0]);
    assert_eq!(environment_of_b["OMP_NUM_THREADS"], "7");
    assert_eq!(environment_of_b["CUDA_VISIBLE_DEVICES"], "1", "a whole one is nobody else's");
    let _ = world.deploy(&who("c", 1, "", "threads = 3\nresources = { gpus = 0 }")).ok();
    let environment_of_c = environment(world.pids("c")[0]);
    assert_eq!(environment_of_c["CUDA_VISIBLE_DEVICES"], "");
    assert_eq!(environment_of_c["OMP_NUM_THREADS"], "3");
    let _ = world.deploy(&who("d", 1, "", "")).ok();
    assert!(!environment(world.pids("d")[0]).contains_key("CUDA_VISIBLE_DEVICES"));
    let told = world.run(&["describe", "a"]).ok().stdout;
    assert!(told.contains("\"cpus\":1.5") && told.contains("\"memory\":2147483648"), "{told}");
}

#[test]
fn whole_cpus_are_a_replicas_own_and_its_threads_run_nowhere_else() {
    let ours = allowed("self");
    let world = on("cpus=4");
    let _ = world.deploy(&who("a", 1, "", "threads = 4\nresources = { cpus = 1 }")).ok();
    let own = allowed(&world.pids("a")[0].to_string());
    let [only] = own.iter().collect::<Vec<_>>()[..] else { panic!("its threads differ: {own:?}") };
    assert!(only.parse::<u16>().is_ok(), "more than one CPU: {only}");
    let supervisor = allowed(&world.supervisor_pid().to_string());
    assert_eq!(supervisor, ours, "who starts it has all of its own");
}

#[test]
fn an_update_without_room_for_a_surge_takes_one_down_first_and_loses_nothing() {
    let world = on("cpus=2");
    let deploy = |word: &str| world.deploy(&who("a", 2, word, "resources = { cpus = 1 }"));
    let _ = deploy("old").ok();
    let pids = world.pids("a");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut connection = world.connect();
            while !done.load(Ordering::Relaxed) {
                assert_eq!(connection.get("/a").expect("an answer").status, 200);
            }
        });
        let updated = deploy("new");
        done.store(true, Ordering::Relaxed);
        let _ = updated.ok();
        load.join().expect("a thread");
    });
    assert!(world.get("/a").text().ends_with("new"));
    assert!(world.pids("a").iter().all(|pid| !pids.contains(pid)));
    let told = world.run(&["events"]).ok().stdout;
    assert!(told.contains("no room for both: it needs 1 cpu, and 0 of 2 are free"), "{told}");
}

#[test]
fn a_single_replica_without_room_for_a_second_is_updated_while_requests_wait() {
    let world = on("cpus=1");
    let deploy = |word: &str| world.deploy(&who("a", 1, word, "resources = { cpus = 1 }"));
    let _ = deploy("old").ok();
    thread::scope(|scope| {
        let update = scope.spawn(|| deploy("new").ok());
        let mut connection = world.connect();
        while !update.is_finished() {
            assert_eq!(connection.get("/a").expect("an answer").status, 200);
        }
        let _ = update.join().expect("a thread");
    });
    assert!(world.get("/a").text().ends_with("new"));
    let told = world.run(&["events"]).ok().stdout;
    assert!(told.contains("until that one is ready none serves"), "{told}");
}

#[test]
fn what_never_fits_is_refused_and_what_does_not_fit_beside_others_waits() {
    let world = on("cpus=2,memory=1GiB,gpus=0");
    fs::write(world.path().join("a.toml"), who("a", 3, "", "resources = { cpus = 1 }")).expect("write");
    for command in ["plan", "deploy"] {
        let refused = world.run(&[command, "a.toml"]).code(1).stderr;
        assert!(
            refused.contains(
                "each of its 3 replicas needs 1 cpu, and replicas may use 2 cpus, 1 GiB of memory, 0 gpus"
            ),
            "{refused}"
        );
    }
    fs::write(world.path().join("a.toml"), who("a", 2, "", "resources = { cpus = 1 }")).expect("write");
    let plan = world.run(&["plan", "a.toml"]).ok().stdout;
    assert!(plan.contains("each replica has 1 cpu"), "{plan}");
    let _ = world.run(&["deploy", "a.toml"]).ok();
    fs::write(world.path().join("b.toml"), who("b", 1, "", "resources = { cpus = 0.5 }")).expect("write");
    let _ = world.run(&["deploy", "b.toml", "--no-wait"]).ok();
    let why = "there is no room for another replica: it needs 0.5 cpus, and 0 of 2 are free";
    world.until("it waits", |status| {
        status.deployments.iter().any(|it| it.name.as_str() == "b" && it.message.contains(why))
    });
    let events = world.run(&["events"]).ok().stdout;
    assert!(events.contains("waits-for-room") && events.contains(why), "{events}");
    let _ = world.run(&["scale", "a", "1"]).ok();
    world.until("it has room", |status| {
        status.deployments.iter().any(|it| it.name.as_str() == "b" && it.rollout.updated == 1)
    });
}

#[test]
fn who_uses_more_memory_than_it_may_is_killed_and_the_reason_is_told() {
    let world = World::start();
    // No process is so small.
    let text = who("a", 1, "", "resources = { memory = \"1MiB\" }");
    fs::write(world.path().join("a.toml"), text).expect("write");
    let _ = world.run(&["deploy", "a.toml", "--no-wait"]).ok();
    world.until("its end", |status| {
        let ended = &status.deployments[0].ended;
        ended.iter().any(|it| it.reason.contains("and may have 1 MiB (resources.memory)"))
    });
}

#[test]
fn the_next_supervisor_knows_what_is_taken() {
    let mut world = on("cpus=2");
    let _ = world.deploy(&who("a", 2, "", "resources = { cpus = 1 }")).ok();
    let pids = world.pids("a");
    let _ = world.end_supervisor(Signal::SIGKILL);
    world.start_supervisor();
    assert_eq!(world.pids("a"), pids);
    fs::write(world.path().join("b.toml"), who("b", 1, "", "resources = { cpus = 1 }")).expect("write");
    let _ = world.run(&["deploy", "b.toml", "--no-wait"]).ok();
    world.until("it waits", |status| {
        status.deployments.iter().any(|it| it.name.as_str() == "b" && it.message.contains("no room"))
    });
    assert_eq!(world.pids("a"), pids);
}

/// Compiles a library in C.
fn compile(arguments: &[&str], folder: &std::path::Path) {
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/abi/include");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-I", include])
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("cc runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

#[test]
fn a_library_finds_what_it_needs_in_its_library_path() {
    const WORD: &str = "const char *word(void) { return \"found\"; }";
    const SPEAKER: &str = "#include \"decurion.h\"\nextern const char *word(void);\n\
        static int32_t answer(void *unused, decurion_exchange *exchange) {\n\
        (void)unused; return decurion_respond_text(exchange, 200, word()); }\n\
        DECURION_FUNCTION(speaker, answer)\n";
    let world = World::start();
    let folder = world.path();
    fs::create_dir(folder.join("parts")).expect("a folder");
    fs::write(folder.join("word.c"), WORD).expect("write");
    fs::write(folder.join("speaker.c"), SPEAKER).expect("write");
    compile(&["word.c", "-o", "parts/libword.so"], folder);
    compile(&["speaker.c", "-o", "speaker.so", "-Lparts", "-lword"], folder);
    let config = |env: &str| {
        format!("application = \"a\"\n[[deployment]]\nname = \"a\"\nlibrary = \"speaker.so\"\n{env}\n")
    };
    let refused = world.deploy(&config("")).code(1).stderr;
    assert!(refused.contains("the library needs libword.so, which is not found in"), "{refused}");
    let none = world.deploy(&config("runtime_env = { library_path = [\"none\"] }")).code(1).stderr;
    assert!(
        none.contains("library_path of deployment 'a', ") && none.contains("/none, can't be used"),
        "{none}"
    );
    let _ = world.deploy(&config("runtime_env = { library_path = [\"parts\"] }")).ok();
    assert_eq!(world.get("/a").text(), "found");
    let pids = world.pids("a");
    let more = "runtime_env = { library_path = [\"parts\"], env_vars = { LD_LIBRARY_PATH = \"/opt/x\" } }";
    let _ = world.deploy(&config(more)).ok();
    assert_ne!(world.pids("a"), pids, "another environment is another version");
    let parts = format!("{}/parts:/opt/x", folder.display());
    assert!(environment(world.pids("a")[0])["LD_LIBRARY_PATH"].ends_with(&parts));
}

#[test]
fn a_replica_runs_in_its_working_dir() {
    let world = World::start();
    let place = |pid: i32| fs::read_link(format!("/proc/{pid}/cwd")).expect("a process that runs");
    for name in ["first", "second"] {
        fs::create_dir(world.path().join(name)).expect("a folder");
    }
    let mut pids = Vec::new();
    for name in ["first", "second"] {
        let env = format!("runtime_env = {{ working_dir = \"{name}\" }}");
        let _ = world.deploy(&who("a", 1, "", &env)).ok();
        let pid = world.pids("a")[0];
        assert_eq!(place(pid), fs::canonicalize(world.path().join(name)).expect("a folder"));
        assert!(!pids.contains(&pid), "another folder is another version");
        pids.push(pid);
    }
    let revision = world.status().revision;
    let refused = world.deploy(&who("a", 1, "", "runtime_env = { working_dir = \"supervisor.log\" }"));
    let refused = refused.code(1).stderr;
    assert!(
        refused.contains("working_dir of deployment 'a', ") && refused.contains("it is no folder"),
        "{refused}"
    );
    assert_eq!((world.status().revision, world.pids("a")[0]), (revision, pids[1]));
    // Whoever starts when it is gone says so.
    fs::remove_dir(world.path().join("second")).expect("an empty folder");
    let _ = world.run(&["restart", "a", "--no-wait"]).ok();
    world.until("a reason", |status| status.deployments[0].message.contains("is no folder any more"));
}

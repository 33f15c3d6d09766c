//! The examples as their READMEs show them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use decurion_tests::{World, eventually, library};

/// An example's own configuration, with the library that was built for the tests.
fn deploy_example(world: &World, name: &str) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    let text = std::fs::read_to_string(root.join("decurion.toml")).expect("an example has a configuration");
    let folder = library("fixtures").parent().expect("a folder").to_string_lossy().into_owned();
    let text =
        text.replace("../../target/release", &folder).replace("127.0.0.1:8000", &world.address().to_string());
    let _ = world.deploy(&text).ok();
}

/// `decurion run` keeps to itself unless it is told where to answer: without that, the page's other commands would find
/// nobody.
#[test]
fn pages_that_run_an_example_and_speak_with_it_say_where_it_answers() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut speak = 0;
    for example in std::fs::read_dir(examples).expect("examples").flatten() {
        let Ok(page) = std::fs::read_to_string(example.path().join("README.md")) else { continue };
        let commands = || page.lines().filter_map(|line| line.strip_prefix("    decurion "));
        if commands().any(|it| it.starts_with("run ")) && commands().any(|it| !it.starts_with("run ")) {
            speak += 1;
            assert!(page.contains("    export DECURION_SOCKET=/"), "{}", example.path().display());
        }
    }
    assert!(speak >= 3, "they are found: {speak}");
}

#[test]
fn hello_answers_at_its_prefix() {
    let world = World::start();
    deploy_example(&world, "hello");
    assert_eq!(world.get("/api").text(), "Hello world!");
    assert_eq!(world.get("/api/more?x=1").text(), "Hello world!");
    assert_eq!(world.get("/apiary").status, 404);
    let routes = world.run(&["-o", "json", "routes"]).ok();
    assert!(routes.stdout.contains("\"/api\""), "{}", routes.stdout);
}

#[test]
fn threshold_takes_a_new_configuration_in_the_same_processes() {
    let world = World::start();
    deploy_example(&world, "threshold");
    let name = world.status().deployments[0].name.to_string();
    let prefix = world.status().deployments[0].route_prefix.clone().expect("a route").to_string();
    let pids = world.pids(&name);
    let _ = world.run(&["reconfigure", &name, "threshold=0.01"]).ok();
    let low = world.get(&prefix);
    let _ = world.run(&["reconfigure", &name, "threshold=0.99"]).ok();
    let high = world.get(&prefix);
    assert_eq!((low.status, high.status), (200, 200), "{} {}", low.text(), high.text());
    assert_ne!(low.json()["above"], high.json()["above"], "{} {}", low.text(), high.text());
    assert_eq!(world.pids(&name), pids);
}

#[test]
fn predictor_is_deployed_twice_and_called_through_handles() {
    let world = World::start();
    deploy_example(&world, "predictor");
    let (one, two) = (world.pids("rep_1"), world.pids("rep_2"));
    assert_eq!((one.len(), two.len()), (2, 2));
    let prefix = "/ensemble?data=0.5".to_owned();
    let seen = RefCell::new(BTreeSet::new());
    let everyone: BTreeSet<i32> = one.iter().chain(&two).copied().collect();
    eventually("each replica to have answered", || {
        let answer = world.get(&prefix);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.text();
        let digits = text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<i32>().ok());
        seen.borrow_mut().extend(digits.filter(|pid| everyone.contains(pid)));
        *seen.borrow() == everyone
    });
}

#[test]
fn graph_by_handles_makes_four_of_one() {
    let world = World::start();
    deploy_example(&world, "graph");
    let driver =
        world.status().deployments.into_iter().find(|it| it.name.as_str() == "driver").expect("a driver");
    let answer = world.post(driver.route_prefix.expect("a route").as_str(), b"1");
    assert_eq!((answer.status, answer.text().trim()), (200, "4"));
    let without_code = world.post("/sum", b"1");
    assert_eq!((without_code.status, without_code.text().trim()), (200, "4"));
}

#[test]
fn digits_are_as_accurate_as_offline() {
    let world = World::start();
    deploy_example(&world, "digits");
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/data");
    let model: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(data.join("model.json")).expect("a model"))
            .expect("JSON");
    let table = std::fs::read_to_string(data.join("held_out.csv")).expect("held-out digits");
    let mut connection = world.connect();
    let (mut count, mut correct) = (0u64, 0u64);
    for line in table.lines().skip(1) {
        let mut cells = line.splitn(3, ',');
        let (digit, _offline, pixels) = (cells.next(), cells.next(), cells.next());
        let body = format!("{{\"pixels\": [{}]}}", pixels.expect("pixels"));
        let answer = connection.post("/digits", body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        count += 1;
        correct += u64::from(digit == Some(answer.json()["digit"].to_string().as_str()));
    }
    assert_eq!(serde_json::json!({ "count": count, "correct": correct }), model["held_out"]);
}

#[test]
fn c_says_hello() {
    let world = World::start();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let library = world.path().join("libhello_c.so");
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(root.join("sdk/abi/include"))
        .arg(root.join("examples/c/hello.c"))
        .arg("-o")
        .arg(&library)
        .status()
        .expect("cc runs");
    assert!(built.success());
    let checked = world.run(&["check", &library.to_string_lossy()]).ok();
    assert!(checked.stdout.to_lowercase().contains("hello"), "{}", checked.stdout);
    let _ = world.run(&["deploy", &library.to_string_lossy(), "--name", "c", "--route-prefix", "/c"]).ok();
    let answer = world.get("/c");
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("Hello"), "{}", answer.text());
}

#[test]
fn a_model_in_cpp_asks_one_in_c() {
    let world = World::start();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = [("c++", "cpp/model.cpp", "libcpp.so"), ("cc", "c/model.c", "libc.so")].map(
        |(compiler, source, name)| {
            let library = world.path().join(name);
            let status = std::process::Command::new(compiler)
                .args(["-shared", "-fPIC", "-I"])
                .arg(root.join("sdk/abi/include"))
                .arg(root.join("examples").join(source))
                .arg("-o")
                .arg(&library)
                .status();
            assert!(status.expect("a compiler").success(), "{source}");
            library
        },
    );
    let config = format!(
        "application = \"native\"\n\
         [[deployment]]\nname = \"cpp\"\nlibrary = \"{}\"\nargs = [0.5]\n\
         [[deployment]]\nname = \"other\"\nlibrary = \"{}\"\nargs = [0.3]\nroute_prefix = \"\"\n",
        built[0].display(),
        built[1].display()
    );
    let _ = world.deploy(&config).ok();
    assert_eq!(world.run(&["call", "cpp.ask", "[0.4]"]).ok().json(), serde_json::json!([true, false]));
    // An error of the callee keeps its status.
    let wrong = world.run(&["call", "cpp.ask", "[\"x\"]"]).code(1);
    assert!(wrong.stderr.contains("a number is expected here"), "{}", wrong.stderr);
    assert_eq!(world.get("/cpp/countdown").text(), "data: 3\n\ndata: 2\n\ndata: 1\n\n");
}

#[test]
fn what_is_said_in_the_chat_everybody_hears() {
    let world = World::start();
    deploy_example(&world, "chat");
    assert!(world.get("/chat").text().contains("new WebSocket"));
    let mut listener = world.connect();
    listener.request("GET", "/chat/events", &[], b"").expect("sent");
    let mut events = std::io::BufReader::new(listener.stream().try_clone().expect("a second descriptor"));
    let mut until = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut events, &mut line).expect("an event") > 0, "{text}");
        }
    };
    until("data: welcome");
    let join = || {
        let stream = world.connect().stream().try_clone().expect("a stream");
        tungstenite::client("ws://decurion/chat/ws", stream).expect("a websocket").0
    };
    let [mut one, mut two] = [join(), join()];
    assert_eq!(one.read().expect("a message").to_text().expect("text"), "welcome");
    assert_eq!(two.read().expect("a message").to_text().expect("text"), "welcome");
    one.send("hello, all".into()).expect("sent");
    assert_eq!(one.read().expect("a message").to_text().expect("text"), "hello, all");
    assert_eq!(two.read().expect("a message").to_text().expect("text"), "hello, all");
    until("data: hello, all");
    two.send("x".repeat(5000).into()).expect("sent");
    let closed = two.read().expect("a close frame");
    assert!(matches!(closed, tungstenite::Message::Close(Some(frame)) if u16::from(frame.code) == 1009));
}

#[test]
fn axum_is_nested_under_its_prefix() {
    let world = World::start();
    deploy_example(&world, "axum");
    assert_eq!(world.get("/shop").text(), "What do you want?");
    assert_eq!(world.get("/shop/items/7?count=2").json(), serde_json::json!({ "item": 7, "count": 2 }));
    assert_eq!(world.get("/shop/asked").text(), "1");
    assert_eq!(world.get("/shop/where?x=1").text(), "/shop/where?x=1");
    assert_eq!(world.get("/shop/nowhere").status, 404);
    assert_eq!(world.get("/shop/echo").status, 405);
    assert_eq!(world.get("/shop/haggle").status, 400);
    let stream = world.connect().stream().try_clone().expect("a stream");
    let (mut socket, _) = tungstenite::client("ws://decurion/shop/haggle", stream).expect("a websocket");
    for (offer, answer) in [("9", "Too little."), ("10", "Sold!")] {
        socket.send(offer.into()).expect("sent");
        assert_eq!(socket.read().expect("an answer").to_text().expect("text"), answer);
    }
    drop(socket);
    let body: Vec<u8> =
        (0..5_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let mut connection = world.connect();
    let mut sending = connection.stream().try_clone().expect("a second descriptor");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let head =
                format!("POST /shop/echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            std::io::Write::write_all(&mut sending, &[head.as_bytes(), &body].concat()).expect("sent");
        });
        let answer = connection.read().expect("an answer");
        assert!(answer.status == 200 && answer.body == body, "{} bytes came back", answer.body.len());
    });
}

#[test]
fn two_models_in_parallel_are_as_accurate_as_offline() {
    let world = World::start();
    deploy_example(&world, "ensemble");
    let data =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ensemble/data/held_out.json");
    let held: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(data).expect("held-out rows")).expect("JSON");
    let rows = held["rows"].as_array().expect("a list");
    let mut connection = world.connect();
    let mut correct = 0;
    for row in rows {
        let answer = connection.post("/diagnose", row["features"].to_string().as_bytes()).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        for model in ["trees", "network"] {
            let (ours, offline) = (answer["models"][model].as_f64(), row[model].as_f64());
            let (ours, offline) = (ours.expect("a number"), offline.expect("a number"));
            assert!((ours - offline).abs() < 1e-5, "{model}: {ours}, and {offline} offline");
        }
        let malignant = row["label"].as_u64() == Some(0);
        correct += u64::from(answer["malignant"].as_bool() == Some(malignant));
    }
    assert_eq!(Some(correct), held["correct"]["ensemble"].as_u64());
    let wrong = world.post("/diagnose", b"[1, 2]");
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    assert!(wrong.text().contains("step 'scaled' (preprocess): 2 features were given"), "{}", wrong.text());
}

//! TLS from the configuration file to real clients, and certificates that are changed while it serves.

use std::fs;
use std::process::Command;

use decurion_tests::{World, eventually, library};
use nix::sys::signal::{Signal, kill};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Writes a new authority as `ca.pem`, and a certificate of its own for the world's address, with its key. Gives the
/// certificate.
fn certify(world: &World) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "an authority for one test");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([world.address().ip().to_string()]).expect("an address");
    params.use_authority_key_identifier_extension = true;
    let cert = params.signed_by(&key, &authority).expect("a certificate").pem();
    let write = |name: &str, text: &str| fs::write(world.path().join(name), text).expect("write");
    write("ca.pem", &authority.pem());
    write("cert.pem", &cert);
    write("key.pem", &key.serialize_pem());
    cert
}

fn config(world: &World, with_deployment: bool) -> String {
    let deployment = format!(
        "[[deployment]]\nname = \"echo\"\nlibrary = \"{}\"\nclass = \"Echo\"\nroute_prefix = \"/api\"\n",
        library("fixtures").display()
    );
    format!(
        "application = \"{}\"\n[http]\nlisten = \"{}\"\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n{}",
        if with_deployment { "tls" } else { "rig" },
        world.address(),
        if with_deployment { &deployment } else { "" }
    )
}

#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn not_tried(client: &str, error: &std::io::Error) {
    eprintln!("{client} was not tried: {error}");
}

/// What curl gets, its exit code first; it knows the authority of `ca.pem` alone.
fn curl(world: &World, arguments: &[&str]) -> Option<(i32, String)> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
        .arg(world.path().join("ca.pem"));
    let output = match command.args(arguments).arg(format!("https://{}/api", world.address())).output() {
        Ok(output) => output,
        Err(error) => {
            not_tried("curl", &error);
            return None;
        }
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.code().unwrap_or(-1), text))
}

/// Sends SIGHUP, and waits until every new connection gets the certificate that is in the file now.
fn renew(world: &World) {
    let known = world.admin().events().expect("events").last().map_or(0, |event| event.sequence);
    let events = world.admin().follow_events().expect("events").map(|event| event.expect("an event"));
    kill(world.supervisor_pid(), Signal::SIGHUP).expect("a supervisor");
    let mut kinds = events.filter(|event| event.sequence > known).map(|event| event.kind);
    assert!(kinds.any(|kind| kind == "proxy-configured"), "{}", world.log());
}

#[test]
fn clients_are_served_over_tls_and_certificates_change_under_them() {
    let world = World::start();
    let first = certify(&world);
    let _ = world.deploy(&config(&world, true)).ok();
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let Some((code, text)) = curl(&world, &[version, &["--data", "hello"]].concat()) else { return };
        assert_eq!((code, text.as_str()), (0, "hello"));
    }
    let large = "x".repeat(3 << 20);
    fs::write(world.path().join("large"), &large).expect("write");
    let data = format!("@{}", world.path().join("large").display());
    let (code, text) = curl(&world, &["--data-binary", &data, "--header", "expect:"]).expect("curl");
    assert!((code, &text) == (0, &large), "{code}, {} bytes", text.len());
    python(&world);
    let routes = world.run(&["routes"]).ok().stdout;
    assert!(routes.contains(&format!(" https://{}/api", world.address())), "{routes}");

    // What the file names is served again from the start, and its paths are relative to it.
    fs::write(world.path().join("http.toml"), config(&world, false)).expect("write");
    certify(&world);
    renew(&world);
    assert_eq!(curl(&world, &["--data", "again"]).expect("curl"), (0, "again".to_owned()));

    // Also where the file says nothing of HTTP, and so leaves it as it is.
    fs::write(world.path().join("http.toml"), "application = \"rig\"\n").expect("write");
    let second = certify(&world);
    renew(&world);
    assert_eq!(curl(&world, &["--data", "anew"]).expect("curl"), (0, "anew".to_owned()));
    fs::write(world.path().join("http.toml"), config(&world, false)).expect("write");

    fs::write(world.path().join("cert.pem"), &first).expect("write");
    kill(world.supervisor_pid(), Signal::SIGHUP).expect("a supervisor");
    let refusal = "the private key is refused: it is not the certificate's; nothing was changed";
    eventually(refusal, || world.log().contains(refusal));
    assert_eq!(curl(&world, &["--data", "still"]).expect("curl"), (0, "still".to_owned()));
    let refused = world.deploy(&config(&world, true)).code(1);
    assert_eq!(refused.stderr.matches("it is not the certificate's").count(), 1, "{}", refused.stderr);
    fs::write(world.path().join("cert.pem"), second).expect("write");
    let _ = world.deploy(&config(&world, true)).ok();

    let shown = world.run(&["config"]).ok().stdout + &world.log();
    assert!(shown.contains("key.pem") && !shown.contains("PRIVATE"), "{shown}");
    // Without TLS from the next connection on.
    let plain = config(&world, true).replace("tls = ", "# tls = ");
    let _ = world.deploy(&plain).ok();
    assert!(world.run(&["routes"]).ok().stdout.contains(" http://"));
    assert_eq!(world.get("/api").status, 200);
}

#[test]
fn a_certificate_that_can_not_be_read_stops_nothing_but_itself() {
    let world = World::start();
    let refused = world.deploy(&config(&world, true)).code(1);
    assert!(refused.stderr.contains("cert.pem can't be read"), "{}", refused.stderr);
    assert!(world.status().deployments.is_empty());
}

/// Python's `http.client`, two requests over one connection.
fn python(world: &World) {
    const SCRIPT: &str = "import http.client, ssl, sys
host, port, ca = sys.argv[1:]
connection = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(cafile=ca))
for body in (b'one', b'x' * 100000):
    connection.request('POST', '/api', body)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, body)
connection.close()";
    let address = world.address();
    let output = Command::new("python3")
        .args(["-c", SCRIPT, &address.ip().to_string(), &address.port().to_string()])
        .arg(world.path().join("ca.pem"))
        .output();
    match output {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => not_tried("python3", &error),
    }
}

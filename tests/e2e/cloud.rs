//! The whole life of a vault in a bucket: made, registered with, filled, and after the disaster everything comes back from it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::home::{Finished, Home, number_of, text_of};
use crate::protected::{Protected, text};
use crate::quickstart::{expect_equal, plant};
use crate::servers::{Azurite, Ceph, Certificate, FaultProxy, Moto, Place, Tunnel};

fn live(place: &Place) {
    let protected = Protected::by(place);
    let Protected { machine, source, .. } = &protected;
    plant(source);
    let silent = |said: &Finished| {
        for text in [said.stdout(), said.stderr()] {
            assert!(!text.contains(place.secret()), "the key was told: {said}");
        }
    };

    let point = protected.back_up();
    let copied = machine.run(["-vv", "sync", "--json"]).expect_code(0);
    let again = machine.run(["sync", "--json"]).expect_code(0).summary();
    let ping = machine.run(["-vv", "vault", "ping", "--json"]).expect_code(0);

    silent(&copied);
    silent(&ping);
    assert_eq!(copied.summary()["points_copied"][0], point.as_str());
    assert_eq!(number_of(&again, "objects"), 0);
    let ping = ping.json();
    let steps: Vec<_> = ping["steps"].as_array().expect("steps").iter().map(step_name).collect();
    assert_eq!(steps, ["dns", "connect", "login", "write", "read", "delete", "clock"]);
    assert_eq!(ping["reached"], true);
    assert!(ping["clock_ahead_seconds"].as_i64().is_some_and(|ahead| ahead.abs() < 60), "{ping}");
    assert_eq!(fs::metadata(&protected.kept().credentials).expect("there").mode() & 0o777, 0o600);
    expect_secret_only_in_credentials(machine.path(), place.secret());

    protected.lose_everything();
    let blank = Home::empty_in_memory();
    let listed = protected.kept().recover(&blank, &["--list", "--json"]).expect_code(0).json();
    assert_eq!(listed["points"].as_array().map(Vec::len), Some(1));
    let target = blank.beside("recovered");
    let recovered = protected.kept().recover(&blank, &["latest", "--to", text(&target)]);
    silent(&recovered.expect_code(0));
    expect_equal(source, &target);
}

fn step_name(step: &serde_json::Value) -> String {
    text_of(step, "step")
}

fn expect_secret_only_in_credentials(home: &Path, secret: &str) {
    let mut folders = vec![home.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).expect("read");
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "the key is in {}", path.display());
        }
    }
}

#[test]
fn everything_comes_back_from_s3_at_moto() {
    let moto = Moto::start();

    live(&moto.place("servers"));
}

#[test]
fn everything_comes_back_from_s3_at_ceph() {
    let ceph = Ceph::start();

    live(&ceph.place("servers"));
}

#[test]
fn everything_comes_back_from_azure() {
    let azurite = Azurite::start();

    live(&azurite.place("servers"));
}

#[test]
fn a_sync_with_nothing_new_costs_at_most_three_requests() {
    let moto = Moto::start();
    let proxy = FaultProxy::before(moto.host());
    let protected = Protected::by(&moto.place("servers").through(proxy.endpoint()));
    plant(&protected.source);
    protected.back_up();
    protected.machine.run(["sync"]).expect_code(0);
    proxy.take_requests();

    protected.machine.run(["sync"]).expect_code(0);

    let requests = proxy.take_requests();
    assert!(requests.len() <= 3, "{requests:#?}");
}

#[test]
fn keys_may_come_from_the_variables_of_the_provider_and_are_then_written_nowhere() {
    let moto = Moto::start();
    let place = moto.place("servers");
    let machine = Home::in_memory();
    let kept = machine.directory("kept");
    let credentials = kept.join("main.vault");
    let run = |arguments: &[&str]| {
        let mut command = machine.command(arguments);
        command
            .env("AWS_ENDPOINT_URL", &place.endpoint)
            .env("AWS_ACCESS_KEY_ID", "MOTOACCESSKEY")
            .env("AWS_SECRET_ACCESS_KEY", place.secret());
        Finished::of(command)
    };

    run(&["vault", "create", &place.url, "--credentials", text(&credentials)]).expect_code(0);
    let passphrase = kept.join("passphrase");
    let register = ["vault", "register", "--credentials", text(&credentials)];
    run(&[&register[..], &["--generate-passphrase", text(&passphrase), "--label", "a"]].concat())
        .expect_code(0);
    run(&["vault", "ping"]).expect_code(0);

    let written = fs::read_to_string(&credentials).expect("written");
    assert!(!written.contains("[access]"), "{written}");
}

#[test]
fn a_server_adds_its_own_keys_without_touching_the_owners_file() {
    let moto = Moto::start();
    let place = moto.place("servers");
    let machine = Home::in_memory();
    let kept = machine.directory("kept");
    let (owners, keys) = (kept.join("owner.vault"), machine.directory("keys"));
    crate::protected::create(&machine, &place, &owners).expect_code(0);
    let text_before = fs::read_to_string(&owners).expect("written");
    let without_keys: String = text_before
        .lines()
        .filter(|line| !line.starts_with("access_key_id") && !line.starts_with("secret"))
        .fold(String::new(), |text, line| text + line + "\n");
    fs::write(&owners, &without_keys).expect("written");

    let access = place.arguments(&keys);
    let mut arguments = vec!["vault", "register", "--credentials", text(&owners), "--label", "a"];
    let passphrase = kept.join("passphrase");
    arguments.extend(["--generate-passphrase", text(&passphrase)]);
    arguments.extend(access.iter().map(String::as_str));
    machine.run(arguments).expect_code(0);

    assert_eq!(fs::read_to_string(&owners).expect("there"), without_keys);
    let own = machine.path().join("main.vault");
    assert!(fs::read_to_string(&own).expect("written").contains(place.secret()));
    assert_eq!(fs::metadata(&own).expect("there").mode() & 0o777, 0o600);
    machine.run(["vault", "ping"]).expect_code(0);
}

#[test]
fn a_server_with_a_certificate_of_an_own_authority_is_trusted_only_when_that_is_named() {
    let certificate = Certificate::new();
    let moto = Moto::start_encrypted(&certificate);
    let place = moto.place("servers");
    let owner = Home::empty();
    let keys = owner.directory("keys");
    let credentials = owner.beside("main.vault");
    let access = place.arguments(&keys);
    let mut arguments = vec!["vault", "create", &place.url, "--credentials", text(&credentials)];
    arguments.extend(access.iter().map(String::as_str));

    let refused = owner.run(arguments.clone()).expect_code(1);
    let authority = certificate.authority();
    arguments.extend(["--ca-file", text(&authority)]);
    let trusted = owner.run(arguments).expect_code(1);

    assert!(refused.stderr().contains("certificate is not trusted"), "{refused}");
    assert!(refused.stderr().contains("--ca-file"), "{refused}");
    // Heard and understood: this server has no bucket yet.
    assert!(trusted.stderr().contains("there is no such bucket"), "{trusted}");
}

#[test]
fn a_proxy_is_used_for_encrypted_and_for_plain_servers() {
    let certificate = Certificate::new();
    let encrypted = Moto::start_encrypted(&certificate);
    let plain = Moto::start();
    let tunnel = Tunnel::start();
    let carrier = FaultProxy::before(plain.host());
    let owner = Home::empty();
    let keys = owner.directory("keys");
    let credentials = owner.beside("main.vault");
    let authority = certificate.authority();
    let try_with = |place: &Place, rest: &[&str], variable: Option<&str>| {
        let access = place.arguments(&keys);
        let mut arguments = vec!["vault", "create", &place.url];
        arguments.extend(["--credentials", text(&credentials), "--ca-file", text(&authority)]);
        arguments.extend(access.iter().map(String::as_str).chain(rest.iter().copied()));
        let mut command = owner.command(arguments);
        command.envs(variable.map(|proxy| ("HTTPS_PROXY", proxy)));
        Finished::of(command)
    };

    // The server has no bucket; what counts is which way it was asked.
    let place = encrypted.place("servers");
    let asked = try_with(&place, &[], Some(&tunnel.url())).expect_code(1);
    assert!(asked.stderr().contains("there is no such bucket"), "{asked}");
    let opened = tunnel.opened();
    assert!(opened > 0);
    try_with(&place, &["--proxy", "off"], Some(&tunnel.url())).expect_code(1);
    assert_eq!(tunnel.opened(), opened);

    // A name that only the proxy could know.
    let place = plain.place("servers").through("http://store.invalid".to_string());
    let asked = try_with(&place, &["--proxy", &carrier.endpoint()], None).expect_code(1);
    assert!(asked.stderr().contains("status 404"), "{asked}");
    assert!(carrier.uploaded() > 0);
}

#[test]
fn without_keys_on_a_machine_without_a_role_that_is_what_is_told() {
    let owner = Home::empty();
    let mut command = owner.command([
        "vault",
        "create",
        "s3://keepwell-tests",
        "--credentials",
        "main.vault",
        "--endpoint",
        "http://127.0.0.1:1",
    ]);
    // Machines in a cloud have a role; this one asks where nobody answers.
    command.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");

    let refused = Finished::of(command).expect_code(1);

    assert!(refused.stderr().contains("login refused: no keys were given"), "{refused}");
}

#[test]
fn a_password_on_the_command_line_is_refused() {
    let owner = Home::empty();

    let refused = owner
        .run([
            "vault",
            "create",
            "s3://keepwell-tests",
            "--credentials",
            "main.vault",
            "--proxy",
            "http://user:planted-word@127.0.0.1:1",
        ])
        .expect_code(2);

    assert!(refused.stderr().contains("HTTPS_PROXY"), "{refused}");
    assert!(!refused.stderr().contains("planted-word"), "{refused}");
}

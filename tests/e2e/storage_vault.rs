//! Somebody asks what the place of a vault is worth: real servers, their rules, their networks.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::home::{Home, text_of};
use crate::servers::{Azurite, Ceph, Fault, FaultProxy, Moto, Place, Rclone};
use crate::tree::Random;

/// A home with a pool and a vault that it is registered with.
struct Registered {
    home: Home,
    name: String,
}

fn random_name() -> String {
    format!("v{:08x}", Random::fresh().0.next() as u32)
}

fn create(home: &Home, place: &Place, name: &str) -> String {
    let file = home.beside(&format!("{name}.vault"));
    let file = file.to_str().expect("UTF-8").to_string();
    let mut arguments: Vec<String> =
        ["vault", "create", &place.url, "--name", name].map(str::to_string).to_vec();
    arguments.extend(["--credentials".to_string(), file.clone()]);
    arguments.extend(place.arguments(&home.directory("keys")));
    home.run(arguments).expect_code(0);
    file
}

fn register(place: &Place) -> Registered {
    let home = Home::in_memory();
    let name = random_name();
    let file = create(&home, place, &name);
    let passphrase = home.beside("passphrase");
    let passphrase = passphrase.to_str().expect("UTF-8");
    home.run(["vault", "register", "--credentials", &file, "--generate-passphrase", passphrase])
        .expect_code(0);
    Registered { home, name }
}

impl Registered {
    fn examine(&self, code: i32) -> Value {
        let finished = self.home.run(["--json", "selftest", "storage", &self.name]);
        let document = finished.expect_code(code).json();
        let one = document["examined"][0].clone();
        assert_eq!((&one["kind"], &one["name"]), (&"vault".into(), &self.name.as_str().into()));
        one
    }
}

fn finding<'a>(examined: &'a Value, check: &str) -> &'a Value {
    let findings = examined["findings"].as_array().expect("findings");
    let own = findings.iter().find(|finding| finding["check"] == check);
    own.unwrap_or_else(|| panic!("{check} was not looked at: {examined}"))
}

fn expect_sound(examined: &Value) {
    for check in ["read-back", "create-only", "list", "ranges", "clock"] {
        assert_eq!(finding(examined, check)["grade"], "good", "{examined}");
    }
    for check in ["latency", "speed"] {
        assert_ne!(finding(examined, check)["grade"], "unfit", "{examined}");
    }
}

fn names(place: &Place) -> BTreeSet<String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let listed = runtime.block_on(place.open().list("")).expect("listed");
    listed.iter().map(|meta| meta.name.to_string()).collect()
}

#[test]
fn a_sound_bucket_is_good_and_nothing_is_left_in_it() {
    let moto = Moto::start();
    let place = moto.place("some/prefix");
    let registered = register(&place);
    let before = names(&place);

    let one = registered.examine(0);

    expect_sound(&one);
    assert_eq!(finding(&one, "lifecycle")["grade"], "good", "{one}");
    assert!(text_of(finding(&one, "lifecycle"), "seen").contains("no rules"), "{one}");
    assert_eq!(names(&place), before);
    let doctor = registered.home.run(["--json", "doctor"]).json();
    let id = format!("vault {} place", registered.name);
    let checks = doctor["checks"].as_array().expect("checks");
    let own = checks.iter().find(|check| check["id"] == id.as_str()).expect("looked at");
    assert_eq!(own["state"], "good", "{doctor}");
    assert!(!one.to_string().contains(place.secret()));
}

#[test]
fn a_rule_that_deletes_what_is_in_the_vault_makes_its_place_unfit() {
    const RULES: &str = "<LifecycleConfiguration><Rule><ID>spring cleaning</ID><Filter><Prefix>PREFIX</Prefix></Filter><Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>";
    let moto = Moto::start();
    let place = moto.place("some/prefix");
    let registered = register(&place);
    let rules = |prefix: &str| {
        let file = registered.home.beside("rules.xml");
        std::fs::write(&file, RULES.replace("PREFIX", prefix)).expect("written");
        moto.set_rules(&file);
    };

    rules("other/");
    let harmless = registered.examine(0);
    assert_eq!(finding(&harmless, "lifecycle")["grade"], "good", "{harmless}");

    rules("some/");
    let one = registered.examine(1);
    let lifecycle = finding(&one, "lifecycle");
    assert_eq!(lifecycle["grade"], "unfit", "{one}");
    let seen = text_of(lifecycle, "seen");
    assert!(seen.contains("\"spring cleaning\"") && seen.contains("after 30 days"), "{seen}");

    // Another server that would register is kept from it, and doctor says it of the first.
    let other = Home::in_memory();
    let file = registered.home.beside(&format!("{}.vault", registered.name));
    let file = file.to_str().expect("UTF-8");
    let passphrase = other.beside("passphrase");
    let passphrase = passphrase.to_str().expect("UTF-8");
    let arguments =
        ["vault", "register", "--credentials", file, "--generate-passphrase", passphrase];
    let refused = other.run(arguments.into_iter().chain(["--label", "other"])).expect_code(1);
    assert!(refused.stderr().contains("spring cleaning"), "{refused}");
    assert!(refused.stderr().contains("hint:"), "{refused}");
    let doctor = registered.home.run(["--json", "doctor"]).expect_code(1);
    assert!(doctor.stdout().contains("spring cleaning"), "{doctor}");
}

#[test]
fn a_server_that_checks_signatures_tells_that_it_has_no_rules() {
    let ceph = Ceph::start();
    let place = ceph.place("some/prefix");
    let registered = register(&place);
    let before = names(&place);

    let one = registered.examine(0);

    expect_sound(&one);
    // A question that is signed wrongly would be refused, and the rules be unseen.
    assert!(text_of(finding(&one, "lifecycle"), "seen").contains("no rules"), "{one}");
    assert_eq!(names(&place), before);
}

#[test]
fn a_container_of_azure_passes_and_says_what_only_its_owner_sees() {
    let azurite = Azurite::start();
    let place = azurite.place("some/prefix");
    let registered = register(&place);
    let before = names(&place);

    let one = registered.examine(0);

    expect_sound(&one);
    assert!(one["unseen"].to_string().contains("Azure tells them only to its owner"), "{one}");
    assert_eq!(names(&place), before);
}

#[test]
fn a_directory_is_examined_as_a_vault_and_as_a_disk_where_it_lies() {
    let home = Home::in_memory();
    let folder = home.directory("vault");
    let name = random_name();
    let file = home.beside("credentials");
    let file = file.to_str().expect("UTF-8");
    let folder_text = folder.to_str().expect("UTF-8");
    home.run(["vault", "create", folder_text, "--name", &name, "--credentials", file])
        .expect_code(0);
    let passphrase = home.beside("passphrase");
    let passphrase = passphrase.to_str().expect("UTF-8");
    home.run(["vault", "register", "--credentials", file, "--generate-passphrase", passphrase])
        .expect_code(0);
    let registered = Registered { home, name };

    let finished = registered.home.run(["--json", "selftest", "storage", &registered.name]);

    let document = finished.json();
    let one = &document["examined"][0];
    expect_sound(one);
    // In memory it is weak, on a disk it is not: either is said.
    let system = finding(one, "file-system");
    let is_memory = Path::new("/dev/shm").is_dir();
    assert_eq!(
        (system["grade"] == "weak", finished.code()),
        (is_memory, Some(if is_memory { 3 } else { 0 })),
        "{one}"
    );
    let probes = folder.join("probe");
    let left = std::fs::read_dir(&probes).map_or(0, Iterator::count);
    assert_eq!(left, 0, "in {}", probes.display());
}

#[test]
fn a_store_that_overwrites_is_unfit_for_a_server_that_comes_later() {
    // Made where it works, and moved behind a server that overwrites, as owners do who change their provider.
    let moto = Moto::start();
    let registered = register(&moto.place("vault"));
    let rclone = Rclone::start();
    let place = rclone.place("vault");
    let credentials = registered.home.beside(&format!("{}.vault", registered.name));
    let text = std::fs::read_to_string(&credentials).expect("credentials");
    let id =
        text.lines().find(|line| line.starts_with("access_key_id")).expect("a key").to_string();
    let moved = text
        .replace(&moto.place("vault").endpoint, &place.endpoint)
        .replace(moto.place("vault").secret(), place.secret())
        .replace(&id, "access_key_id = \"RCLONEACCESSKEY\"");
    std::fs::write(&credentials, moved).expect("written");

    let one = registered.examine(1);

    let own = finding(&one, "create-only");
    assert_eq!((&own["grade"], &one["grade"]), (&"unfit".into(), &"unfit".into()), "{one}");
    assert!(text_of(own, "seen").contains("overwrites"), "{one}");
}

#[test]
fn a_slow_network_is_measured_and_a_dead_one_is_an_error_and_no_grade() {
    let moto = Moto::start();
    let proxy = FaultProxy::before(moto.host());
    let place = moto.place("prefix").through(proxy.endpoint());
    let registered = register(&place);

    proxy.set(Fault::Slow(16 << 20));
    let slow = registered.examine(0);
    expect_sound(&slow);
    let speed = text_of(finding(&slow, "speed"), "seen");
    let up: f64 = speed.split(' ').next().and_then(|rate| rate.parse().ok()).expect("a rate");
    assert!(up <= 16.0, "the line carries 16 MiB a second: {speed}");

    proxy.set(Fault::Gone);
    let dead = registered.home.run(["--json", "selftest", "storage", &registered.name]);
    assert_eq!(dead.code(), Some(1), "{dead}");
    assert!(dead.stderr().contains("hint:"), "{dead}");
    assert!(!dead.stdout().contains("\"grade\""), "{dead}");
}

//! What went wrong with a vault is told apart by what has to be done about it.

use std::fs;
use std::path::Path;

use crate::home::{Finished, Home};
use crate::protected::{Kept, Protected, create, register, text};
use crate::servers::{Azurite, Ceph, Moto, Place};

fn expect(said: &Finished, parts: &[&str]) {
    for part in parts {
        assert!(said.stderr().contains(part), "no \"{part}\" in {said}");
    }
}

fn edit(file: &Path, change: impl Fn(&str) -> String) {
    let text = fs::read_to_string(file).expect("a credentials file");
    let changed = change(&text);
    assert_ne!(text, changed);
    fs::write(file, changed).expect("written");
}

fn kept(machine: &Home) -> Kept {
    let folder = machine.directory("kept");
    Kept { credentials: folder.join("main.vault"), passphrase: folder.join("passphrase") }
}

#[test]
fn expired_other_vault_damaged_and_unreachable_are_different_messages() {
    let moto = Moto::start();
    let place = moto.place("first");
    let protected = Protected::by(&place);
    let other = Home::in_memory();
    let others = kept(&other);
    create(&other, &moto.place("second"), &others.credentials).expect_code(0);
    let credentials = &protected.kept().credentials;
    let sync = || protected.machine.run(["sync"]);
    protected.back_up();
    sync().expect_code(0);

    // Another vault at the address.
    edit(credentials, |text| text.replace("/first", "/second"));
    expect(&sync().expect_code(1), &["the credentials are for vault", "is vault"]);
    edit(credentials, |text| text.replace("/second", "/third"));
    expect(&sync().expect_code(10), &["there is no vault at s3://keepwell-tests/third"]);
    edit(credentials, |text| text.replace("keepwell-tests/third", "no-such-bucket/first"));
    expect(&sync().expect_code(1), &["there is no such bucket", "made by their owner"]);
    edit(credentials, |text| text.replace("no-such-bucket", "keepwell-tests"));
    sync().expect_code(0);

    // An option that nobody knows.
    edit(credentials, |text| text.replace("access_key_id", "acces_key_id"));
    expect(&sync().expect_code(2), &["\"acces_key_id\" is not one of", "below [access]"]);
    edit(credentials, |text| text.replace("acces_key_id", "access_key_id"));

    // Expired, by the vault's clock.
    edit(&others.credentials, |text| {
        let line = text.lines().find(|line| line.starts_with("registration_expires"));
        text.replace(line.expect("an expiry"), "registration_expires = \"2026-01-01T00:00:00Z\"")
    });
    expect(
        &register(&other, &others, "late").expect_code(6),
        &["expired for registration at 2026-01-01", "still good for recovery"],
    );

    // The newest commit is damaged. (Packs whose hash begins with a c are below `/p/c/`.)
    let commits = moto.list("first/r/").into_iter().filter(|path| path.contains("/c/0"));
    let object = commits.max().expect("a commit").replace("/keepwell-tests/", "");
    let mut bytes = moto.read(&object);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let file = other.beside("damaged");
    fs::write(&file, bytes).expect("written");
    moto.replace(&object, &file);
    let blank = Home::empty();
    let listed = protected.kept().recover(&blank, &["--list"]).expect_code(5);
    expect(&listed, &["is damaged", "cannot be seen"]);
}

#[test]
fn a_wrong_key_and_a_wrong_clock_are_different_messages() {
    let ceph = Ceph::start();
    let place = ceph.place("servers");
    let machine = Home::in_memory();
    let kept = kept(&machine);

    let wrong = create(&machine, &place.with_secret("planted-wrong-key"), &kept.credentials);
    expect(&wrong.expect_code(1), &["login refused", "access keys"]);
    create(&machine, &place, &kept.credentials).expect_code(0);

    for (shift, direction) in [("+1h", "ahead of"), ("-1h", "behind")] {
        let mut command = machine.command_under(
            &["faketime", "-f", shift],
            [
                "vault",
                "register",
                "--credentials",
                text(&kept.credentials),
                "--generate-passphrase",
                text(&machine.vacant("passphrase-of-a-wrong-time")),
                "--label",
                "web1",
            ],
        );
        // Only the clock on the wall is wrong: time goes by as ever.
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let refused = Finished::of(command).expect_code(1);
        expect(&refused, &["wrong clock", direction, "set this machine's clock"]);
        let _ = fs::remove_file(machine.beside("passphrase-of-a-wrong-time"));
    }
    register(&machine, &kept, "web1").expect_code(0);
}

#[test]
fn a_wrong_key_and_a_missing_container_of_azure_are_different_messages() {
    let azurite = Azurite::start();
    let place = azurite.place("servers");
    let owner = Home::empty();
    let try_at = |place: &Place| create(&owner, place, &owner.beside("main.vault")).expect_code(1);

    let wrong = try_at(&place.with_secret("cGxhbnRlZCB3cm9uZyBrZXk="));
    let missing = try_at(&place.at("az://no-such-container/servers"));
    let closed = try_at(&place.through("http://127.0.0.1:1/devstoreaccount1".to_string()));

    // Azure itself calls this AuthenticationFailed, which is a refused login.
    expect(&wrong, &["failed to authenticate", "access keys"]);
    assert!(!wrong.stderr().contains("cGxhbnRlZ"), "{wrong}");
    expect(&missing, &["there is no such bucket", "made by their owner"]);
    expect(&closed, &["no connection: 127.0.0.1:1", "network up"]);
}

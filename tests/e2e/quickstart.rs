//! The whole main job in one command, and then the disaster: everything of the machine is gone but the vault, the credentials and the passphrase.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::home::{Home, number_of, text_of};

const PLANTED_NAME: &str = "planted-name-of-a-file";
const PLANTED_CONTENT: &str = "planted content that nobody but the owner may read";

/// Makes a tree of everything that a file system can hold, with planted words.
pub(crate) fn plant(root: &Path) {
    fs::create_dir_all(root.join("web/empty")).expect("a folder");
    fs::write(root.join("web").join(PLANTED_NAME), PLANTED_CONTENT).expect("a file");
    let random = crate::tree::Random::new(7).bytes(3 << 20);
    fs::write(root.join("large"), &random).expect("a file");
    // Half of it is the same, so there is something to deduplicate.
    fs::write(root.join("large again"), &random[..2 << 20]).expect("a file");
    fs::write(root.join("empty file"), b"").expect("a file");
    symlink("large", root.join("link")).expect("a link");
    fs::hard_link(root.join("large"), root.join("web/hard link")).expect("a hard link");
    fs::set_permissions(root.join("large again"), fs::Permissions::from_mode(0o4711))
        .expect("a mode");
    fs::set_permissions(root.join("web/empty"), fs::Permissions::from_mode(0o1500))
        .expect("a mode");
}

/// Fails unless two trees are the same in every byte and all metadata.
pub(crate) fn expect_equal(source: &Path, recovered: &Path) {
    for (from, to) in [(source, recovered), (recovered, source)] {
        let output = Command::new("rsync")
            .args(["-aHAXn", "--checksum", "--delete", "--itemize-changes"])
            .arg(format!("{}/", from.display()))
            .arg(format!("{}/", to.display()))
            .output()
            .expect("rsync is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let changes = String::from_utf8_lossy(&output.stdout);
        assert!(changes.trim().is_empty(), "rsync sees differences:\n{changes}");
    }
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn one_command_protects_and_after_a_disaster_everything_comes_back() {
    let server = Home::empty_in_memory();
    let source = server.directory("source");
    plant(&source);
    let path = source.to_str().expect("a path");

    let first = server.run(["quickstart", path, "--json"]).expect_code(0).summary();
    let second = server.run(["quickstart", path]).expect_code(0);

    assert_eq!(number_of(&first, "difference_count"), 0);
    assert!(number_of(&first, "compared_entries") >= 9, "{first}");
    assert_ne!(text_of(&first, "point"), "");
    let report = second.stdout();
    for promised in ["every byte the same", "passphrase", "restore latest", "recover"] {
        assert!(report.contains(promised), "no \"{promised}\" in {report}");
    }
    let passphrase_file = server.path().join("passphrase");
    let passphrase = fs::read_to_string(&passphrase_file).expect("a passphrase was written");
    let passphrase = passphrase.trim_end();
    assert_eq!(fs::metadata(&passphrase_file).expect("there").mode() & 0o777, 0o600);
    assert!(!report.contains(passphrase) && !second.stderr().contains(passphrase));
    assert!(!server.path().join("drill").exists());

    // Nothing of the owner's can be read in the vault.
    for file in files_below(&server.path().join("vault")) {
        let bytes = fs::read(&file).expect("read");
        for planted in [PLANTED_NAME, PLANTED_CONTENT, passphrase] {
            assert!(!holds(&bytes, planted.as_bytes()), "{planted} in {}", file.display());
            assert!(!file.to_string_lossy().contains(planted));
        }
    }

    // The disaster: pool, state and configuration are gone.
    let credentials = server.beside("kept.vault");
    let kept = server.beside("kept passphrase");
    fs::copy(server.path().join("main.vault"), &credentials).expect("kept");
    fs::copy(&passphrase_file, &kept).expect("kept");
    for name in ["pool", "state"] {
        fs::remove_dir_all(server.path().join(name)).expect("removed");
    }
    for name in ["keepwell.toml", "main.vault", "passphrase"] {
        fs::remove_file(server.path().join(name)).expect("removed");
    }

    let machine = Home::empty();
    let recover = |passphrase: &Path, rest: &[&str]| {
        let mut arguments = vec!["recover", "--credentials", credentials.to_str().expect("a path")];
        arguments.extend(["--passphrase-file", passphrase.to_str().expect("a path")]);
        arguments.extend(rest);
        machine.run(arguments)
    };
    let wrong = machine.beside("wrong");
    fs::write(&wrong, "not the passphrase at all\n").expect("written");
    let refused = recover(&wrong, &["--list"]).expect_code(12);
    assert!(refused.stderr().contains("wrong passphrase"), "{refused}");

    let servers = recover(&kept, &["--servers", "--json"]).expect_code(0).json();
    assert_eq!(servers["servers"].as_array().map(Vec::len), Some(1));
    let listed = recover(&kept, &["--list", "--json"]).expect_code(0).json();
    assert_eq!(listed["points"].as_array().map(Vec::len), Some(2));

    let target = machine.beside("recovered");
    recover(&kept, &["latest", "--to", target.to_str().expect("a path")]).expect_code(0);
    expect_equal(&source, &target);

    let one = machine.beside("one");
    let selection = format!("{}:web/{PLANTED_NAME}", text_of(&first, "point"));
    recover(&kept, &[&selection, "--to", one.to_str().expect("a path")]).expect_code(0);
    let content = fs::read_to_string(one.join(PLANTED_NAME)).expect("recovered");
    assert_eq!(content, PLANTED_CONTENT);
    assert!(!machine.path().exists(), "recovery leaves nothing but what was asked for");
}

#[test]
fn a_vault_elsewhere_is_made_registered_with_and_kept_up_to_date() {
    let server = Home::in_memory();
    let source = server.directory("source");
    plant(&source);
    let vault = server.beside("vault");
    let credentials = server.beside("web.vault");
    let passphrase = server.beside("passphrase");
    let text = |path: &Path| path.to_str().expect("a path").to_string();
    server.run(["sync"]).expect_code(10);
    server
        .run([
            "vault",
            "create",
            &text(&vault),
            "--credentials",
            &text(&credentials),
            "--name",
            "web",
        ])
        .expect_code(0);
    let register = |label: &str| {
        server.run([
            "vault",
            "register",
            "--credentials",
            &text(&credentials),
            "--generate-passphrase",
            &text(&passphrase),
            "--label",
            label,
        ])
    };

    register("web1").expect_code(0);

    let again = register("web2").expect_code(2);
    assert!(again.stderr().contains("registered"), "{again}");
    let point = server.backup(&source, &[]);
    let copied = server.run(["sync", "--json"]).expect_code(0).summary();
    assert_eq!(copied["points_copied"][0], point.as_str());
    let nothing = server.run(["sync", "--json"]).expect_code(0).summary();
    assert_eq!(number_of(&nothing, "objects"), 0);
    let status = server.run(["vault", "status", "--json"]).expect_code(0).json();
    assert_eq!((number_of(&status, "points"), number_of(&status, "points_waiting")), (1, 0));
    assert_eq!(text_of(&status, "label"), "web1");
    server.run(["vault", "ping"]).expect_code(0);

    // The place of the vault is not mounted: said so, and local backups go on.
    fs::rename(&vault, server.beside("elsewhere")).expect("moved");
    let lost = server.run(["sync"]).expect_code(1);
    assert!(lost.stderr().contains("hint:"), "{lost}");
    server.backup(&source, &[]);
}

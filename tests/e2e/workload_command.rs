//! Programs as sources: what they say becomes a point or does not, the service behind them is woken whatever happens, and gets its data back.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Keepwell, wait_until, write_files};

/// A service made of files: `state`, `pending`, `version`, `edition` and a folder of data for each target; every command writes what it did into `log`.
struct Shop {
    keepwell: Keepwell,
    folder: PathBuf,
}

const COMMANDS: &str = r#"
suspend = "echo suspend $KEEPWELL_TARGET >> log; echo suspended > state"
drained = "test -e drained"
drain_timeout = "2s"
resume = "echo resume $KEEPWELL_TARGET >> log; test ! -e broken && echo running > state"
pending = "cat pending"
version = "cat version"
edition = "cat edition"
editions = ["free", "standard", "enterprise"]
exists = "test -d data/$KEEPWELL_TARGET"
not_contained = ["mail that was sent", "the cache"]
parameters = { colour = "blue" }
export = { "items" = "echo export $KEEPWELL_STATE >> log; cat data/$KEEPWELL_TARGET/items; test ! -e dies", "orders" = "cat data/$KEEPWELL_TARGET/orders" }
restore = { "items" = "mkdir -p data/$KEEPWELL_TARGET && cat > data/$KEEPWELL_TARGET/items", "orders" = "cat > data/$KEEPWELL_TARGET/orders; echo $KEEPWELL_PARAMETER_COLOUR > data/$KEEPWELL_TARGET/colour" }
"#;

impl Shop {
    fn open() -> Self {
        let keepwell = Keepwell::new();
        let folder = keepwell.path("shop");
        write_files(
            &folder,
            &[
                ("data/shop/items", b"1 lamp\n2 chair\n".as_slice()),
                ("data/shop/orders", &crate::harness::noise(7, 300_000)),
                ("state", b"running\n"),
                ("pending", b"0\n"),
                ("version", b"4.2\n"),
                ("edition", b"standard\n"),
                ("drained", b""),
                ("log", b""),
            ],
        );
        let shop = Self { keepwell, folder };
        shop.configure("");
        shop
    }

    fn configure(&self, more: &str) {
        let base = "[pool]\npaths = [\"pool\"]\n";
        let commands = COMMANDS.replace("\"echo", &format!("\"cd {}; echo", self.folder.display()));
        let commands = ["\"cat ", "\"test ", "\"mkdir "].iter().fold(commands, |text, word| {
            let at = format!("\"cd {}; {}", self.folder.display(), &word[1..]);
            text.replace(word, &at)
        });
        let section = format!(
            "{base}[group.shop]\n[[group.shop.sources]]\n[group.shop.sources.command]\nname = \"shop\"\n{commands}\n{more}\n"
        );
        fs::write(self.keepwell.home().join("keepwell.toml"), section).expect("written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    fn set(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("written");
    }

    fn log(&self) -> Vec<String> {
        let text = self.read("log");
        self.set("log", "");
        text.lines().map(str::to_string).collect()
    }

    fn points(&self) -> usize {
        self.keepwell.ok(["--json", "points"]).stdout.matches("\"short_id\"").count()
    }
}

#[test]
fn a_service_is_suspended_exported_and_resumed_and_what_is_missing_is_declared_each_time() {
    let shop = Shop::open();

    let made = shop.keepwell.ok(["backup", "shop"]);
    let log = shop.log();
    let summary = shop.keepwell.ok(["--json", "backup", "shop"]).summary();

    assert!(
        made.stderr.contains("not in any point of shop: the cache")
            || made.stdout.contains("not in any point of shop: the cache"),
        "{made:?}"
    );
    assert_eq!(log, ["suspend shop", "export exporting", "resume shop"]);
    assert_eq!(shop.read("state"), "running\n");
    let group = &summary["groups"][0];
    assert_eq!(group["not_contained"][1]["what"], "the cache", "{summary}");
    assert_eq!(group["points"][0]["entries_unchanged"], 2, "{summary}");
    assert_eq!(group["points"][0]["chunks_new"], 1, "only the folder, for its time: {summary}");
    let back = shop.keepwell.path("back");
    shop.keepwell.ok(["restore", "latest:shop", "--to", back.to_str().expect("text")]);
    assert_eq!(fs::read_to_string(back.join("items")).expect("restored"), "1 lamp\n2 chair\n");
    assert_eq!(fs::read(back.join("orders")).expect("restored"), crate::harness::noise(7, 300_000));
}

#[test]
fn a_dump_that_dies_makes_no_point_and_the_service_is_resumed() {
    let shop = Shop::open();
    shop.set("dies", "");

    let failed = shop.keepwell.run(["backup", "shop"]);

    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("exit code 1"), "{failed:?}");
    assert_eq!(shop.points(), 0);
    assert_eq!(shop.read("state"), "running\n");
}

#[test]
fn a_service_that_does_not_drain_or_has_things_pending_is_resumed_and_not_exported() {
    let shop = Shop::open();
    fs::remove_file(shop.folder.join("drained")).expect("removed");

    let busy = shop.keepwell.run(["backup", "shop"]);
    shop.set("drained", "");
    shop.set("pending", "3\n");
    let refused = shop.keepwell.run(["backup", "shop"]);
    let too_few = shop.keepwell.run(["backup", "shop", "--accept-pending", "2"]);
    let state = shop.read("state");
    shop.keepwell.ok(["backup", "shop", "--accept-pending", "3"]);

    assert_eq!(busy.code, Some(1), "{busy:?}");
    assert!(busy.stderr.contains("did not finish within 2s"), "{busy:?}");
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(
        refused.stderr.contains("3 things wait") && refused.stderr.contains("--accept-pending 3"),
        "{refused:?}"
    );
    assert_eq!(too_few.code, Some(6), "{too_few:?}");
    assert_eq!(state, "running\n");
    assert_eq!(shop.points(), 1);
}

#[test]
fn a_service_is_resumed_by_the_next_run_if_the_agent_was_killed() {
    let shop = Shop::open();
    shop.set("pending", "0\n");
    let export = format!(
        "cd {}; echo export >> log; test -e hold && touch held; while test -e hold; do sleep 0.1; done; cat data/shop/items",
        shop.folder.display()
    );
    let text =
        fs::read_to_string(shop.keepwell.home().join("keepwell.toml")).expect("there is one");
    let start = text.find("\"items\" = \"").expect("an export");
    let end = text[start..].find(", \"orders\"").expect("another") + start;
    let text = format!("{}\"items\" = \"{export}\"{}", &text[..start], &text[end..]);
    fs::write(shop.keepwell.home().join("keepwell.toml"), text).expect("written");
    shop.set("hold", "");

    let mut killed = shop.keepwell.start(["backup", "shop"]);
    wait_until("the export begins", || shop.folder.join("held").exists());
    killed.kill().expect("killed");
    killed.wait().expect("gone");
    let state = shop.read("state");
    let resumed = shop.keepwell.ok(["resume"]);
    let woken = shop.read("state");
    let again = shop.keepwell.ok(["resume"]);

    assert_eq!(state, "suspended\n");
    assert_eq!(woken, "running\n", "{resumed:?}");
    assert!(format!("{}{}", again.stdout, again.stderr).contains("nothing is suspended"));
    fs::remove_file(shop.folder.join("hold")).expect("removed");
    shop.keepwell.ok(["backup", "shop"]);
}

#[test]
fn a_service_that_cannot_be_woken_is_told_and_stays_owed_until_it_is() {
    let shop = Shop::open();
    shop.set("broken", "");

    let stuck = shop.keepwell.run(["backup", "shop"]);
    let still = shop.keepwell.run(["resume"]);
    fs::remove_file(shop.folder.join("broken")).expect("removed");
    shop.keepwell.ok(["resume"]);

    assert_eq!(stuck.code, Some(3), "{stuck:?}");
    assert!(stuck.stderr.contains("still suspended"), "{stuck:?}");
    assert_eq!(still.code, Some(1), "{still:?}");
    assert_eq!(shop.read("state"), "running\n");
    assert_eq!(shop.points(), 1, "the point itself is sound");
}

#[test]
fn a_restore_tells_all_faults_at_once_and_changes_nothing_until_there_are_none() {
    let shop = Shop::open();
    shop.keepwell.ok(["backup", "shop"]);
    shop.log();
    shop.set("version", "5.0\n");
    shop.set("edition", "free\n");

    let refused = shop.keepwell.run(["restore", "latest:shop", "--service", "-p", "color=red"]);

    assert_eq!(refused.code, Some(6), "{refused:?}");
    for fault in [
        "4.2 and the target is 5.0",
        "edition standard",
        "shop is there already",
        "did you mean \"colour\"?",
    ] {
        assert!(refused.stderr.contains(fault), "{fault}: {refused:?}");
    }
    assert!(shop.log().is_empty(), "nothing was touched");

    shop.set("version", "4.2\n");
    shop.set("edition", "enterprise\n");
    shop.keepwell.ok(["restore", "latest:shop", "--service", "-n", "-p", "target=shop2"]);
    assert!(!shop.folder.join("data/shop2").exists());
    let restored = shop.keepwell.ok([
        "restore",
        "latest:shop",
        "--service",
        "-p",
        "target=shop2",
        "-p",
        "colour=red",
    ]);

    assert!(restored.stderr.contains("keepwell resume shop2"), "{restored:?}");
    assert_eq!(shop.read("data/shop2/items"), "1 lamp\n2 chair\n");
    assert_eq!(shop.read("data/shop2/colour"), "red\n");
    assert_eq!(shop.read("state"), "suspended\n");
    shop.keepwell.ok(["resume", "shop2"]);
    assert_eq!(shop.read("state"), "running\n");
    assert_eq!(shop.log(), ["suspend shop2", "resume shop2"]);
}

#[test]
fn what_is_replaced_becomes_a_point_first() {
    let shop = Shop::open();
    shop.keepwell.ok(["backup", "shop"]);
    let first = shop.keepwell.document(["points"]);
    let id = first["points"][0]["id"].as_str().expect("an id").to_string();
    shop.set("data/shop/items", "3 table\n");

    let replaced = shop.keepwell.ok(["--json", "restore", &id, "--service", "--replace"]).summary();

    assert_eq!(shop.read("data/shop/items"), "1 lamp\n2 chair\n");
    assert_eq!(shop.read("data/shop/colour"), "blue\n", "inherited from the point");
    let before = replaced["points"][0]["safety_point"].as_str().expect("a point of it").to_string();
    let kept = shop.keepwell.ok(["dump", &format!("{before}:items")]);
    assert_eq!(kept.stdout, "3 table\n");
}

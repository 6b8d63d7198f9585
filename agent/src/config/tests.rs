//! Mistakes in a configuration file, and what is said about them.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/keepwell/keepwell.toml"), text)
}

#[test]
fn each_mistake_is_told_with_file_line_and_the_nearest_key() {
    let cases = [
        ("", "1: there is no [pool]", None),
        ("[pool]\n", "1: [pool] has no paths", None),
        ("[pol]\npaths = []", "1: unknown key \"pol\"", Some("pool")),
        (
            "[pool]\npaths = [\"p\"]\n\nresevre = \"5%\"",
            "4: unknown key \"resevre\" in [pool]",
            Some("reserve"),
        ),
        ("[pool]\nwhatever = 1", "2: unknown key \"whatever\" in [pool]", None),
        (
            "[pool]\npaths = []",
            "2: pool.paths: expected a list of directories such as [\"/var/lib/keepwell/pool\"]",
            None,
        ),
        (
            "[pool]\npaths = [\n \"a\",\n 7]",
            "4: pool.paths: expected a list of directories such as [\"/var/lib/keepwell/pool\"]",
            None,
        ),
        (
            "[pool]\npaths = [\"a\", \"a\"]",
            "2: pool.paths: /etc/keepwell/a stands there twice",
            None,
        ),
        (
            "[pool]\npaths = [\"a\"]\nreserve = \"80%\"",
            "3: pool.reserve: \"80%\" is neither a percentage such as \"5%\" nor a size such as \"20G\"",
            None,
        ),
        (
            "[pool]\npaths = [\"a\"]\nreserve = true",
            "3: pool.reserve: expected a percentage such as \"5%\" or a size such as \"20G\"",
            None,
        ),
        (
            "[pool]\npaths = [\"a\"]\ncompression = 20",
            "3: pool.compression: expected a zstd level from -7 to 19",
            None,
        ),
        (
            "[pool]\npaths = [\"a\"]\npack_size = \"1T\"",
            "3: pool.pack_size: expected a size from \"1M\" to \"128M\"",
            None,
        ),
        (
            "[pool]\npaths = [\"a\"]\n[pool.reserve]\nx = 1",
            "3: pool.reserve: expected a value, found a table",
            None,
        ),
        ("pool = 3", "1: pool must be a table: [pool]", None),
    ];
    for (text, message, near) in cases {
        let error = parse(text).expect_err(text);

        assert_eq!(error.to_string(), format!("/etc/keepwell/keepwell.toml:{message}"));
        assert_eq!(error.nearest(), near, "{text}");
    }
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let error = parse("[pool]\npaths = [\"a\"\n\nreserve = 5").unwrap_err();

    assert!(error.to_string().starts_with("/etc/keepwell/keepwell.toml:4: "), "{error}");
    assert!(!error.to_string().contains('\n'));
}

const POOL: &str = "[pool]\npaths = [\"p\"]\n[vault.main]\ncredentials = \"main.vault\"\n";

/// What is said about mistakes below a sound pool and vault (5 lines).
fn complaint(text: &str) -> (String, Option<String>) {
    let error = parse(&format!("{POOL}{text}")).expect_err(text);
    let told = error.to_string().replace("/etc/keepwell/keepwell.toml:", "");
    (told, error.nearest().map(str::to_string))
}

#[test]
fn a_group_is_read_whole() {
    let text = r#"
[group.web]
sources = [{ files = ["/srv", "/etc"], exclude = ["*.tmp"], one_file_system = true }]
schedule = "15m"
timezone = "Europe/Berlin"
retention = { last = 10, hourly = 48, daily = 5, yearly = "all", within = "2d" }
vault = "main"
sync = "daily 03:00"
hooks = { before = "/usr/local/bin/quiesce", after = ["/bin/resume", "-f"], timeout = "90s" }
alert_after = "2h"

[[group.db.sources]]
files = ["data"]

[[group.db.sources]]
files = ["/var/backups"]
"#;
    let config = parse(&format!("{POOL}{text}")).unwrap();

    let web = &config.groups["web"];
    let SourceConfig::Files(files) = &web.sources[0] else { panic!("files") };
    assert_eq!(files.paths, [PathBuf::from("/etc"), PathBuf::from("/srv")]);
    assert_eq!(web.sources[0].name(), "/etc, /srv");
    assert!(files.one_file_system && !files.exclude_caches);
    assert_eq!(web.schedule.as_ref().unwrap().to_string(), "15m");
    assert_eq!(web.zone.iana_name(), Some("Europe/Berlin"));
    assert_eq!(web.retention.as_ref().unwrap().points_most(), None);
    assert_eq!(
        web.hooks.after,
        Some(HookCommand::Program(vec!["/bin/resume".into(), "-f".into()]))
    );
    assert!(matches!(web.sync, SyncWhen::At(_)));
    let db = &config.groups["db"];
    assert_eq!(db.sources[0].name(), "/etc/keepwell/data");
    assert_eq!((db.sources.len(), &db.schedule), (2, &None));
    // The only vault there is.
    assert_eq!((db.vault.as_deref(), &db.sync), (Some("main"), &SyncWhen::AfterBackup));
    assert_eq!(config.maintenance.prune.schedule.as_ref().unwrap().to_string(), "weekly Sun 05:00");
}

#[test]
fn mistakes_in_groups_are_told_with_line_and_nearest_word() {
    for (text, told, near) in [
        ("[grup.web]\nx = 1", "5: unknown key \"grup\"", Some("group")),
        ("[group]\nweb = 1", "6: group must be tables: [group.web]", None),
        (
            "[group.Web]\nsources = []",
            "5: a name of a group has 1 to 63 of a-z, 0-9, - and _",
            None,
        ),
        (
            "[group.web]\nschedule = \"1h\"",
            "5: [group.web] has no sources: a list of sources such as [{ files = [\"/srv\"] }]",
            None,
        ),
        (
            "[group.web]\nsources = [\n  { files = [\"/srv\"] },\n  { file = [\"/etc\"] },\n]",
            "8: unknown key \"file\" in [group.web.sources]",
            Some("files"),
        ),
        (
            "[group.web]\nsources = [{ files = [\"/a\"] }, { files = [\"/a\"] }]",
            "6: group.web.sources: source 2 is the same as one before it",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [] }]",
            "6: group.web.sources.files: expected a list of paths such as [\"/srv\", \"/etc\"]",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nshedule = \"1h\"",
            "7: unknown key \"shedule\" in [group.web]",
            Some("schedule"),
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nschedule = \"daily 25:00\"",
            "7: group.web.schedule: \"25:00\" is no time of day such as 02:00",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\ntimezone = \"Europe/Berlni\"",
            "7: group.web.timezone: there is no time zone \"Europe/Berlni\"",
            Some("Europe/Berlin"),
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nvault = \"mian\"",
            "7: group.web.vault: there is no [vault.mian]",
            Some("main"),
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nvault = \"none\"\nsync = \"after backup\"",
            "8: group.web.sync: the group has no vault: name one with vault = \"...\"",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nsync = \"before backup\"",
            "7: group.web.sync: expected \"after backup\", \"never\", or a schedule such as \"daily 02:00\"",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nretention = { dayly = 3 }",
            "7: unknown key \"dayly\" in [group.web.retention]",
            Some("daily"),
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nretention = { daily = -3 }",
            "7: group.web.retention.daily: expected a number from 0 on, or \"all\"",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nretention = { daily = 0 }",
            "7: group.web.retention: it keeps nothing: say at least one of last, daily, weekly",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nhooks = { before = \" \" }",
            "7: group.web.hooks.before: expected a command such as \"/usr/local/bin/quiesce\" or a list of program and arguments",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\nhooks = { timeout = \"2w\" }",
            "7: group.web.hooks.timeout: expected a duration such as 90s, 10m, 2h or 1d",
            None,
        ),
        (
            "[group.web]\nsources = [{ files = [\"/\"] }]\npaused = \"yes\"",
            "7: group.web.paused: expected true or false",
            None,
        ),
        ("[daemon]\nslots = 0", "6: daemon.slots: expected a number from 1 to 64", None),
        ("[daemon]\nmemory = \"1M\"", "6: daemon.memory: expected at least \"256M\"", None),
        (
            "[maintenance]\nprun = \"never\"",
            "6: unknown key \"prun\" in [maintenance]",
            Some("prune"),
        ),
        (
            "[maintenance]\ncheck_read = 5",
            "6: maintenance.check_read: expected a share such as \"5%\"",
            None,
        ),
        (
            "[alerts]\nwebhook = \"ftp://x\"",
            "6: alerts.webhook: expected an address such as \"https://example.org/hook\", or { url_file = \"...\" }",
            None,
        ),
        (
            "[alerts]\nmail = { host = \"mail.example.org\", security = \"none\", from = \"a@b\", to = [\"c@d\"] }",
            "6: alerts.mail.security: without TLS only a server on this machine is used, and without a password",
            None,
        ),
        (
            "[alerts]\nmail = { host = \"mail.example.org\", from = \"a@b\" }",
            "6: alerts.mail has no to: mail = { host = \"mail.example.org\", from = \"...\", to = [\"...\"] }",
            None,
        ),
    ] {
        let (message, nearest) = complaint(text);
        assert_eq!((message.as_str(), nearest.as_deref()), (told, near), "{text}");
    }
}

#[test]
fn secrets_of_the_configuration_are_not_in_its_debug_text() {
    let text = "[alerts]\nwebhook = \"https://example.org/t0ken\"\nheartbeat = \"https://x/t0ken\"";

    let config = parse(&format!("{POOL}{text}")).unwrap();

    assert!(!format!("{config:?}").contains("t0ken"));
}

#[test]
fn databases_are_sources_and_mistakes_in_them_are_told() {
    let sources = |text: &str| parse(&format!("{POOL}\n[group.db]\nsources = [{text}]\n"));
    let name = |text: &str| sources(text).unwrap().groups["db"].sources[0].name();

    assert_eq!(name("{ postgres = {} }"), "postgres /run/postgresql:5432");
    assert_eq!(name("{ postgres = { host = \"db1\", port = 5433 } }"), "postgres db1:5433");
    assert_eq!(name("{ postgres = { name = \"main\", wal = true } }"), "postgres main");
    assert_eq!(
        name("{ postgres = { physical = false, dump = [\"shop\"] } }"),
        "postgres dumps of /run/postgresql:5432"
    );
    assert_eq!(name("{ mariadb = {} }"), "mariadb /run/mysqld/mysqld.sock");
    for (text, complaint) in [
        ("{ postgres = { sockett = \"/x\" } }", "unknown key \"sockett\""),
        ("{ postgres = { socket = \"/x\", host = \"y\" } }", "not both"),
        ("{ postgres = { physical = false, wal = true } }", "needs a physical base"),
        ("{ postgres = { physical = false } }", "nothing is left"),
        ("{ postgres = { port = 0 } }", "from 1 to 65535"),
        ("{ postgres = { read_from = \"disk\" } }", "auto, files or server"),
        (
            "{ postgres = { host = \"db1\", read_from = \"files\" } }",
            "only where the server is reached",
        ),
        ("{ mariadb = { physical = false } }", "nothing is left"),
        (
            "{ mariadb = { physical = false, dump = [\"shop\"], binlog = true } }",
            "needs physical = true or dump = true",
        ),
        ("{ mariadb = { programs = 1 } }", "the folder of the server's own programs"),
        ("{ mariadb = \"/run\" }", "must be a table"),
    ] {
        let error = sources(text).unwrap_err().to_string();
        assert!(error.contains(complaint), "{text}: {error}");
    }
}

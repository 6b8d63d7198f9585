//! Tables of Azure Storage: written and read back by Microsoft's own client, with every type exact; and a key that is nowhere but in its file.

use std::fs;
use std::path::Path;

use crate::harness::Keepwell;
use crate::servers::AzuriteTable;

/// Fills two tables: one with every type and difficult keys, one with a partition that is longer than a page.
const FILL: &str = r#"
typed = service.create_table("Typed")
E = EntityProperty
for pk, rk in [("a", "1"), ("o'clock", "r"), ("Zürich 雪", "x y&z=%"), ("9", "empty")]:
    typed.upsert_entity({
        "PartitionKey": pk, "RowKey": rk,
        "Text": "5", "Umlaut": "ü\n\"雪\"", "Flag": True, "Small": 7,
        "Big": E(9223372036854775807, EdmType.INT64), "Real": 0.1, "Whole": E(3.0, EdmType.DOUBLE),
        "Nan": E(float("nan"), EdmType.DOUBLE), "Minus": E(float("-inf"), EdmType.DOUBLE),
        "Id": uuid.UUID("c9da6455-213d-42c9-9a79-3e9149a57833"),
        "When": datetime.datetime(2014, 5, 22, 17, 34, 1, 123456, tzinfo=datetime.timezone.utc),
        "Raw": b"\x00\x01\xff",
    })
many = service.create_table("Many")
for letter, count in [("0", 1100), ("A", 100), ("T", 100), ("z", 100)]:
    for start in range(0, count, 100):
        many.submit_transaction([("upsert", {"PartitionKey": letter, "RowKey": f"{n:05}", "Number": n, "Note": f"{letter}{n}" * 20}) for n in range(start, start + 100)])
"#;

/// Prints all entities of a table, each property with the type that the service tells.
const SHOW: &str = r#"
def plain(value):
    if isinstance(value, EntityProperty):
        return [str(value.edm_type), str(value.value)]
    return [type(value).__name__, base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)]
for entity in service.get_table_client(arguments[0]).list_entities():
    print(json.dumps({name: plain(value) for name, value in sorted(entity.items())}, sort_keys=True))
"#;

fn configured(azurite: &AzuriteTable) -> Keepwell {
    let keepwell = Keepwell::new();
    let source = azurite.source(&keepwell.path(""));
    let text = format!("[pool]\npaths = [\"pool\"]\n[group.tables]\nsources = [{source}]\n");
    fs::write(keepwell.home().join("keepwell.toml"), text).expect("written");
    keepwell
}

fn holds(folder: &Path, secret: &[u8]) -> bool {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                let bytes = fs::read(&path).expect("a file");
                if bytes.windows(secret.len()).any(|part| part == secret) {
                    return true;
                }
            }
        }
    }
    false
}

#[test]
fn tables_come_back_with_every_type_exact_under_other_names_too() {
    let azurite = AzuriteTable::start();
    azurite.python(FILL, &[]);
    let keepwell = configured(&azurite);

    let made = keepwell.ok(["--json", "-vv", "backup", "tables"]);
    let again = keepwell.ok(["--json", "backup", "tables"]).summary();
    let refused = keepwell.run(["restore", "latest:tables", "--service"]);
    keepwell.ok(["restore", "latest:tables", "--service", "-p", "prefix=back"]);
    let drilled = keepwell.ok(["drill", "tables"]);

    assert!(drilled.stdout.contains("1404 entities of 2 tables were read"), "{drilled:?}");
    let summary = made.summary();
    assert_eq!(summary["groups"][0]["points"][0]["files"], 2, "{summary}");
    assert_eq!(again["groups"][0]["points"][0]["entries_unchanged"], 2, "{again}");
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(
        refused.stderr.contains("table Many has entities")
            && refused.stderr.contains("table Typed has entities"),
        "{refused:?}"
    );
    for (table, entities) in [("Typed", 4), ("Many", 1400)] {
        let original = azurite.python(SHOW, &[table]);
        let restored = azurite.python(SHOW, &[&format!("back{table}")]);
        assert_eq!(original.lines().count(), entities);
        assert!(original == restored, "{table}:\n{original}\n{restored}");
    }
    let said = format!("{}{}{}{}", made.stdout, made.stderr, refused.stdout, refused.stderr);
    assert!(!said.contains(azurite.secret()), "{said}");
    assert!(
        !holds(&keepwell.home(), azurite.secret().as_bytes()),
        "the key is nowhere in pool, journal or configuration"
    );
}

#[test]
fn a_restore_merges_or_replaces_as_it_is_told() {
    let azurite = AzuriteTable::start();
    azurite.python(
        "t = service.create_table('Stock')\nfor n in range(5): t.upsert_entity({'PartitionKey': 'p', 'RowKey': str(n), 'N': n})",
        &[],
    );
    let keepwell = configured(&azurite);
    keepwell.ok(["backup", "tables"]);
    let before = azurite.python(SHOW, &["Stock"]);
    azurite.python(
        "t = service.get_table_client('Stock')\nt.upsert_entity({'PartitionKey': 'p', 'RowKey': '1', 'N': 100}, mode=UpdateMode.REPLACE)\nt.upsert_entity({'PartitionKey': 'q', 'RowKey': 'new', 'N': 6})",
        &[],
    );

    keepwell.ok(["restore", "latest:tables", "--service", "--conflict", "merge"]);
    let merged = azurite.python(SHOW, &["Stock"]);
    let replaced = keepwell
        .ok(["--json", "restore", "latest:tables", "--service", "--conflict", "replace"])
        .summary();
    let after = azurite.python(SHOW, &["Stock"]);

    assert_eq!(merged.lines().count(), 6, "{merged}");
    assert!(!merged.contains("100"), "{merged}");
    assert_eq!(after, before);
    let safety = replaced["points"][0]["safety_point"].as_str().expect("a point of what was there");
    let lines = keepwell.ok(["dump", &format!("{safety}:Stock.jsonl")]).stdout;
    assert_eq!(lines.lines().count(), 6, "{lines}");
    assert!(
        lines.starts_with(
            "{\"PartitionKey\":\"p\",\"RowKey\":\"0\",\"properties\":{\"N\":[\"Edm.Int32\",0]}}"
        ),
        "{lines}"
    );
}

#[test]
fn everything_that_keeps_tables_from_going_back_is_told_at_once() {
    let azurite = AzuriteTable::start();
    azurite.python(
        "for name in ['One', 'Two']: service.create_table(name).upsert_entity({'PartitionKey': 'p', 'RowKey': 'r'})",
        &[],
    );
    let keepwell = configured(&azurite);
    keepwell.ok(["backup", "tables"]);
    let order = ["restore", "latest:tables", "--service"];

    let typed =
        ["-p", "nonsense=1", "-p", "account=other", "-p", "endpoint=nowhere", "-p", "table=xyz"];
    let refused = keepwell.run([&order[..], &typed].concat());
    let names = keepwell.run([&order[..], &["-p", "prefix=1-"]].concat());
    let no_place = keepwell.run([&order[..], &["-p", "key_file=/nowhere/key"]].concat());

    assert_eq!(refused.code, Some(6), "{refused:?}");
    for fault in [
        "4 things keep point",
        "from going into account other",
        "there is no parameter \"nonsense\"",
        "\"endpoint\" is no address",
        "no key is named: add -p key_file=FILE",
        "\"table\" is for a point of one table",
        "nothing was changed",
    ] {
        assert!(refused.stderr.contains(fault), "{fault}: {refused:?}");
    }
    assert_eq!(names.code, Some(6), "{names:?}");
    for table in ["1-One", "1-Two"] {
        let fault = format!("\"{table}\" cannot be the name of a table");
        assert!(names.stderr.contains(&fault), "{names:?}");
    }
    assert!(no_place.stderr.contains("cannot read the key in /nowhere/key"), "{no_place:?}");
}

#[test]
fn a_wrong_key_makes_no_point_and_is_not_repeated() {
    let azurite = AzuriteTable::start();
    let keepwell = configured(&azurite);
    let wrong = "d3Jvbmcga2V5IG9mIHNvbWVib2R5IGVsc2U=";
    fs::write(keepwell.path("table.key"), wrong).expect("written");

    let refused = keepwell.run(["backup", "tables"]);

    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("403") && refused.stderr.contains("hint:"), "{refused:?}");
    assert!(!refused.stderr.contains(wrong), "{refused:?}");
}

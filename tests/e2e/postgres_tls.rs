//! PostgreSQL over TLS: with a server that takes nothing else, and never with one that cannot show who it is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::harness::{Keepwell, Ran};
use crate::servers::postgres::account;
use crate::servers::{Certificate, Postgres};

/// Writes the configuration with one source, and makes a point of it.
fn backup(keepwell: &Keepwell, source: &str) -> Ran {
    let text = format!("[pool]\npaths = [\"pool\"]\n[group.db]\nsources = [{source}]\n");
    fs::write(keepwell.home().join("keepwell.toml"), text).expect("written");
    keepwell.run(["backup", "db"])
}

/// A cluster that takes its role over TCP only by TLS and with a password.
fn guarded(certificate: &Certificate) -> Postgres {
    let mut postgres = Postgres::start(&[]);
    let role = "create role keepwell login replication password 'planted-password' in role pg_read_all_data";
    postgres.sql("postgres", role);
    postgres.stop();
    let folder = postgres.make_folder("tls");
    for (from, name) in [(certificate.file(), "server.pem"), (certificate.key(), "server.key")] {
        let to = folder.join(name);
        fs::copy(from, &to).expect("copied");
        // It reads no key that others could read.
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("a mode");
        if let Some((user, group)) = account() {
            chown(&to, Some(user), Some(group)).expect("root may give files away");
        }
    }
    let rules = "local all,replication all trust\nhostssl all,replication keepwell 127.0.0.1/32 scram-sha-256\n";
    fs::write(postgres.data().join("pg_hba.conf"), rules).expect("written");
    let (file, key) = (folder.join("server.pem"), folder.join("server.key"));
    let (file, key) = (file.display().to_string(), key.display().to_string());
    let settings = [
        ("listen_addresses", "127.0.0.1"),
        ("ssl", "on"),
        ("ssl_cert_file", file.as_str()),
        ("ssl_key_file", key.as_str()),
    ];
    postgres.started(&settings)
}

#[test]
fn a_server_that_takes_nothing_but_tls_is_backed_up_if_it_is_who_it_says() {
    let certificate = Certificate::new();
    let stranger = Certificate::new();
    let postgres = guarded(&certificate);
    postgres.sql("postgres", "create table one as select 1 as n");
    let keepwell = Keepwell::new();
    let password = keepwell.path("password");
    fs::write(&password, "planted-password\n").expect("written");
    let own =
        format!(", user = \"keepwell\", dump = true, password_file = \"{}\"", password.display());
    let source = |rest: &str| postgres.tcp_source(&format!("{own}{rest}"));
    let trusting = |certificate: &Certificate| {
        source(&format!(
            ", sslmode = \"verify-full\", sslrootcert = \"{}\"",
            certificate.authority().display()
        ))
    };

    let made = backup(&keepwell, &trusting(&certificate));
    assert_eq!(made.code, Some(0), "{made:?}");
    let dump = keepwell.command(["dump", "latest:db", "database-postgres.dump"]).output();
    let dump = dump.expect("it can be started").stdout;
    assert!(dump.starts_with(b"PGDMP"), "the programs of the server go the same way");
    let encrypted = backup(&keepwell, &source(", sslmode = \"require\""));
    assert_eq!(encrypted.code, Some(0), "{encrypted:?}");

    let other_authority = backup(&keepwell, &trusting(&stranger));
    let no_authority = backup(&keepwell, &source(", sslmode = \"verify-full\""));
    let other_name = backup(&keepwell, &trusting(&certificate).replace("127.0.0.1", "localhost"));
    for refused in [&other_authority, &no_authority, &other_name] {
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("no protected connection to"), "{refused:?}");
        assert!(refused.stderr.contains("hint: sslrootcert"), "{refused:?}");
    }
    assert!(other_authority.stderr.contains("invalid peer certificate"), "{other_authority:?}");
    let open = backup(&keepwell, &source(", sslmode = \"disable\""));
    assert_eq!(open.code, Some(1), "{open:?}");
    assert!(open.stderr.contains("no encryption"), "{open:?}");
    let points = keepwell.document(["points", "db"]);
    assert_eq!(points["points"].as_array().map(Vec::len), Some(2), "{points}");
}

#[test]
fn a_server_without_tls_is_never_talked_to_in_the_clear_when_tls_is_wanted() {
    let mut postgres = Postgres::start(&[]);
    postgres.stop();
    let postgres = postgres.started(&[("listen_addresses", "127.0.0.1")]);
    let keepwell = Keepwell::new();

    let refused = backup(&keepwell, &postgres.tcp_source(", sslmode = \"require\""));
    let wrong = backup(&keepwell, &postgres.tcp_source(", sslmode = \"prefer\""));
    let socket = backup(&keepwell, &postgres.source(", sslmode = \"require\""));

    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("offers no TLS"), "{refused:?}");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("disable, require or verify-full"), "{wrong:?}");
    assert_eq!(socket.code, Some(2), "{socket:?}");
}

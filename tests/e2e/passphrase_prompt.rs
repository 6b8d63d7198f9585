//! The passphrase typed at a terminal: asked for, never shown, judged, and the terminal is as it was afterwards.

use std::path::Path;

use crate::home::Home;
use crate::protected::{create, text};
use crate::servers::Moto;
use crate::terminal::Terminal;

const PASSPHRASE: &str = "otter-violin-Gravel-93-lantern";

fn register_words(credentials: &Path) -> [&str; 6] {
    ["vault", "register", "--credentials", text(credentials), "--label", "web1"]
}

#[test]
fn a_passphrase_is_typed_twice_judged_and_typed_once_more_on_the_day_of_the_disaster() {
    let moto = Moto::start();
    let machine = Home::in_memory();
    let credentials = machine.directory("kept").join("main.vault");
    create(&machine, &moto.place("servers"), &credentials).expect_code(0);
    let first_question = "New passphrase (at least 16 characters): ";
    let register = || {
        let terminal = Terminal::start(&machine.command(register_words(&credentials)));
        terminal.wait_for(first_question.trim_end());
        terminal
    };

    let terminal = register();
    terminal.type_line("only-15-letters");
    let short = terminal.ended(2);
    assert!(short.contains("at least 16") && !short.contains("only-15"), "{short}");

    let terminal = register();
    terminal.type_line(PASSPHRASE);
    terminal.wait_for("The same once more:");
    terminal.type_line("otter-violin-Gravel-93-lanterm");
    let differing = terminal.ended(2);
    assert!(differing.contains("are not the same") && !differing.contains("otter"), "{differing}");

    let terminal = register();
    terminal.interrupt();
    terminal.ended(130);

    let terminal = register();
    terminal.type_line(PASSPHRASE);
    terminal.wait_for("The same once more:");
    terminal.type_line(PASSPHRASE);
    let registered = terminal.ended(0);
    assert!(registered.contains("bits: strong"), "{registered}");
    assert!(!registered.contains("otter"), "{registered}");

    let source = machine.directory("source");
    std::fs::write(source.join("file"), "worth it").expect("written");
    let point = machine.backup(&source, &[]);
    machine.run(["sync"]).expect_code(0);
    let blank = Home::empty_in_memory();
    let recover = |passphrase: &str| {
        let words = ["recover", "--credentials", text(&credentials), "--list"];
        let terminal = Terminal::start(&blank.command(words));
        terminal.wait_for("Passphrase:");
        terminal.type_line(passphrase);
        terminal
    };
    let wrong = recover("otter-violin-Gravel-93-lanterm").ended(12);
    assert!(wrong.contains("wrong passphrase"), "{wrong}");
    let listed = recover(PASSPHRASE).ended(0);
    assert!(listed.contains(&point[..8]) && !listed.contains("otter"), "{listed}");

    // Nobody is there to be asked.
    let unattended = blank.run(["recover", "--credentials", text(&credentials), "--list"]);
    assert!(unattended.expect_code(2).stderr().contains("--passphrase-file"));
}

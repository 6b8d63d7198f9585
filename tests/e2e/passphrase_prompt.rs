//! The passphrase typed at a terminal: asked for, never shown, judged, and the terminal is as it was afterwards.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::home::{Home, SEARCH_PATH};
use crate::protected::{create, text};
use crate::servers::Moto;

const PASSPHRASE: &str = "otter-violin-Gravel-93-lantern";
/// Longest wait for something to appear.
const PATIENCE: Duration = Duration::from_secs(90);

/// A terminal in which the program runs.
struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// Starts the program; when it has ended, the terminal says how, and whether it still shows what is typed.
    fn start(home: &Home, words: &[&str]) -> Self {
        let terminal = Self { folder: tempfile::tempdir().expect("a folder") };
        let command = home.command(words);
        let mut all = vec!["-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "60"];
        let after = "\"$@\"; echo \"[ended with $?]\"; stty -a | grep -o -e '-\\?\\becho\\b'; echo '[over]'; exec sleep 600";
        let variables: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?)))
            .collect();
        for variable in &variables {
            all.extend(["-e", variable]);
        }
        all.extend(["sh", "-c", after, "sh", command.get_program().to_str().expect("text")]);
        all.extend(command.get_args().map(|word| word.to_str().expect("text")));
        terminal.tmux(&all);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.folder.path().join("socket")).args(words);
        command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8").env("TERM", "screen");
        let output = command.output().expect("tmux is installed");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {words:?}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-"])
    }

    fn wait_for(&self, expected: &str) -> String {
        let begin = Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(expected) {
                return screen;
            }
            assert!(begin.elapsed() < PATIENCE, "\"{expected}\" does not appear: {screen}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// Waits for the end, and returns all that was shown.
    fn ended(&self, code: i32) -> String {
        let screen = self.wait_for("[over]");
        assert!(screen.contains(&format!("[ended with {code}]")), "{screen}");
        let shows = screen.lines().any(|line| line == "echo");
        assert!(shows, "what is typed does not show any more: {screen}");
        screen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

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
        let terminal = Terminal::start(&machine, &register_words(&credentials));
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
    terminal.tmux(&["send-keys", "C-c"]);
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
        let terminal = Terminal::start(&blank, &words);
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

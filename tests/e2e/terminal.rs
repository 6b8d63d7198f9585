//! A terminal (tmux) in which the program runs: what it shows, what is typed, and how it leaves the terminal behind.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::home::SEARCH_PATH;

/// Longest wait for something to appear.
const PATIENCE: Duration = Duration::from_secs(90);

/// The terminal; it goes with its programs when the story ends.
pub(crate) struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// Starts the program; when it has ended, the terminal says how, and whether it still shows what is typed.
    pub(crate) fn start(command: &Command) -> Self {
        let terminal = Self { folder: tempfile::tempdir().expect("a folder") };
        let mut all = vec!["-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "60"];
        // Ctrl-C goes to the shell as well, which is to stay and tell how the program ended.
        let after = "trap : INT; \"$@\"; echo \"[ended with $?]\"; stty -a | grep -o -e '-\\?\\becho\\b'; echo '[over]'; exec sleep 600";
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

    /// Gives tmux a command, and returns what it prints.
    pub(crate) fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.folder.path().join("socket")).args(words);
        command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8").env("TERM", "screen");
        let output = command.output().expect("tmux is installed");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {words:?}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns all that was shown.
    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-"])
    }

    /// Waits until something is shown.
    pub(crate) fn wait_for(&self, expected: &str) -> String {
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

    /// Types a line.
    pub(crate) fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// Types Ctrl-C.
    pub(crate) fn interrupt(&self) {
        self.tmux(&["send-keys", "C-c"]);
    }

    /// Waits for the end, and returns all that was shown.
    pub(crate) fn ended(&self, code: i32) -> String {
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

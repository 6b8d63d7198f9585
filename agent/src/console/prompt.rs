//! Asking for a secret at the terminal: what is typed does not show, and is wiped when it was used.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::Console;
use crate::error::{Cause, Error};

/// Longest line that is read.
const LINE_LIMIT: usize = 4 << 10;

/// Asks for a secret. Without a terminal there is nobody to ask.
pub(crate) fn secret(console: &Console, question: &str) -> Result<Zeroizing<String>, Cause> {
    let nobody = || {
        Error::usage(
            "a passphrase is needed, and there is no terminal to ask at: use --passphrase-file FILE",
        )
        .cause
    };
    if console.is_json() {
        return Err(nobody());
    }
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let mut terminal = terminal.map_err(|_| nobody())?;
    let io = |cause| Cause::Io { action: "ask at", path: "/dev/tty".into(), cause };
    terminal.write_all(question.as_bytes()).map_err(io)?;
    let hidden = Hidden::begin(&terminal).map_err(io)?;
    let line = read_line(&terminal).map_err(io)?;
    drop(hidden);
    terminal.write_all(b"\n").map_err(io)?;
    line.ok_or_else(nobody)
}

fn read_line(mut terminal: &File) -> std::io::Result<Option<Zeroizing<String>>> {
    // Reserved at once: a vector that grows leaves its earlier copies behind in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_LIMIT));
    let mut byte = Zeroizing::new([0]);
    while line.len() < LINE_LIMIT {
        match terminal.read(byte.as_mut())? {
            0 => break,
            _ if byte[0] == b'\n' => break,
            _ => line.push(byte[0]),
        }
    }
    Ok(std::str::from_utf8(&line).ok().map(|text| Zeroizing::new(text.to_string())))
}

// While it lives, what is typed is not shown.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn begin(terminal: &'a File) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that went away.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

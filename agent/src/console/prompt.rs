//! Asking for a secret at the terminal: what is typed does not show, and is wiped when it was used.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use zeroize::Zeroizing;

use super::Console;
use crate::error::{Cause, Error};

/// Longest line that is read.
const LINE_LIMIT: usize = 4 << 10;
/// What Control-C types.
const INTERRUPT: u8 = 3;

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
    let terminal = terminal.map_err(|_| nobody())?;
    let io = |cause| Cause::Io { action: "ask at", path: "/dev/tty".into(), cause };
    // First: whoever sees the question may answer at once.
    let hidden = Hidden::begin(&terminal).map_err(io)?;
    (&terminal).write_all(question.as_bytes()).map_err(io)?;
    let line = read_line(&terminal).map_err(io)?;
    drop(hidden);
    (&terminal).write_all(b"\n").map_err(io)?;
    match line {
        Line::Text(text) => Ok(text),
        Line::Broken => Err(nobody()),
        Line::Interrupted => Err(storepool::Error::Interrupted.into()),
    }
}

// What was typed.
enum Line {
    Text(Zeroizing<String>),
    Broken,
    Interrupted,
}

fn read_line(mut terminal: &File) -> std::io::Result<Line> {
    // Reserved at once: a vector that grows leaves its earlier copies behind in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_LIMIT));
    let mut byte = Zeroizing::new([0]);
    while line.len() < LINE_LIMIT {
        match terminal.read(byte.as_mut())? {
            0 => break,
            _ if byte[0] == b'\n' => break,
            _ if byte[0] == INTERRUPT => return Ok(Line::Interrupted),
            _ => line.push(byte[0]),
        }
    }
    Ok(match std::str::from_utf8(&line) {
        Ok(text) => Line::Text(Zeroizing::new(text.to_string())),
        Err(_) => Line::Broken,
    })
}

// While it lives, what is typed is not shown. Control-C is a byte that ends the line: as a signal it would end the process, and leave a terminal behind that
// shows nothing of what is typed.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn begin(terminal: &'a File) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        modes.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
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

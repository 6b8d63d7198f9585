//! Messages of a server as they come, taken where they lie: a base backup is gigabytes of them.

use std::io;
use std::ops::Range;

/// One reading from the socket.
const READ_LENGTH: usize = 256 << 10;
/// The longest message that is waited for: the server's pieces of a backup are of 32 KiB, its answers smaller.
const MESSAGE_LIMIT: usize = 64 << 20;
/// A message's kind and length.
pub(super) const HEADER_LENGTH: usize = 5;

/// What came from the server and was not taken yet: whole messages and the beginning of one.
pub(super) struct Incoming {
    room: Vec<u8>,
    start: usize,
    end: usize,
}

/// What is found there first.
pub(super) enum Taken {
    /// Its kind, and where it lies, header and all.
    Message(u8, Range<usize>),
    /// Not all of it is there.
    Part,
    /// It cannot be one.
    Malformed,
}

impl Incoming {
    /// Creates one with nothing in it.
    pub(super) fn new() -> Self {
        Self { room: vec![0; READ_LENGTH], start: 0, end: 0 }
    }

    /// Takes the next message: a kind, then the length of all but the kind (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
    pub(super) fn take(&mut self) -> Taken {
        let here = &self.room[self.start..self.end];
        let Some(&[tag, a, b, c, d]) = here.first_chunk::<HEADER_LENGTH>() else {
            return Taken::Part;
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(HEADER_LENGTH - 1..=MESSAGE_LIMIT).contains(&length) {
            return Taken::Malformed;
        }
        if here.len() < length + 1 {
            if self.room.len() < length + 1 {
                self.room.resize(length + 1, 0);
            }
            return Taken::Part;
        }
        let place = self.start..self.start + length + 1;
        self.start = place.end;
        Taken::Message(tag, place)
    }

    /// Returns the bytes of a message, or of a part of it, as long as nothing was read since.
    pub(super) fn bytes(&self, place: Range<usize>) -> &[u8] {
        &self.room[place]
    }

    /// Has bytes read behind what is there; a message that has begun goes to the front first. Returns how many came.
    pub(super) fn read(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.room.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let read = read(&mut self.room[self.end..])?;
        self.end += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u32 + 4).to_be_bytes();
        [&[tag], &length[..], content].concat()
    }

    // Everything that is taken when the bytes come in pieces of this length.
    fn take_all(bytes: &[u8], piece: usize) -> Vec<(u8, Vec<u8>)> {
        let mut incoming = Incoming::new();
        let mut rest = bytes;
        let mut taken = Vec::new();
        loop {
            match incoming.take() {
                Taken::Message(tag, place) => {
                    taken.push((tag, incoming.bytes(place)[HEADER_LENGTH..].to_vec()));
                }
                Taken::Malformed => panic!("malformed after {}", taken.len()),
                Taken::Part if rest.is_empty() => return taken,
                Taken::Part => {
                    let read = incoming.read(|room| {
                        let length = rest.len().min(piece).min(room.len());
                        room[..length].copy_from_slice(&rest[..length]);
                        rest = &rest[length..];
                        Ok(length)
                    });
                    assert!(read.unwrap() > 0);
                }
            }
        }
    }

    #[test]
    fn messages_come_whole_whatever_the_pieces() {
        let large = vec![7; 3 * READ_LENGTH];
        let all = [(b'd', &b"a copy"[..]), (b'Z', b""), (b'd', &large), (b'C', b"SELECT")];
        let bytes = all.map(|(tag, content)| message(tag, content)).concat();
        let expected = all.map(|(tag, content)| (tag, content.to_vec()));

        for piece in [1, 4, 5, 100_003, bytes.len()] {
            assert!(take_all(&bytes, piece) == expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused_before_memory_is_taken() {
        for length in [0, 3, MESSAGE_LIMIT as u32 + 1, u32::MAX] {
            let mut incoming = Incoming::new();
            let header = [&b"d"[..], &length.to_be_bytes()].concat();
            let read = incoming.read(|room| {
                room[..HEADER_LENGTH].copy_from_slice(&header);
                Ok(HEADER_LENGTH)
            });
            assert_eq!(read.unwrap(), HEADER_LENGTH);
            assert!(matches!(incoming.take(), Taken::Malformed), "{length}");
            assert_eq!(incoming.room.len(), READ_LENGTH);
        }
    }
}

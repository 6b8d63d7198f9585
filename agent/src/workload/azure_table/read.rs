//! A table as one stream of lines: ranges of partitions are read at the same time and given in their order.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::client::{Continuation, Range, Requests, TableClient};

/// Pages of a range that are read ahead of their turn.
const PAGES_AHEAD: usize = 4;
/// Where tables are cut into ranges: first letters of partition keys, in the order of the service.
const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

enum Message {
    Lines(Vec<u8>),
    Failure(String),
    // The range was read to its end; without it the stream is torn.
    End,
}

/// The entities of a table, one line each.
pub(super) struct TableStream {
    // Kept alive: it drives the tasks.
    _client: Arc<TableClient>,
    ranges: VecDeque<Receiver<Message>>,
    lines: Vec<u8>,
    given: usize,
}

impl TableStream {
    /// Begins to read a table in `parallel` ranges.
    pub(super) fn start(client: &Arc<TableClient>, table: &str, parallel: usize) -> Self {
        let receive = |range: Range| {
            let (sender, receiver) = channel(PAGES_AHEAD);
            let task = read_range(client.requests.clone(), table.to_string(), range, sender);
            client.runtime.spawn(task);
            receiver
        };
        let ranges = ranges(parallel).into_iter().map(receive).collect();
        Self { _client: client.clone(), ranges, lines: Vec::new(), given: 0 }
    }
}

impl Read for TableStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.lines.len() {
            let Some(range) = self.ranges.front_mut() else { return Ok(0) };
            match range.blocking_recv() {
                Some(Message::Lines(lines)) => {
                    self.lines = lines;
                    self.given = 0;
                }
                Some(Message::End) => drop(self.ranges.pop_front()),
                // Left in its place: reading again fails again.
                Some(Message::Failure(why)) => return Err(io::Error::other(why)),
                None => {
                    return Err(io::Error::other("a range of the table was not read to its end"));
                }
            }
        }
        let rest = &self.lines[self.given..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.given += length;
        Ok(length)
    }
}

async fn read_range(requests: Requests, table: String, range: Range, out: Sender<Message>) {
    let mut from = Continuation::default();
    loop {
        let message = match requests.page(&table, &range, &from).await {
            Ok((entities, next)) => {
                let mut lines = Vec::new();
                for entity in &entities {
                    // Strings and numbers of JSON: they can be written again.
                    if serde_json::to_writer(&mut lines, entity).is_err() {
                        let failure = Message::Failure("an entity cannot be written".to_string());
                        let _ = out.send(failure).await;
                        return;
                    }
                    lines.push(b'\n');
                }
                if !lines.is_empty() && out.send(Message::Lines(lines)).await.is_err() {
                    return;
                }
                match next {
                    Some(next) => {
                        from = next;
                        continue;
                    }
                    None => Message::End,
                }
            }
            Err(error) => Message::Failure(crate::workload::streams::source_error(&error).message),
        };
        // Nobody listens any more when the run was stopped.
        let _ = out.send(message).await;
        return;
    }
}

/// Returns ranges that together are all partitions, each in exactly one.
fn ranges(count: usize) -> Vec<Range> {
    let cut = |number: usize| {
        let letter = LETTERS[number * LETTERS.len() / count.max(1)];
        String::from(char::from(letter))
    };
    let mut ranges = Vec::new();
    for number in 0..count.max(1) {
        let from = (number > 0).then(|| cut(number));
        let to = (number + 1 < count).then(|| cut(number + 1));
        ranges.push(Range { from, to });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_without_gap_or_overlap() {
        for count in [1, 2, 4, 7, 16] {
            let ranges = ranges(count);

            assert_eq!(ranges.len(), count);
            assert_eq!((&ranges[0].from, &ranges[count - 1].to), (&None, &None));
            for pair in ranges.windows(2) {
                assert!(pair[0].to.is_some() && pair[0].to == pair[1].from, "{pair:?}");
                assert!(pair[0].from < pair[0].to, "{pair:?}");
            }
        }
    }
}

//! A bad network in front of a good server: slow, cut in the middle, closed on one side, or gone and back again.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

const METHODS: [&[u8]; 5] = [b"PUT /", b"GET /", b"HEAD /", b"DELETE /", b"POST /"];
const LINE_END: &[u8] = b" HTTP/1.1\r\n";
// Longer than any name of an object.
const LINE_LIMIT: usize = 2000;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Carries everything.
    None,
    /// Cuts all connections and takes no new ones.
    Gone,
    /// Holds everything back for so long, in both directions.
    Delay(Duration),
    /// Carries so many bytes a second in each direction of a connection.
    Slow(u64),
    /// Cuts the next `times` connections that have carried so many bytes from the client.
    CutUpload { bytes: u64, times: u64 },
    /// Cuts the next `times` connections that have carried so many bytes from the server.
    CutDownload { bytes: u64, times: u64 },
    /// As [`Fault::CutDownload`], but closes only the server's side; what the client says is still heard.
    HalfClose { bytes: u64, times: u64 },
}

struct Shared {
    server: SocketAddr,
    fault: Mutex<Fault>,
    open: Mutex<Vec<TcpStream>>,
    requests: Mutex<Vec<String>>,
    uploaded: AtomicU64,
    refused: AtomicU64,
    stopped: AtomicBool,
}

/// A proxy for TCP that can be told to misbehave.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultProxy {
    /// Starts it in front of `host:port`.
    pub(crate) fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            server: server.parse().expect("host and port"),
            fault: Mutex::new(Fault::None),
            open: Mutex::default(),
            requests: Mutex::default(),
            uploaded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || accept(&listener, &accepting));
        Self { address, shared }
    }

    /// Returns `http://host:port`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what the network does, for connections that are open as well.
    pub(crate) fn set(&self, fault: Fault) {
        *locked(&self.shared.fault) = fault;
        if fault == Fault::Gone {
            self.shared.cut_all();
        }
    }

    /// Returns how many bytes clients have sent.
    pub(crate) fn uploaded(&self) -> u64 {
        self.shared.uploaded.load(Ordering::Relaxed)
    }

    /// Returns how many connections were not taken, or cut by a fault.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Returns all requests since the last call: method, space, path.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.shared.requests))
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.shared.cut_all();
        // So that the thread that accepts looks up.
        let _ = TcpStream::connect(self.address);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the proxy panics while it holds this")
}

impl Shared {
    fn cut_all(&self) {
        for stream in locked(&self.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    // How much more a connection may carry that has carried so much, if the network is to cut it; and whether only on one side.
    fn cut_after(&self, upward: bool, carried: u64) -> Option<(u64, bool)> {
        match *locked(&self.fault) {
            Fault::CutUpload { bytes, times: 1.. } if upward => {
                Some((bytes.saturating_sub(carried), false))
            }
            Fault::CutDownload { bytes, times: 1.. } if !upward => {
                Some((bytes.saturating_sub(carried), false))
            }
            Fault::HalfClose { bytes, times: 1.. } if !upward => {
                Some((bytes.saturating_sub(carried), true))
            }
            _ => None,
        }
    }

    fn has_cut(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Fault::CutUpload { times, .. }
        | Fault::CutDownload { times, .. }
        | Fault::HalfClose { times, .. } = &mut *locked(&self.fault)
        {
            *times = times.saturating_sub(1);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        if *locked(&shared.fault) == Fault::Gone {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        // A server that is not there is a connection that closes.
        let Ok(server) = TcpStream::connect(shared.server) else { continue };
        let handles = [&client, &server].map(|stream| stream.try_clone());
        let [Ok(client_again), Ok(server_again)] = handles else { continue };
        let kept = [&client, &server].map(|stream| stream.try_clone());
        locked(&shared.open).extend(kept.into_iter().flatten());
        let (up, down) = (shared.clone(), shared.clone());
        thread::spawn(move || carry(&up, client, server, true));
        thread::spawn(move || carry(&down, server_again, client_again, false));
    }
}

fn carry(shared: &Shared, mut from: TcpStream, mut to: TcpStream, upward: bool) {
    let mut buffer = vec![0; 16 << 10];
    let mut carried = 0;
    let mut line = RequestLines::default();
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..length];
        if upward {
            shared.uploaded.fetch_add(length as u64, Ordering::Relaxed);
            locked(&shared.requests).extend(line.find(bytes));
        }
        let fault = *locked(&shared.fault);
        match fault {
            Fault::Delay(delay) => thread::sleep(delay),
            Fault::Slow(rate) => {
                thread::sleep(Duration::from_secs_f64(length as f64 / rate as f64));
            }
            _ => {}
        }
        let cut = shared.cut_after(upward, carried).filter(|(left, _)| *left <= length as u64);
        let passing = cut.map_or(length, |(left, _)| left as usize);
        if to.write_all(&bytes[..passing]).is_err() {
            break;
        }
        carried += passing as u64;
        if let Some((_, half)) = cut {
            shared.has_cut();
            if half {
                // The server is heard no more; what the client says still arrives.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Finds the first lines of requests in what a client says.
#[derive(Default)]
struct RequestLines {
    unread: Vec<u8>,
}

impl RequestLines {
    fn find(&mut self, bytes: &[u8]) -> Vec<String> {
        self.unread.extend_from_slice(bytes);
        let mut found = Vec::new();
        loop {
            let starts = METHODS.iter().filter_map(|method| position(&self.unread, method));
            let Some(start) = starts.min() else {
                // A method may have begun at the very end.
                let keep = self.unread.len().min(8);
                self.unread.drain(..self.unread.len() - keep);
                return found;
            };
            self.unread.drain(..start);
            match position(&self.unread, LINE_END) {
                Some(end) if end < LINE_LIMIT => {
                    found.push(String::from_utf8_lossy(&self.unread[..end]).into_owned());
                    self.unread.drain(..end);
                }
                None if self.unread.len() < LINE_LIMIT => return found,
                // It was not a request but somebody's data.
                _ => drop(self.unread.drain(..4)),
            }
        }
    }
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // The first byte decides nearly always, and is found fast.
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == needle[0]) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

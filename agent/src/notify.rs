//! What a service manager is told: ready, alive, stopping (the protocol of sd_notify(3)).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(crate) fn of_environment() -> Self {
        Self::new(std::env::var_os("NOTIFY_SOCKET"), |name| std::env::var(name).ok())
    }

    fn new(address: Option<OsString>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let Some(address) = address else { return Self::default() };
        let bytes = address.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(Path::new(&address)),
        };
        let socket = UnixDatagram::unbound().ok().zip(address.ok());
        // Of another process: an inherited watchdog is not ours.
        let other =
            variable("WATCHDOG_PID").is_some_and(|pid| pid != std::process::id().to_string());
        let micros = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok());
        let watchdog = micros.filter(|micros| *micros > 0 && !other).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// Returns how often the service manager wants to be told that all is well: half of its patience.
    pub(crate) fn watchdog_every(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// Tells lines such as `READY=1`. A service manager that is gone is none of our troubles.
    pub(crate) fn tell(&self, lines: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(lines.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told_through_a_path_or_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("keepwell-test-{}", std::process::id());
        let receivers = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (receiver, address) in receivers {
            let variables = |name: &str| (name == "WATCHDOG_USEC").then(|| "3000000".to_string());

            let notifier = Notifier::new(Some(address), variables);
            notifier.tell("READY=1\nSTATUS=fine");

            let mut buffer = [0; 100];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\nSTATUS=fine");
            assert_eq!(notifier.watchdog_every(), Some(Duration::from_millis(1500)));
        }
    }

    #[test]
    fn without_a_service_manager_or_with_another_ones_watchdog_nothing_is_fed() {
        let none = Notifier::new(None, |_| None);
        none.tell("READY=1");
        let foreign = Notifier::new(Some("@x".into()), |name| match name {
            "WATCHDOG_PID" => Some("1".to_string()),
            _ => Some("3000000".to_string()),
        });

        assert_eq!((none.watchdog_every(), foreign.watchdog_every()), (None, None));
    }
}

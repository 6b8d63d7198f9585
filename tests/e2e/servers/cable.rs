//! A network of its own for the program, at the end of a cable that can be pulled out: packets then vanish, and nobody closes a connection.

use std::process::Command;

/// A network namespace, and a pair of interfaces that joins it with the system's own. Only root can make one.
pub(crate) struct Cable {
    namespace: String,
    near: String,
    network: String,
}

impl Cable {
    /// Lays the cable.
    pub(crate) fn lay() -> Self {
        let process = std::process::id();
        let namespace = format!("keepwell-{process}");
        let (near, far) = (format!("kwn{process}"), format!("kwf{process}"));
        // Tests of several checkouts may run at once.
        let network = format!("10.{}.{}", 200 + process % 50, process / 50 % 250);
        let cable = Self { namespace, near, network };
        ip(&["netns", "add", &cable.namespace]);
        ip(&["link", "add", &cable.near, "type", "veth", "peer", "name", &far]);
        ip(&["link", "set", &far, "netns", &cable.namespace]);
        ip(&["addr", "add", &format!("{}.1/30", cable.network), "dev", &cable.near]);
        ip(&["link", "set", &cable.near, "up"]);
        let there = |words: &[&str]| ip(&[&["-n", &cable.namespace], words].concat());
        there(&["addr", "add", &format!("{}.2/30", cable.network), "dev", &far]);
        there(&["link", "set", &far, "up"]);
        there(&["link", "set", "lo", "up"]);
        cable
    }

    /// Returns the address of this end.
    pub(crate) fn address(&self) -> String {
        format!("{}.1", self.network)
    }

    /// Returns the words that start a program at the far end.
    pub(crate) fn wrapper(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.namespace]
    }

    /// Pulls it out.
    pub(crate) fn pull_out(&self) {
        ip(&["link", "set", &self.near, "down"]);
    }

    /// Plugs it in again.
    pub(crate) fn plug_in(&self) {
        ip(&["link", "set", &self.near, "up"]);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The interfaces go with the namespace, unless it was never joined.
        for words in [["link", "del", &self.near], ["netns", "del", &self.namespace]] {
            let _ = Command::new("ip").args(words).output();
        }
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("iproute2 is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {complaint}", words.join(" "));
}

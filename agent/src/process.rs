//! What this process asks of the system once, before any command runs.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// Raises the number of files that may be open to what the system allows, and keeps files of our own (configuration, pool, index) from
/// other users. Restored files get their recorded modes, whatever the mask.
pub(crate) fn prepare() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Refused in some sandboxes: the usual 1,024 still do, only packs are reopened more often.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    umask(Mode::RWXG | Mode::RWXO);
}

/// Returns the name of this host.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

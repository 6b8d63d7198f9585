//! Who is at the other end of a connection, and whether they may act.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use super::socket::GROUP;
use crate::accounts;

/// The process at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its user; `None` if the kernel does not say.
    pub(super) uid: Option<u32>,
    /// Its primary group.
    pub(super) gid: Option<u32>,
    /// Its number.
    pub(super) pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        match stream.io().peer_cred() {
            Ok(cred) => Self { uid: Some(cred.uid()), gid: Some(cred.gid()), pid: cred.pid() },
            Err(_) => Self { uid: None, gid: None, pid: None },
        }
    }
}

impl Peer {
    /// Returns who it is, for logs.
    pub(super) fn name(&self) -> String {
        match self.uid {
            Some(uid) => {
                accounts::user_by_number(uid).map_or_else(|| uid.to_string(), |user| user.name)
            }
            None => "somebody unknown".to_string(),
        }
    }

    /// Returns whether it may act: root, the daemon's own user, and members of the group `keepwell`.
    pub(super) fn may_act(&self) -> bool {
        let (Some(uid), Some(gid)) = (self.uid, self.gid) else { return false };
        if uid == 0 || uid == rustix::process::geteuid().as_raw() {
            return true;
        }
        let Some(group) = accounts::group(GROUP) else { return false };
        gid == group.gid
            || accounts::user_by_number(uid)
                .is_some_and(|user| user.gid == group.gid || group.members.contains(&user.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_may_act_and_strangers_may_not() {
        let own = rustix::process::geteuid().as_raw();
        let peer = |uid| Peer { uid: Some(uid), gid: Some(65_533), pid: None };

        assert!(peer(0).may_act() && peer(own).may_act());
        assert!(!peer(65_533).may_act());
        assert!(!Peer { uid: None, gid: None, pid: None }.may_act());
    }
}

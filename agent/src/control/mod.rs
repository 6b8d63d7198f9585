//! Control of a running daemon: HTTP and JSON over a Unix socket, for the command line and for programs of the machine's administrators.
//!
//! Who may connect is decided twice: by the mode of the socket (0660, group `keepwell`), and by the credentials of the peer.

mod access;
pub(crate) mod client;
mod endpoints;
mod refusal;
mod server;
mod socket;

pub(crate) use server::Server;
pub(crate) use socket::path;

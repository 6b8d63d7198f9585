//! The agent as it runs for years. One thread, the desk, owns the queue and the journal and decides; jobs are processes of this same program, so that
//! an idle daemon stays small, a job can be killed without harm, and nothing a job does wrong can bring the daemon down.

mod desk;
mod event;
mod judge;
mod process;
mod queue;

pub(crate) use desk::{Desk, in_force};
pub(crate) use event::{Command, DeskHandle, Submitted, Subscribed};
pub(crate) use judge::{forecast, patience};
pub(crate) use queue::Wish;

//! The real program, as its users meet it: one file per story.

mod first_backup;

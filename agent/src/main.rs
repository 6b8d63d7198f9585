//! The keepwell program.
fn main() {}

//! The dynomite command.
fn main() {}

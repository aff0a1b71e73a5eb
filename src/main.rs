//! The `threadgate` binary.
fn main() {}

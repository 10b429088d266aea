//! The kvmfw command.

fn main() {}

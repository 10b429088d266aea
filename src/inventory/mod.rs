//! WHO: hosts, groups and modules as they are written, checked but not yet put together.

mod connection;

pub use connection::*;

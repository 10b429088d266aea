//! WHAT: the desired state of each host, compiled from inventory and modules.

mod model;

pub use model::*;

//! Jump hosts: which hosts are reached through which, as the inventory declares it and as probes observe it.

mod declared;
mod depth;
mod observed;

pub use declared::{DeclaredJumpHosts, DeclaredRoute, JumpHost, declared};
pub use depth::JumpRole;
pub use observed::{HostEndpoints, ObservedRoutes};

//! What the host's settings do to a packet, whatever its rules say.

use super::context::ExplainContext;
use crate::resource::iptables::IpFamily;

/// Whether the host forwards what comes in by a device, with the key that decides. Not known: the rules decide.
pub(super) fn forwards(scene: &ExplainContext<'_>, family: IpFamily, device: &str) -> bool {
    scene.host_after().forwards(family, device).is_none_or(|(on, _)| on)
}

/// The key of the reverse path filter of a device, or of `all`.
pub fn rp_filter(device: &str) -> String {
    format!("net/ipv4/conf/{device}/rp_filter")
}

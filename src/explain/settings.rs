//! What the host's settings do to a packet, whatever its rules say.

use super::path::{Fate, Route};
use super::scene::Scene;
use crate::netfilter::Device;
use crate::resource::iptables::Family;

/// Whether the host forwards what comes in by a device, with the key that decides. Not known: the rules decide.
pub(super) fn forwards(scene: &Scene<'_>, family: Family, device: &str) -> bool {
    scene.host_after().forwards(family, device).is_none_or(|(on, _)| on)
}

/// The key of the reverse path filter of a device, or of `all`.
pub fn rp_filter(device: &str) -> String {
    format!("net/ipv4/conf/{device}/rp_filter")
}

/// A packet from an address that is routed by another device than the one it comes in by: a strict reverse path filter
/// drops it behind all rules of PREROUTING.
pub(super) fn reverse_path(scene: &Scene<'_>, route: &Route, fate: Fate) -> Fate {
    let packet = &route.packet;
    let (Device::Named(by), Some(src)) = (&packet.in_iface, packet.src) else { return fate };
    let Device::Named(back) = scene.around(Family::V4).device_to(src) else { return fate };
    if fate.verdict == "dropped" || packet.bridged || src.is_ipv6() || *by == back {
        return fate;
    }
    let value = |device: &str| scene.host_after().key(&rp_filter(device))?.0.parse::<u8>().ok();
    // The greater of the two counts, and 2 asks for any way back.
    let (verdict, because) = match (value("all"), value(by)) {
        (Some(all), Some(own)) if all.max(own) == 1 => ("dropped", "rp_filter is 1"),
        (Some(_), Some(_)) | (Some(2), None) => return fate,
        _ => ("unknown", "the host drops that where rp_filter is 1"),
    };
    Fate {
        verdict,
        by: None,
        because: Some(format!("it comes in by {by}, and the way back to {src} is {back}: {because}")),
    }
}

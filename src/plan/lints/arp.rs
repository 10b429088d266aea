//! sysctl keys by which the host no longer answers ARP for the address of SSH.

use crate::host_state::{LiveValue, Observed};
use crate::netfilter::PacketDevice;
use crate::plan::{ChangeRisk, HostPlan, forecast};
use crate::problem::{LintCode, Origin, Warning};
use crate::resolve::Desired;
use crate::resource::ResourceKind;
use std::net::IpAddr;

/// A declared value.
struct DeclaredValue {
    value: u8,
    origin: Option<Origin>,
}

/// Whether the peer of SSH still gets an answer when it resolves the host's address again. That shows only when its
/// entry expires, so a confirm does not disprove it.
pub(super) fn unanswered(desired: &Desired, observed: &Observed, plan: &mut HostPlan) {
    let Some(ssh) = &observed.facts.ssh else { return };
    if ssh.server.is_ipv6() || ssh.server.is_loopback() || ssh.client == ssh.server {
        return;
    }
    let around = forecast::host_context(observed);
    let PacketDevice::Named(link) = around.device_to(ssh.client) else { return };
    if observed.links.by_name.get(&*link).is_some_and(|l| l.flags.iter().any(|flag| flag == "NOARP")) {
        return;
    }
    let bridge = desired.bridges.values().find(|b| b.manage && b.ports.iter().any(|port| **port == *link));
    let device = bridge.map_or(&*link, |bridge| bridge.name.as_str());
    let keys = ["all", device].map(|name| format!("net/ipv4/conf/{name}/arp_ignore"));
    let Some(declared) = keys.iter().filter_map(|key| stated(desired, key)).max_by_key(|one| one.value)
    else {
        return;
    };
    let live =
        keys.iter().filter(|key| stated(desired, key).is_none()).filter_map(|key| value(observed, key)).max();
    let mode = declared.value.max(live.unwrap_or(0));
    let Some(why) = refusal(mode, observed, &link, ssh.server, ssh.client) else { return };
    let why = format!(
        "with arp_ignore = {mode} the host does not answer ARP for {} on {device}, because {why}; SSH is cut \
         when the neighbour entry of {} or of its gateway expires",
        ssh.server, ssh.client
    );
    // What hides every address is told with the key's other effects.
    if !plan.warnings.iter().any(|w| w.code == LintCode::Lockout && w.message.finding.contains("arp_ignore"))
    {
        plan.warnings.push(Warning::new(LintCode::Lockout, format!("LOCKOUT: {why}"), declared.origin));
    }
    plan.latent_lockout.get_or_insert(why);
    super::mark(plan, ChangeRisk::Lockout, |c| {
        c.kind == ResourceKind::Sysctl && c.diff.text().contains("arp_ignore")
    });
}

/// Why a request for the address that comes in by a link gets no answer (`arp_ignore` of the kernel).
fn refusal(
    mode: u8,
    observed: &Observed,
    link: &str,
    server: IpAddr,
    client: IpAddr,
) -> Option<&'static str> {
    let own = server.to_string();
    let on_link = observed.links.by_name.get(link)?.addresses.iter().filter(|a| a.local == own);
    let net = |a: &crate::host_state::ObservedAddress| {
        format!("{}/{}", a.local, a.prefix).parse::<ipnet::IpNet>().ok()
    };
    let mut here = on_link.clone();
    match mode {
        8 => Some("that value answers for no address"),
        1 | 2 if here.next().is_none() => Some("the address is on another link"),
        // Behind a gateway, that one asks, with an address of its own.
        2 => {
            let known = observed
                .links
                .by_name
                .get(link)?
                .addresses
                .iter()
                .filter_map(net)
                .any(|net| net.contains(&client));
            let same = on_link.filter_map(net).any(|net| net.contains(&client));
            (known && !same).then_some("the client is in another network than the address")
        }
        3 => {
            let all = observed.links.by_name.values().flat_map(|link| &link.addresses);
            let mut of_host = all.filter(|a| a.local == own && a.scope == "host");
            of_host.next().map(|_| "the address has the scope host")
        }
        _ => None,
    }
}

fn stated(desired: &Desired, path: &str) -> Option<DeclaredValue> {
    let mut entries = desired.sysctl.values().flat_map(|file| &file.entries);
    let entry = entries.find(|entry| entry.key.path() == path)?;
    Some(DeclaredValue { value: entry.value.trim().parse().ok()?, origin: Some(entry.origin.clone()) })
}

fn value(observed: &Observed, path: &str) -> Option<u8> {
    match observed.sysctl.get(path) {
        Some(LiveValue::Value(value)) => value.trim().parse().ok(),
        _ => None,
    }
}

//! Bridges that other programs make and manage: they change them when they please, so that what we set
//! would not last, and they break when somebody else does.

use super::Refused;
use crate::observe::Observed;

/// Whose bridges have such names: the beginning of the name, what follows it, who, and where it is changed.
const MAKERS: [(&str, Rest, &str, &str); 17] = [
    ("virbr", Rest::Number, "libvirt", "virsh net-edit"),
    ("docker", Rest::Number, "Docker", "/etc/docker/daemon.json"),
    ("docker_gwbridge", Rest::Nothing, "Docker", "docker network"),
    ("br-", Rest::Hex, "Docker", "docker network"),
    ("podman", Rest::Number, "Podman", "podman network"),
    ("cni-podman", Rest::Number, "Podman", "podman network"),
    ("vmbr", Rest::Anything, "Proxmox VE", "its web interface or /etc/network/interfaces"),
    ("fwbr", Rest::Anything, "the firewall of Proxmox VE", "pve-firewall"),
    ("qbr", Rest::Hex, "OpenStack Neutron", "neutron"),
    ("brq", Rest::Hex, "OpenStack Neutron", "neutron"),
    ("cni", Rest::Number, "Kubernetes", "its network plugin"),
    ("cbr", Rest::Number, "Kubernetes", "kubelet"),
    ("kube-bridge", Rest::Nothing, "kube-router", "kube-router"),
    ("lxcbr", Rest::Number, "LXC", "/etc/default/lxc-net"),
    ("lxdbr", Rest::Number, "LXD", "lxc network edit"),
    ("incusbr", Rest::Number, "Incus", "incus network edit"),
    ("mpqemubr", Rest::Number, "Multipass", "multipass"),
];

/// What follows the beginning of a name.
enum Rest {
    Nothing,
    Number,
    /// Ten digits or more: the beginning of an id.
    Hex,
    Anything,
}

impl Rest {
    fn fits(&self, rest: &str) -> bool {
        let all = |digit: fn(&char) -> bool| rest.chars().all(|c| digit(&c));
        match self {
            Rest::Nothing => rest.is_empty(),
            Rest::Number => !rest.is_empty() && all(char::is_ascii_digit),
            // Neutron cuts its ids, and they have dashes.
            Rest::Hex => rest.len() >= 10 && all(|c| c.is_ascii_hexdigit() || *c == '-'),
            Rest::Anything => !rest.is_empty(),
        }
    }
}

/// The program that makes a bridge.
pub fn maker(bridge: &str, observed: &Observed) -> Option<&'static str> {
    evidence(bridge, observed).map(|(who, ..)| who)
}

/// Who makes a bridge, what shows it, and where it is changed.
fn evidence(bridge: &str, observed: &Observed) -> Option<(&'static str, String, &'static str)> {
    let by_name = MAKERS
        .iter()
        .find(|(start, rest, ..)| bridge.strip_prefix(start).is_some_and(|name| rest.fits(name)))
        .map(|(_, _, who, how)| (*who, "by its name".to_owned(), *how));
    let by_file = observed
        .network
        .libvirt
        .get(bridge)
        .map(|file| ("libvirt", format!("{file} defines it"), "virsh net-edit"));
    by_file.or(by_name)
}

/// Refuses a bridge that another program makes.
pub(super) fn check(bridge: &str, observed: &Observed) -> Result<(), Refused> {
    let Some((who, evidence, how)) = evidence(bridge, observed) else { return Ok(()) };
    Err((
        "foreign_owner",
        format!(
            "bridge {bridge} is one of {who} ({evidence}), which changes it when it pleases; change it there ({how}), \
             or state `{bridge}: {{ manage: false }}` to only name it"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others() {
        let maker = |bridge: &str| {
            let fits = |(start, rest, ..): &&(&str, Rest, &str, &str)| {
                bridge.strip_prefix(start).is_some_and(|name| rest.fits(name))
            };
            MAKERS.iter().find(fits).map(|(_, _, who, _)| *who)
        };
        let others = "virbr0 docker0 br-0123456789ab vmbr0 vmbr1v20 fwbr100i0 qbr01234567-89 brq01234567-89 cni0 lxdbr0";
        for name in others.split(' ') {
            assert!(maker(name).is_some(), "{name}");
        }
        for name in "br0 br123 br-lan br-ex brmgmt virbridge dockerbr bridge0 brq cnix vmbr".split(' ') {
            assert_eq!(maker(name), None, "{name}");
        }
    }
}

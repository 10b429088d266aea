//! Bridges that other programs make and manage: they change them when they please, so that what we set
//! would not last, and they break when somebody else does. A name that fits counts only where its program is on the host.

use super::RefusalCause;
use crate::host_state::Observed;
use crate::resource::iptables::chain_writers::reserved_for;
use crate::resource::iptables::save::tokens;

/// Whose bridges have such names: the beginning of the name, what follows it, who, and where it is changed.
const MAKERS: [(&str, NameRest, &str, &str); 17] = [
    ("virbr", NameRest::Number, "libvirt", "virsh net-edit"),
    ("docker", NameRest::Number, "Docker", "/etc/docker/daemon.json"),
    ("docker_gwbridge", NameRest::Nothing, "Docker", "docker network"),
    ("br-", NameRest::Hex, "Docker", "docker network"),
    ("podman", NameRest::Number, "Podman", "podman network"),
    ("cni-podman", NameRest::Number, "Podman", "podman network"),
    ("vmbr", NameRest::Anything, "Proxmox VE", "its web interface or /etc/network/interfaces"),
    ("fwbr", NameRest::Anything, "the firewall of Proxmox VE", "pve-firewall"),
    ("qbr", NameRest::Hex, "OpenStack Neutron", "neutron"),
    ("brq", NameRest::Hex, "OpenStack Neutron", "neutron"),
    ("cni", NameRest::Number, "Kubernetes", "its network plugin"),
    ("cbr", NameRest::Number, "Kubernetes", "kubelet"),
    ("kube-bridge", NameRest::Nothing, "kube-router", "kube-router"),
    ("lxcbr", NameRest::Number, "LXC", "/etc/default/lxc-net"),
    ("lxdbr", NameRest::Number, "LXD", "lxc network edit"),
    ("incusbr", NameRest::Number, "Incus", "incus network edit"),
    ("mpqemubr", NameRest::Number, "Multipass", "multipass"),
];

/// What follows the beginning of a name.
enum NameRest {
    Nothing,
    Number,
    /// Ten digits or more: the beginning of an id.
    Hex,
    Anything,
}

impl NameRest {
    fn fits(&self, rest: &str) -> bool {
        let all = |digit: fn(&char) -> bool| rest.chars().all(|c| digit(&c));
        match self {
            NameRest::Nothing => rest.is_empty(),
            NameRest::Number => !rest.is_empty() && all(char::is_ascii_digit),
            // Neutron cuts its ids, and they have dashes.
            NameRest::Hex => rest.len() >= 10 && all(|c| c.is_ascii_hexdigit() || *c == '-'),
            NameRest::Anything => !rest.is_empty(),
        }
    }
}

/// The program that makes a bridge.
pub fn maker(bridge: &str, observed: &Observed) -> Option<&'static str> {
    evidence(bridge, observed).map(|(who, ..)| who)
}

/// Who makes a bridge, what shows it, and where it is changed. A name alone shows nothing: an administrator may call a
/// bridge `vmbr0` where there is no Proxmox.
fn evidence(bridge: &str, observed: &Observed) -> Option<(&'static str, String, &'static str)> {
    let defined = &observed.network.libvirt;
    if let Some(file) = defined.get(bridge) {
        return Some(("libvirt", format!("{file} defines it"), "virsh net-edit"));
    }
    if let Some((who, how, rule)) = MAKERS_BY_RULE
        .iter()
        .find_map(|(who, chains, how)| Some((*who, *how, rule_with(bridge, chains, observed)?)))
    {
        return Some((who, format!("its rule `{rule}` names it"), how));
    }
    let (_, _, who, how) = MAKERS
        .iter()
        .find(|(start, rest, ..)| bridge.strip_prefix(start).is_some_and(|name| rest.fits(name)))?;
    // What defines all of its networks was read, and this bridge is none of them.
    if *who == "libvirt" && !defined.is_empty() {
        return None;
    }
    Some((who, format!("by its name, and {}", presence(who, observed)?), how))
}

/// Programs that write rules for each of their bridges, with the chains in which these stand.
const MAKERS_BY_RULE: [(&str, &[&str], &str); 2] = [
    // Others of libvirt's chains also name the link by which a network goes out.
    ("libvirt", &["LIBVIRT_INP", "LIBVIRT_OUT", "LIBVIRT_FWX"], "virsh net-edit"),
    (
        "Docker",
        &[
            "DOCKER",
            "DOCKER-FORWARD",
            "DOCKER-BRIDGE",
            "DOCKER-CT",
            "DOCKER-ISOLATION-STAGE-1",
            "DOCKER-ISOLATION-STAGE-2",
        ],
        "docker network",
    ),
];

/// A rule in one of these chains that names a bridge.
fn rule_with(bridge: &str, chains: &[&str], observed: &Observed) -> Option<String> {
    let tables = observed.rules.values().flat_map(|rules| rules.live.tables.values());
    let found = tables.flat_map(|table| table.chains()).filter(|chain| chains.contains(&chain.name.as_str()));
    let names = |rule: &&String| {
        let words = tokens(rule).unwrap_or_default();
        rule.contains(bridge)
            && words.windows(2).any(|two| matches!(&*two[0], "-i" | "-o") && two[1] == *bridge)
    };
    let mut rules = found.flat_map(|chain| chain.rules.iter().map(move |rule| (chain, rule)));
    rules.find(|(_, rule)| names(rule)).map(|(chain, rule)| format!("-A {} {rule}", chain.name))
}

/// What shows that a program is on the host.
fn presence(who: &str, observed: &Observed) -> Option<String> {
    let paths: &[&str] = match who {
        "libvirt" => &["/var/lib/libvirt/dnsmasq", "/run/libvirt/network"],
        "Docker" => &["/var/lib/docker", "/etc/docker", "/run/docker.pid"],
        "Podman" => &["/etc/containers/networks", "/var/lib/containers"],
        "Proxmox VE" | "the firewall of Proxmox VE" => &["/etc/pve"],
        "OpenStack Neutron" => &["/etc/neutron", "/var/lib/neutron"],
        "Kubernetes" | "kube-router" => &["/var/lib/cni", "/opt/cni/bin", "/var/lib/kubelet"],
        "LXC" => &["/etc/default/lxc-net"],
        "LXD" => &["/var/lib/lxd", "/var/snap/lxd"],
        "Incus" => &["/var/lib/incus"],
        "Multipass" => &["/var/snap/multipass"],
        _ => &[],
    };
    let known = |(_, path): &&(String, String)| paths.contains(&path.as_str());
    let there = observed.other_filters.evidence.iter().find(known).map(|(_, path)| format!("{path} exists"));
    let of_it = |chain: &&str| reserved_for(chain) == Some(who);
    let chains = || {
        let tables = observed.rules.values().flat_map(|rules| rules.live.tables.values());
        let mut names = tables.flat_map(|table| table.chains()).map(|chain| chain.name.as_str());
        names.find(|name| of_it(name)).map(|name| format!("chain {name} exists"))
    };
    there.or_else(chains)
}

/// Refuses a bridge that another program makes.
pub(super) fn check(bridge: &str, observed: &Observed) -> Result<(), RefusalCause> {
    let Some((who, evidence, how)) = evidence(bridge, observed) else { return Ok(()) };
    Err((
        "unmanaged-owner",
        format!(
            "bridge {bridge} is managed by {who} ({evidence}), which can change it at any time; change the \
             bridge there ({how}), or write `{bridge}: {{ manage: false }}` to only name it"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others() {
        let maker = |bridge: &str| {
            let fits = |(start, rest, ..): &&(&str, NameRest, &str, &str)| {
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

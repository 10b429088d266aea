//! Programs that write chains of their own, by the names of the chains.

/// Whole names, because an administrator's own chain may be called `DOCKER-HOSTS`.
const EXACT: [(&str, &[&str]); 2] = [
    (
        "Docker",
        &[
            "DOCKER",
            "DOCKER-USER",
            "DOCKER-FORWARD",
            "DOCKER-BRIDGE",
            "DOCKER-CT",
            "DOCKER-INTERNAL",
            "DOCKER-INGRESS",
            "DOCKER-ISOLATION",
            "DOCKER-ISOLATION-STAGE-1",
            "DOCKER-ISOLATION-STAGE-2",
            "DOCKER_OUTPUT",
            "DOCKER_POSTROUTING",
        ],
    ),
    ("libvirt", &["LIBVIRT_INP", "LIBVIRT_OUT", "LIBVIRT_FWI", "LIBVIRT_FWO", "LIBVIRT_FWX", "LIBVIRT_PRT"]),
];

/// Beginnings of names that an inventory may not declare.
const RESERVED: [(&str, &str); 9] = [
    ("f2b-", "fail2ban"),
    ("fail2ban-", "fail2ban"),
    ("KUBE-", "Kubernetes"),
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("OLD_CILIUM_", "Cilium"),
    ("ufw-", "ufw"),
    ("ufw6-", "ufw"),
    ("neutron-", "OpenStack Neutron"),
];

/// Beginnings that are too short or too common to be reserved.
const USUAL: [(&str, &str); 7] = [
    ("libvirt-", "libvirt's nwfilter"),
    ("FI-", "libvirt's nwfilter"),
    ("FO-", "libvirt's nwfilter"),
    ("HI-", "libvirt's nwfilter"),
    ("CNI-", "CNI plugins"),
    ("ufw", "ufw"),
    ("PVEFW-", "pve-firewall"),
];

fn by_prefix(table: &[(&str, &'static str)], chain: &str) -> Option<&'static str> {
    table.iter().find(|(prefix, _)| chain.starts_with(prefix)).map(|(_, writer)| *writer)
}

/// The program for which a chain name is reserved: an inventory may not declare it.
pub fn reserved_for(chain: &str) -> Option<&'static str> {
    let exact = EXACT.iter().find(|(_, names)| names.contains(&chain)).map(|(writer, _)| *writer);
    exact.or_else(|| by_prefix(&RESERVED, chain))
}

/// The program that usually writes a chain of this name.
pub fn chain_writer(chain: &str) -> Option<&'static str> {
    reserved_for(chain).or_else(|| by_prefix(&USUAL, chain))
}

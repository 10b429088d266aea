//! What runs behind a port, in the words of those who run KVM hosts.

/// Ports of the services whose loss hurts on a KVM host; first, last, name.
const KNOWN: [(u16, u16, &str); 22] = [
    (22, 22, "SSH"),
    (111, 111, "rpcbind"),
    (2049, 2049, "NFS"),
    (2224, 2224, "pcsd"),
    (3121, 3121, "pacemaker_remote"),
    (3260, 3260, "iSCSI"),
    (3300, 3300, "Ceph monitor"),
    (4789, 4789, "VXLAN"),
    (5403, 5407, "corosync"),
    (5900, 5999, "guest display"),
    (6080, 6080, "noVNC"),
    (6443, 6443, "Kubernetes"),
    (6789, 6789, "Ceph monitor"),
    (6800, 7300, "Ceph OSD"),
    (7788, 7799, "DRBD"),
    (8472, 8472, "VXLAN"),
    (9090, 9090, "Cockpit"),
    (10809, 10809, "NBD"),
    (16509, 16509, "libvirt"),
    (16514, 16514, "libvirt over TLS"),
    (24007, 24008, "GlusterFS"),
    (49152, 49215, "migration"),
];

/// The name of the service at a port, where it is one of those.
pub fn name(port: u16) -> Option<&'static str> {
    KNOWN.iter().find(|(first, last, _)| (*first..=*last).contains(&port)).map(|(.., name)| *name)
}

/// `3260/tcp (iSCSI)`.
pub fn shown(port: u16, tcp: bool) -> String {
    let protocol = if tcp { "tcp" } else { "udp" };
    match name(port) {
        Some(name) => format!("{port}/{protocol} ({name})"),
        None => format!("{port}/{protocol}"),
    }
}

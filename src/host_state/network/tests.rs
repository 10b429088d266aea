//! Owners of links, from sections as the probe prints them.

use super::*;

fn link(name: &str, index: u32) -> HostLink {
    HostLink {
        name: name.to_owned(),
        index,
        mac: Some("02:00:00:00:00:10".to_owned()),
        ..HostLink::default()
    }
}

#[test]
fn ifupdown_owns_what_it_has_a_stanza_for() {
    let network = NetworkConfig::parse(
        "bridge-utils=yes\n>/etc/network/interfaces\n1:source /etc/network/interfaces.d/*\n2:auto eth0\n\
         3:iface eth0 inet static\n4:    address 10.0.0.2/24\n5:iface eth1 inet manual\n6:iface eth2 inet dhcp\n\
         7:iface br0 inet static\n8:address 10.1.0.1/24\n9:bridge_ports eth3\n",
    );
    assert!(network.ifupdown_bridges);
    let gives = |name: &str| {
        let owner = network.owner(&link(name, 2))?;
        assert_eq!(owner.manager, LinkManager::Ifupdown);
        Some(owner.gives.iter().map(|line| line.line).collect::<Vec<_>>())
    };
    assert_eq!(gives("eth0"), Some(vec![4]));
    assert_eq!(gives("eth1"), Some(vec![]));
    assert_eq!(gives("eth2"), Some(vec![6]));
    assert_eq!(gives("eth3"), Some(vec![9]));
    assert_eq!(gives("eth4"), None);
}

#[test]
fn networkd_owns_what_it_says_it_does() {
    let files = ">/etc/systemd/network/10-eth0.network\n1:[Match]\n2:Name=eth*\n3:[Network]\n4:Address=10.0.0.2/24\n\
                 5:DNS=10.0.0.1\n>/etc/systemd/network/20-other.network\n1:[Match]\n2:Driver=x\n4:DHCP=yes\n";
    let of = |state: &str| {
        NetworkConfig::parse(&format!("{files}>/run/systemd/netif/links/2\n{state}")).owner(&link("eth0", 2))
    };
    let named =
        of("2:ADMIN_STATE=configured\n3:NETWORK_FILE=/etc/systemd/network/10-eth0.network\n").unwrap();
    assert_eq!(named.manager, LinkManager::Networkd);
    let settings: Vec<String> =
        named.settings.iter().map(|s| format!("{}/{}/{}={}", s.block, s.section, s.key, s.value)).collect();
    assert_eq!(settings, ["1/Match/Name=eth*", "2/Network/Address=10.0.0.2/24", "2/Network/DNS=10.0.0.1"]);
    assert_eq!(named.gives.len(), 1);
    // Ours is in effect, and is not among the files.
    let ours =
        of("2:ADMIN_STATE=configured\n3:NETWORK_FILE=/run/systemd/network/00-kvmfw-eth0.network\n").unwrap();
    assert_eq!(ours, named);
    assert_eq!(of("2:ADMIN_STATE=unmanaged\n"), None);
}

#[test]
fn network_manager_owns_what_it_manages() {
    let files =
        ">/etc/NetworkManager/system-connections/x.nmconnection\n2:interface-name=eth0\n3:dns=10.0.0.1;\n";
    let of = |name: &str, state: &str| {
        NetworkConfig::parse(&format!("{files}>/run/NetworkManager/devices/2\n{state}")).owner(&link(name, 2))
    };
    assert_eq!(of("eth0", "1:managed=true\n").unwrap().settings[1].value, "10.0.0.1;");
    assert_eq!(of("eth1", "1:managed=true\n").unwrap().file, None);
    assert_eq!(of("eth0", "1:managed=false\n"), None);
}

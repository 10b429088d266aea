//! The files of each manager, for one and the same bridge.

use super::*;
use crate::observe::Network;
use crate::problem::Origin;
use crate::resource::bridge::PortVlan;

fn bridge() -> Bridge {
    // A pvid is one VLAN, also with neighbours that are untagged like it.
    let of_eth0 = [(10, "-"), (11, "-"), (20, "pu"), (21, "u"), (22, "u")].map(|vlan| ("eth0", vlan));
    let vlans = of_eth0.into_iter().chain([("br9", (20, "pu"))]);
    let vlans = vlans.map(|(port, (vid, flags))| PortVlan {
        port: port.to_owned(),
        vid,
        pvid: flags.contains('p'),
        untagged: flags.contains('u'),
    });
    Bridge {
        name: "br9".to_owned(),
        manage: true,
        ports: vec!["eth0".to_owned()],
        addresses: Vec::new(),
        gateways: Vec::new(),
        take_addresses: true,
        mtu: Some(1400),
        mac: None,
        stp: None,
        forward_delay: None,
        ageing: Some(77),
        vlan_filtering: Some(true),
        vlans: vlans.collect(),
        nf_call_iptables: None,
        nf_call_ip6tables: None,
        nf_call_arptables: None,
        origin: Origin { file: "x.yaml".into(), line: 1 },
    }
}

fn owner(section: &str) -> (Link, Owner) {
    let link = Link { name: "eth0".to_owned(), index: 2, ..Link::default() };
    let owner = Network::parse(section).owner(&link).unwrap();
    (link, owner)
}

fn files(kept: &BTreeMap<String, String>) -> String {
    let one = |(path, text): (&String, &String)| format!("{path}\n{}\n", text.strip_prefix(HEADER).unwrap());
    kept.iter().map(one).collect()
}

#[test]
fn each_in_its_own_format() {
    let bridge = bridge();
    let before = BTreeMap::new();
    let at_boot = AtBoot {
        bridge: &bridge,
        created: true,
        ports: bridge.ports.iter().collect(),
        mac: Some("02:00:00:00:00:10".to_owned()),
        addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
        gateways: vec!["10.0.0.1".parse().unwrap()],
        vlans: bridge.vlans_by_port(),
        files_before: &before,
    };
    let (link, networkd) = owner(
        ">/etc/systemd/network/10-x.network\n4:DNS=10.0.0.1\n>/run/systemd/netif/links/2\n2:ADMIN_STATE=configured\n\
         3:NETWORK_FILE=/etc/systemd/network/10-x.network\n",
    );
    let (_, manager) = owner(
        ">/etc/NetworkManager/system-connections/x.nmconnection\n2:interface-name=eth0\n3:dns=10.0.0.1;\n\
         >/run/NetworkManager/devices/2\n1:managed=true\n",
    );
    let mut all = files(&networkd::make(&at_boot, &[(&link, networkd)]).files);
    all += &files(&network_manager::make(&at_boot, &[(&link, manager)]).files);
    all += &files(&netplan::make(&at_boot));
    all += &format!("ifupdown\n{}", ifupdown::text(&at_boot).strip_prefix(HEADER).unwrap());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write("src/plan/bridge/boot/expected.txt", &all).unwrap();
    }
    assert_eq!(all, include_str!("expected.txt"));
}

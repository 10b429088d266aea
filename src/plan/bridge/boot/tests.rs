//! The files of each manager, for one and the same bridge.

use super::*;
use crate::host_state::NetworkConfig;
use crate::problem::Origin;
use crate::resource::bridge::PortVlan;

fn bridge() -> DeclaredBridge {
    // A pvid is one VLAN, also with neighbours that are untagged like it.
    let of_eth0 = [(10, "-"), (11, "-"), (20, "pu"), (21, "u"), (22, "u")].map(|vlan| ("eth0", vlan));
    let vlans = of_eth0.into_iter().chain([("br9", (20, "pu"))]);
    let vlans = vlans.map(|(port, (vid, flags))| PortVlan {
        port: port.to_owned(),
        vid,
        pvid: flags.contains('p'),
        untagged: flags.contains('u'),
    });
    DeclaredBridge {
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
        attributes: BTreeMap::new(),
        port_attributes: BTreeMap::new(),
        origin: Origin { file: "x.yaml".into(), line: 1 },
    }
}

fn owner(section: &str) -> (HostLink, LinkOwner) {
    let link = HostLink { name: "eth0".to_owned(), index: 2, ..HostLink::default() };
    let owner = NetworkConfig::parse(section).owner(&link).unwrap();
    (link, owner)
}

fn files(kept: &BTreeMap<String, String>) -> String {
    let one = |(path, text): (&String, &String)| format!("{path}\n{}\n", text.strip_prefix(HEADER).unwrap());
    kept.iter().map(one).collect()
}

/// A bridge without VLANs and numbers of its own.
fn simple_bridge() -> DeclaredBridge {
    DeclaredBridge { vlans: Vec::new(), vlan_filtering: None, mtu: None, ageing: None, ..bridge() }
}

/// A bridge that kvmfw makes, and to which the address and the default route of eth0 move.
fn moved<'a>(bridge: &'a DeclaredBridge, before: &'a BTreeMap<String, String>) -> BootContext<'a> {
    BootContext {
        bridge,
        created: true,
        ports: bridge.ports.iter().collect(),
        mac: None,
        addresses: vec![plain("10.0.0.2/24")],
        gateways: vec![near("10.0.0.1")],
        vlans: bridge.vlans_by_port(),
        moved_from: ["eth0".to_owned()].into(),
        files_before: before,
    }
}

/// A file as the probe tells its lines.
fn numbered(text: &str) -> String {
    text.lines().zip(1..).map(|(line, number)| format!("{number}:{line}\n")).collect()
}

fn near(gateway: &str) -> GatewayAtBoot {
    GatewayAtBoot { address: gateway.parse().unwrap(), onlink: false }
}

fn plain(text: &str) -> AddressAtBoot {
    AddressAtBoot::from_address(text.parse().unwrap(), None)
}

/// What a host of a hosting provider has: an address of its own, and a gateway elsewhere.
#[test]
fn gateways_on_the_link_peers_and_labels() {
    let bridge = simple_bridge();
    let before = BTreeMap::new();
    let gateway = |text: &str| GatewayAtBoot { address: text.parse().unwrap(), onlink: true };
    let at_boot = |addresses| BootContext {
        addresses,
        gateways: vec![gateway("203.0.113.193"), gateway("2001:db8::1")],
        moved_from: BTreeSet::new(),
        ..moved(&bridge, &before)
    };
    let plain = at_boot(["203.0.113.250/32", "2001:db8:1::2/128"].map(plain).into());
    let (link, networkd) = owner(
        ">/etc/systemd/network/10-x.network\n>/run/systemd/netif/links/2\n2:ADMIN_STATE=configured\n\
         3:NETWORK_FILE=/etc/systemd/network/10-x.network\n",
    );
    let networkd = [(&link, networkd)];
    let text = |kept: &BTreeMap<String, String>, name: &str| {
        kept.iter().find(|(path, _)| path.ends_with(name)).unwrap().1.clone()
    };
    let said = text(&networkd::make(&plain, &networkd).unwrap_or_default().files, "br9.network");
    let routes = "[Route]\nGateway=203.0.113.193\nGatewayOnLink=yes\n\n[Route]\nGateway=2001:db8::1\nGatewayOnLink=yes\n";
    assert!(said.contains(routes) && said.contains("Address=203.0.113.250/32\n"), "{said}");
    let said = text(&netplan::make(&plain), ".yaml");
    assert!(said.contains("{ to: default, via: '203.0.113.193', on-link: true }"), "{said}");
    let said =
        text(&network_manager::make(&plain, &networkd).unwrap_or_default().files, "kvmfw-br9.nmconnection");
    assert!(said.contains("route99=0.0.0.0/0,203.0.113.193\nroute99_options=onlink=true\n"), "{said}");
    assert!(said.contains("route99=::/0,2001:db8::1\nroute99_options=onlink=true\n"), "{said}");
    let said = ifupdown::text(&plain);
    assert!(said.contains("address 203.0.113.250/32\n    gateway 203.0.113.193\n"), "{said}");

    let taken = |here: &str| MovedAddress { here: here.to_owned(), ..MovedAddress::default() };
    let odd = at_boot(vec![
        AddressAtBoot::from_address("203.0.113.250 peer 203.0.113.193/32".parse().unwrap(), None),
        AddressAtBoot::from_address(
            "192.0.2.9/24".parse().unwrap(),
            Some(&taken(" brd 192.0.2.255 label br9:1 metric 7 preferred_lft 0")),
        ),
    ]);
    assert!(!netplan::can_say(&networkd, &odd));
    let said = text(&networkd::make(&odd, &networkd).unwrap_or_default().files, "br9.network");
    for section in [
        "[Address]\nAddress=203.0.113.250\nPeer=203.0.113.193/32\n",
        "[Address]\nAddress=192.0.2.9/24\nLabel=br9:1\nRouteMetric=7\nPreferredLifetime=0\n",
    ] {
        assert!(said.contains(section), "{said}");
    }
    let said = ifupdown::text(&odd);
    for line in [
        "iface br9 inet manual\n",
        "    up ip addr add 203.0.113.250 peer 203.0.113.193/32 dev br9\n",
        "    up ip addr add 192.0.2.9/24 dev br9 label br9:1 metric 7 preferred_lft 0\n",
        "    up ip route replace default via 203.0.113.193 dev br9 onlink\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn each_in_its_own_format() {
    let bridge = bridge();
    let before = BTreeMap::new();
    let at_boot = BootContext {
        mac: Some("02:00:00:00:00:10".to_owned()),
        addresses: ["10.0.0.2/24", "fd00::2/64"].map(plain).into(),
        ..moved(&bridge, &before)
    };
    let (link, networkd) = owner(
        ">/etc/systemd/network/10-x.network\n3:[Network]\n4:DNS=10.0.0.1\n>/run/systemd/netif/links/2\n2:ADMIN_STATE=configured\n\
         3:NETWORK_FILE=/etc/systemd/network/10-x.network\n",
    );
    let (_, manager) = owner(
        ">/etc/NetworkManager/system-connections/x.nmconnection\n1:[connection]\n2:interface-name=eth0\n3:[ipv4]\n4:dns=10.0.0.1;\n\
         >/run/NetworkManager/devices/2\n1:managed=true\n",
    );
    let mut all = files(&networkd::make(&at_boot, &[(&link, networkd)]).unwrap().files);
    all += &files(&network_manager::make(&at_boot, &[(&link, manager)]).unwrap().files);
    all += &files(&netplan::make(&at_boot));
    all += &format!("ifupdown\n{}", ifupdown::text(&at_boot).strip_prefix(HEADER).unwrap());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write("src/plan/bridge/boot/expected.txt", &all).unwrap();
    }
    assert_eq!(all, include_str!("expected.txt"));
}

/// What `bridge` makes of a file of systemd-networkd for its port eth0, which has 10.0.0.2/24 and a default route.
fn networkd_with(settings: &str, moves: bool, drop_in: &str) -> Result<String, RefusalCause> {
    let bridge = simple_bridge();
    let before = BTreeMap::new();
    let mut at_boot = moved(&bridge, &before);
    if !moves {
        (at_boot.addresses, at_boot.gateways, at_boot.moved_from) = Default::default();
    }
    let (link, owner) = owner(&format!(
        ">/etc/systemd/network/10-x.network\n{}>/etc/systemd/network/10-x.network.d/more.conf\n{}\
         >/run/systemd/netif/links/2\n2:ADMIN_STATE=configured\n3:NETWORK_FILE=/etc/systemd/network/10-x.network\n",
        numbered(settings),
        numbered(drop_in)
    ));
    let kept = networkd::make(&at_boot, &[(&link, owner)])?;
    let warning = kept.warning.map_or_else(String::new, |warning| warning.message.to_string());
    Ok(files(&kept.files) + &warning)
}

#[test]
fn settings_of_a_replaced_file_find_a_home() {
    let text = networkd_with(
        "[Match]\nName=eth*\n[Link]\nMTUBytes=9000\nRequiredForOnline=routable\n[Network]\nAddress=10.0.0.2/24\n\
         VLAN=eth0.10\nVLAN = \\\n  eth0.20\nLLDP=yes\nDNS=10.0.0.1\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n\
         [Route]\nGateway=10.0.0.1\nMetric=50\n[Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.9\n\
         [RoutingPolicyRule]\nFrom=10.0.0.2\nTable=7\n[Bridge]\nCost=7\n[CAKE]\nBandwidth=1G\n",
        true,
        "[Network]\nNTP=10.0.0.3\n[Neighbor]\nAddress=10.0.0.7\nLinkLayerAddress=02:00:00:00:00:77\n",
    )
    .unwrap();
    let (_, bridge) = text.split_once("00-kvmfw-br9.network\n").unwrap();
    let (bridge, port) = bridge.split_once("/etc/systemd/network/00-kvmfw-eth0.network\n").unwrap();
    let carried = |text: &str| text.split_once("# Settings of ").unwrap().1.replace('\n', " ");
    assert_eq!(
        carried(port),
        "/etc/systemd/network/10-x.network:  [Link] MTUBytes=9000  [Network] VLAN=eth0.10 VLAN=eth0.20 LLDP=yes  \
         [Bridge] Cost=7  [CAKE] Bandwidth=1G  "
    );
    assert_eq!(
        carried(bridge),
        "/etc/systemd/network/10-x.network:  [Link] RequiredForOnline=routable  [Network] DNS=10.0.0.1 \
         IPv6AcceptRA=no LinkLocalAddressing=ipv6  [Route] Gateway=10.0.0.1 Metric=50  [Route] \
         Destination=10.9.0.0/16 Gateway=10.0.0.9  [RoutingPolicyRule] From=10.0.0.2 Table=7  [Network] NTP=10.0.0.3  \
         [Neighbor] Address=10.0.0.7 LinkLayerAddress=02:00:00:00:00:77  "
    );
    // The default route stands in its own section, with its metric, and not a second time.
    assert!(!bridge.contains("yes\nAddress=10.0.0.2/24\nGateway"), "{bridge}");
    assert!(bridge.contains("Address=10.0.0.2/24\n"), "{bridge}");
}

#[test]
fn settings_that_find_no_home_refuse_the_host() {
    for (line, moves) in [
        ("MACVLAN=mv0", true),
        ("IPVLAN=iv0", false),
        ("Tunnel=tun0", true),
        ("VXLAN=vx0", true),
        ("VRF=red", true),
        ("Address=10.7.7.7/24", true),
        ("Gateway=10.0.0.1", false),
        ("SomethingNew=yes", true),
    ] {
        let (reason, message) = networkd_with(&format!("[Network]\n{line}\n"), moves, "").unwrap_err();
        assert_eq!(reason, "port-settings-lost");
        assert!(message.contains("/etc/systemd/network/10-x.network:2 `"), "{message}");
        assert!(message.contains(line), "{message}");
    }
    let section = |text: &str, moves| networkd_with(text, moves, "").unwrap_err().1;
    assert!(section("[Route]\nDestination=10.9.0.0/16\n", false).contains("10-x.network:2"));
    assert!(section("[Address]\nAddress=10.0.0.2/24\nLabel=eth0:1\n", true).contains(":3 `Label=eth0:1`"));
    assert!(section("[Brand]\nNew=yes\n", true).contains("10-x.network:2"));
    // In a drop-in as well, by its own name.
    let (_, message) = networkd_with("", true, "[Network]\nMACVTAP=mt0\n").unwrap_err();
    assert!(message.contains("10-x.network.d/more.conf:2 `MACVTAP=mt0`"), "{message}");
    // A tunnel over a port without addresses stays; who asks for addresses there is told.
    let kept =
        networkd_with("[Network]\nVXLAN=vx0\nDHCP=yes\nIPv6AcceptRA=yes\n[DHCPv4]\nUseDNS=no\n", false, "");
    let kept = kept.unwrap();
    assert!(kept.contains("[Network]\nVXLAN=vx0\n") && kept.contains("10-x.network:3 `DHCP=yes`"), "{kept}");
}

/// While ours is in effect, the file behind it may not be found: what ours carried goes on.
#[test]
fn what_was_carried_outlives_a_source_that_is_not_found() {
    let first = networkd_with("[Network]\nVLAN=eth0.10\nDNS=10.0.0.1\n", true, "").unwrap();
    let (_, rest) = first.split_once("00-kvmfw-br9.network\n").unwrap();
    let (of_bridge, of_port) = rest.split_once("/etc/systemd/network/00-kvmfw-eth0.network\n").unwrap();
    let file = |link: &str, text: &str| {
        (
            format!("/etc/systemd/network/00-kvmfw-{link}.network"),
            format!("{HEADER}{}", text.trim_end()) + "\n",
        )
    };
    let before = BTreeMap::from([file("br9", of_bridge), file("eth0", of_port)]);
    let bridge = simple_bridge();
    let at_boot = moved(&bridge, &before);
    let ours = "/etc/systemd/network/00-kvmfw-eth0.network";
    let (link, owner) =
        owner(&format!(">/run/systemd/netif/links/2\n2:ADMIN_STATE=configured\n3:NETWORK_FILE={ours}\n"));
    let kept = networkd::make(&at_boot, &[(&link, owner)]).unwrap();
    for (path, text) in &before {
        assert_eq!(kept.files[path].trim_end(), text.trim_end());
    }
}

/// What a profile of NetworkManager says of the link stays with the port, what it says of addresses goes with them.
#[test]
fn settings_of_a_profile_find_a_home() {
    let make = |profile: &str, other: &str| {
        let bridge = simple_bridge();
        let before = BTreeMap::new();
        let at_boot = moved(&bridge, &before);
        let (link, owner) = owner(&format!(
            ">/etc/NetworkManager/system-connections/x.nmconnection\n{}\
             >/etc/NetworkManager/system-connections/y.nmconnection\n{}\
             >/run/NetworkManager/devices/2\n1:managed=true\n2:connection-uuid=u-1\n",
            numbered(profile),
            numbered(other)
        ));
        network_manager::make(&at_boot, &[(&link, owner)]).map(|kept| files(&kept.files))
    };
    let profile = "[connection]\nid=x\nuuid=u-1\ntype=ethernet\nzone=work\n[ethernet]\nmtu=9000\n\
                   cloned-mac-address=02:00:00:00:00:10\n[ipv4]\nmethod=manual\naddress1=10.0.0.2/24,10.0.0.1\n\
                   route99=10.9.0.0/16,10.0.0.9\ndns=10.0.0.1;\n[ipv6]\nmethod=auto\n";
    let by_name = "[connection]\nuuid=u-2\ntype=vlan\n[vlan]\nparent=eth0\nid=10\n";
    let text = make(profile, by_name).unwrap();
    let (port, bridge) = text.split_once("kvmfw-br9.nmconnection\n").unwrap();
    assert!(port.contains("[ethernet]\nmtu=9000\ncloned-mac-address=02:00:00:00:00:10\n"), "{port}");
    for part in [
        "[connection]\nzone=work\n",
        "[ipv4]\nroute99=10.9.0.0/16,10.0.0.9\ndns=10.0.0.1;\n",
        "[ipv6]\nmethod=auto\n",
    ] {
        assert!(bridge.contains(part), "{part} is not in {bridge}");
    }
    let lost = |profile: &str, other: &str| make(profile, other).unwrap_err().1;
    let by_uuid = by_name.replace("parent=eth0", "parent=u-1");
    assert!(lost(profile, &by_uuid).contains("y.nmconnection:5 `parent=u-1`"));
    assert!(lost(&format!("{profile}[802-1x]\npassword=\n"), by_name).contains("x.nmconnection:17"));
    // The profile in effect is in no file that was read.
    assert!(lost("[connection]\nuuid=u-9\n", by_name).contains("u-1"));
}

/// Attributes of the bridge and its port, in each manager's own words; netplan has none for some of them.
#[test]
fn attributes_in_the_files() {
    let of = |list: &[(&str, u32)]| list.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
    let bridge = DeclaredBridge {
        attributes: of(&[
            ("hello_time", 3),
            ("multicast_snooping", 0),
            ("group_fwd_mask", 8),
            ("vlan_default_pvid", 30),
        ]),
        port_attributes: [("eth0".to_owned(), of(&[("isolated", 1), ("hairpin", 1), ("cost", 7)]))].into(),
        ..simple_bridge()
    };
    let before = BTreeMap::new();
    let at_boot = BootContext { moved_from: BTreeSet::new(), ..moved(&bridge, &before) };
    let (link, networkd) = owner(
        ">/etc/systemd/network/10-x.network\n>/run/systemd/netif/links/2\n2:ADMIN_STATE=configured\n\
         3:NETWORK_FILE=/etc/systemd/network/10-x.network\n",
    );
    let owners = [(&link, networkd)];
    assert!(!netplan::can_say(&owners, &at_boot));
    let said = files(&networkd::make(&at_boot, &owners).unwrap_or_default().files);
    assert!(
        said.contains("HelloTimeSec=3\nGroupForwardMask=8\nMulticastSnooping=no\nDefaultPVID=30\n"),
        "{said}"
    );
    assert!(said.contains("\n[Bridge]\nIsolated=yes\nHairPin=yes\nCost=7\n"), "{said}");
    let said = files(&network_manager::make(&at_boot, &owners).unwrap_or_default().files);
    assert!(
        said.contains("hello-time=3\ngroup-forward-mask=8\nmulticast-snooping=false\nvlan-default-pvid=30\n"),
        "{said}"
    );
    assert!(said.contains("[bridge-port]\nhairpin-mode=true\npath-cost=7\n"), "{said}");
    let said = ifupdown::text(&at_boot);
    for line in [
        "    bridge_hello 3\n",
        "    up ip link set dev br9 type bridge mcast_snooping 0\n",
        "    up ip link set dev br9 type bridge vlan_default_pvid 30\n",
        "    up ip link set dev eth0 type bridge_slave isolated on\n",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
}

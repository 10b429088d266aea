//! VLANs of bridge ports, on a kernel that filters them. An emulated machine.

use crate::machine::{Kind, Machine, require_night};

/// Links that are there before anybody configures a network: ports of guests in VLAN 10 and 20, and a
/// trunk, beyond which somebody has both. All of them have addresses of one network.
const PORTS: &str = "#!/bin/sh
set -e
for port in vnet10 vnet11 vnet20 up0; do
	ip netns add $port
	ip link add $port type veth peer name eth0 netns $port
	ip -n $port link set eth0 up
	ip link set $port up
done
for n in 10 11 20; do ip -n vnet$n address add 192.0.2.$n/24 dev eth0; done
for n in 10 20; do
	ip -n up0 link add link eth0 name eth0.$n type vlan id $n
	ip netns add trunk$n
	ip -n up0 link set eth0.$n netns trunk$n
	ip -n trunk$n address add 192.0.2.1$n/24 dev eth0.$n
	ip -n trunk$n link set eth0.$n up
done
";

const UNIT: &str = "[Unit]
DefaultDependencies=no
After=local-fs.target systemd-udevd.service
Before=network-pre.target
Wants=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/ports
[Install]
WantedBy=sysinit.target
";

/// The bridge; the host itself is in VLAN 20.
const BRIDGE: &str = "bridges:
  br9:
    ports: [up0, vnet10, vnet11, vnet20]
    addresses: ['192.0.2.1/24']
    vlan_filtering: true
    vlans:
      br9: [{ vid: 20, pvid: true, untagged: true }]
      up0: [10, 20, 41, 42, 43]
      vnet10: [{ vid: 10, pvid: true, untagged: true }]
      vnet11: [{ vid: 10, pvid: true, untagged: true }]
      vnet20: [{ vid: 20, pvid: true, untagged: true }]
";

/// What `bridge vlan show` has of them then.
const EXACT: &str = "br9 20 PVID Egress Untagged
up0 10
up0 20
up0 41
up0 42
up0 43
vnet10 10 PVID Egress Untagged
vnet11 10 PVID Egress Untagged
vnet20 20 PVID Egress Untagged
";

const UNLIKED: &str = "checks: [{ command: '[ ! -e /var/lib/kvmfw/open ]', required: true }]\n";

impl Machine {
    fn write(&self, path: &str, text: &str) {
        self.sh(&format!("mkdir -p $(dirname {path}) && cat >{path} <<'END'\n{text}END\nsync -f {path}"));
    }

    /// Port, VLAN and flags, less those of the bridge that the image has.
    fn vlans(&self) -> String {
        self.sh("bridge vlan show | awk 'NR > 1 { if (/^[^ ]/) port = $1; else $1 = port \" \" $1; print }' |
             sed 's/  */ /g; s/ $//' | grep -v -e '^vnet[12] ' -e ^br123 | sort")
    }

    /// Who of a place and an address reaches whom: one letter each.
    fn reached(&self, pairs: &[(&str, &str)]) -> String {
        let ping = |(from, to): &(&str, &str)| {
            let within = if *from == "host" { String::new() } else { format!("ip netns exec {from} ") };
            format!("{within}ping -q -c 1 -W 3 {to} >/dev/null && printf y || printf n\n")
        };
        self.sh(&pairs.iter().map(ping).collect::<String>())
    }

    /// Within a VLAN and over the trunk they reach each other, between VLANs nobody does.
    #[track_caller]
    fn separated(&self, when: &str) {
        let within = [
            ("vnet10", "192.0.2.11"),
            ("vnet10", "192.0.2.110"),
            ("vnet20", "192.0.2.120"),
            ("vnet20", "192.0.2.1"),
            ("host", "192.0.2.120"),
        ];
        let between = [("vnet10", "192.0.2.20"), ("vnet20", "192.0.2.110"), ("vnet10", "192.0.2.1")];
        assert_eq!(
            (self.reached(&within).as_str(), self.reached(&between).as_str()),
            ("yyyyy", "nnn"),
            "{when}"
        );
    }
}

/// Owner of the ports, what it takes to make it so, and a file of ours that it then has.
const OWNERS: [(&str, &str, &str); 3] = [
    (
        "ifupdown",
        "printf 'source /etc/network/interfaces.d/*\\n' >>/etc/network/interfaces
         for p in up0 vnet10 vnet11 vnet20; do printf 'auto %s\\niface %s inet manual\\n' $p $p; done >/etc/network/interfaces.d/ports",
        "/etc/network/interfaces.d/kvmfw-br9",
    ),
    (
        "networkd",
        "rm /etc/network/interfaces.d/ports
         printf '[Match]\\nName=up0 vnet10 vnet11 vnet20\\n[Network]\\nLinkLocalAddressing=no\\n' >/etc/systemd/network/20-ports.network
         systemctl -q enable --now systemd-networkd
         until networkctl status vnet20 | grep -q configured; do sleep 0.2; done",
        "/etc/systemd/network/00-kvmfw-up0.network",
    ),
    (
        "NetworkManager",
        "systemctl -q disable --now systemd-networkd systemd-networkd.socket; rm /etc/systemd/network/20-ports.network
         rm -rf /run/systemd/netif
         ports=interface-name:up0,interface-name:vnet10,interface-name:vnet11,interface-name:vnet20
         printf '[main]\\nno-auto-default=*\\n[device-ports]\\nmatch-device=%s\\nmanaged=1\\n' $ports >/etc/NetworkManager/conf.d/ports.conf
         systemctl -q enable --now NetworkManager
         until grep -q managed=true /run/NetworkManager/devices/$(cat /sys/class/net/vnet20/ifindex); do sleep 0.2; done",
        "/etc/NetworkManager/system-connections/kvmfw-br9-up0.nmconnection",
    ),
];

/// A machine with the ports.
fn with_ports() -> Machine {
    let machine = Machine::boot(Kind::Emulated);
    machine.write("/usr/local/sbin/ports", PORTS);
    machine.write("/etc/systemd/system/ports.service", UNIT);
    machine.sh("chmod 755 /usr/local/sbin/ports && systemctl -q enable ports && systemctl start ports && sync -f /etc");
    machine
}

/// Live, after a boot, rolled back and undone, kept by our own unit.
#[test]
fn guests_in_two_vlans_and_a_trunk() {
    if !require_night() {
        return;
    }
    let mut machine = with_ports();
    guests_stay_connected(&machine);
    comes_home_with_its_vlans(&machine);
    a_new_bridge_has_its_own_default(&machine);

    machine.all(&format!("{BRIDGE}{UNLIKED}"));
    machine.kvmfw(&["apply", "-y"], 4);
    assert_eq!((machine.vlans().as_str(), machine.sh("ls -d /sys/class/net/br9 || true").as_str()), ("", ""));
    machine.all(BRIDGE);
    let plan = machine.kvmfw(&["plan"], 0);
    assert!(plan.contains("up0 vlans 10, 20") && plan.contains("vnet20 vlans 20 pvid untagged"), "{plan}");
    machine.kvmfw(&["apply", "-y"], 0);
    stands(&machine, "applied");
    machine.power_cut();
    stands(&machine, "after a boot");

    // A guest that would move to the other VLAN, and a trunk that would lose one.
    machine.all(&format!(
        "{}{UNLIKED}",
        BRIDGE
            .replace("vnet11: [{ vid: 10,", "vnet11: [{ vid: 20,")
            .replace("[10, 20, 41, 42, 43]", "[20, 30, 41, 43]")
    ));
    machine.kvmfw(&["apply", "-y"], 4);
    machine.all(BRIDGE);
    stands(&machine, "rolled back");
    machine.all(UNLIKED);
    machine.kvmfw(&["apply", "-y", "--accept-risk", "removes-all"], 4);
    machine.all(BRIDGE);
    stands(&machine, "its removal rolled back");
    machine.kvmfw(&["undo", "--to", "0", "-y"], 0);
    assert_eq!(machine.vlans(), "");
}

/// Where the bridge filters VLANs, rules see what goes from one port without tags to another, and nothing that
/// comes from a trunk or leaves by one, unless the switch for tags is on.
#[test]
fn rules_see_frames_without_tags_alone() {
    if !require_night() {
        return;
    }
    let machine = with_ports();
    machine.all(BRIDGE);
    machine.kvmfw(&["apply", "-y"], 0);
    machine.sh("modprobe br_netfilter && iptables -P FORWARD DROP");
    let pairs = [("vnet10", "192.0.2.11"), ("vnet10", "192.0.2.110"), ("vnet20", "192.0.2.120")];
    assert_eq!(machine.reached(&pairs), "nyy");
    let explained = || machine.kvmfw(&["explain", "--host", "vm", "--bridge", "br9"], 0);
    let told = explained();
    assert!(told.contains("UNREACHABLE") && told.contains("from vnet10 to vnet11"), "{told}");
    machine.sh("ip netns exec vnet11 ip link set eth0 down; ip link set vnet11 nomaster");
    let told = explained();
    assert!(told.contains("IPv4  open"), "nobody is dark who is not behind a trunk: {told}");
    machine.sh("sysctl -qw net.bridge.bridge-nf-filter-vlan-tagged=1");
    assert_eq!(machine.reached(&pairs[1..]), "nn");
    assert!(explained().contains("UNREACHABLE"));
}

/// Whoever owns the ports has them in files of its own format, and ours is there at boot all the same.
#[test]
fn the_owner_of_a_port_keeps_its_vlans() {
    if !require_night() {
        return;
    }
    let mut machine = with_ports();
    machine.all(BRIDGE);
    for (owner, prepare, file) in OWNERS {
        machine.sh(&format!("set -e\n{prepare}\nsync -f /etc"));
        machine.kvmfw(&["apply", "-y"], 0);
        machine.sh(&format!("test -L {file}"));
        stands(&machine, owner);
        machine.power_cut();
        stands(&machine, &format!("{owner} after a boot"));
        machine.kvmfw(&["undo", "--to", "0", "-y"], 0);
    }
}

#[track_caller]
fn stands(machine: &Machine, when: &str) {
    assert_eq!(machine.vlans(), EXACT, "{when}");
    machine.separated(when);
    machine.kvmfw(&["plan", "--detailed-exitcode"], 0);
}

/// A bridge that is there begins to filter while its guests talk; what others gave their ports stays.
fn guests_stay_connected(machine: &Machine) {
    machine.sh(
        "bridge vlan add dev vnet1 vid 30 && ip link add up1 type dummy && ip link set up1 up master br123",
    );
    let before = machine.sh("bridge vlan show");
    machine.sh("ip netns exec g1 ping -q -i 0.2 192.0.2.2 >/run/pings 2>&1 & echo $! >/run/ping.pid");
    let filters = "bridges: { br123: { ports: [up1], vlan_filtering: true, vlans: { up1: [1, 40] } } }\n";
    machine.all(filters);
    machine.kvmfw(&["apply", "-y"], 0);
    let vlans = machine.sh("bridge vlan show dev up1; bridge vlan show dev vnet1; cat /sys/class/net/br123/bridge/vlan_filtering");
    assert!(vlans.contains("40") && vlans.contains("30") && vlans.ends_with("1\n"), "{vlans}");
    // A trunk without the guests' VLAN: they would be alone.
    machine.all(&filters.replace("[1, 40]", "[40]"));
    let plan = machine.kvmfw(&["plan"], 0);
    assert!(
        plan.contains(
            "[vlan-apart] vm: bridge br123: vnet2 (1 pvid untagged) has no VLAN in common with up1 (40)"
        ),
        "{plan}"
    );
    machine.kvmfw(&["undo", "--to", "0", "-y"], 0);
    machine.sh("kill -INT $(cat /run/ping.pid)");
    machine.until("grep -q loss /run/pings");
    let pings = machine.sh("cat /run/pings");
    assert!(pings.contains(" 0% packet loss"), "{pings}");
    assert_eq!(machine.sh("bridge vlan show"), before);
    assert_eq!(machine.sh("cat /sys/class/net/br123/bridge/vlan_filtering"), "0\n");
    machine.sh("ip link del up1");
}

/// A new bridge gives its ports its own default VLAN, also one that had another VLAN elsewhere; a bridge that exists with
/// another default is refused.
fn a_new_bridge_has_its_own_default(machine: &Machine) {
    machine.sh("ip link add up1 type dummy && ip link add up2 type dummy && ip link set up2 master br123");
    let before = machine.sh("bridge vlan show");
    let of = |pvid: u16| {
        format!(
            "bridges: {{ br7: {{ ports: [up1, up2], take_addresses: true, vlan_default_pvid: {pvid}, \
             vlan_filtering: true, vlans: {{ up2: [40] }} }} }}\n"
        )
    };
    machine.all(&of(30));
    machine.kvmfw(&["apply", "-y"], 0);
    let lines = machine.vlans();
    let ours: Vec<&str> = lines.lines().filter(|l| l.starts_with("up") || l.starts_with("br7 ")).collect();
    let default = "30 PVID Egress Untagged";
    assert_eq!(ours, [&format!("br7 {default}"), &format!("up1 {default}"), "up2 40"], "{lines}");
    machine.kvmfw(&["plan", "--detailed-exitcode"], 0);
    machine.all(&of(31));
    let plan = machine.kvmfw(&["plan"], 7);
    assert!(plan.contains("`vlan_default_pvid` is 30 on the host"), "{plan}");
    machine.kvmfw(&["undo", "--to", "0", "-y"], 0);
    assert_eq!(machine.sh("bridge vlan show"), before, "undone");
    machine.sh("ip link del up1; ip link del up2");
}

/// A port that is taken from a bridge of others has its VLANs again when it is put back there.
fn comes_home_with_its_vlans(machine: &Machine) {
    machine.sh(
        "ip link add up1 type dummy && ip link set up1 up master br123 && bridge vlan add dev up1 vid 50-52 &&
         bridge vlan del dev up1 vid 1",
    );
    let before = machine.sh("bridge vlan show");
    let taken = "bridges: { br7: { ports: [up1], take_addresses: true } }\n";
    machine.all(&format!("{taken}{UNLIKED}"));
    machine.kvmfw(&["apply", "-y"], 4);
    assert_eq!(machine.sh("bridge vlan show"), before, "rolled back");
    machine.all(taken);
    machine.kvmfw(&["apply", "-y"], 0);
    assert_eq!(machine.sh("basename $(readlink /sys/class/net/up1/master)"), "br7\n");
    machine.kvmfw(&["plan", "--detailed-exitcode"], 0);
    machine.kvmfw(&["undo", "--to", "0", "-y"], 0);
    assert_eq!(machine.sh("bridge vlan show"), before, "undone");
    machine.sh("ip link del up1");
}

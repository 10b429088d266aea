//! A host that somebody made by hand, and what `import` says of it.

use super::Lab;
use super::project::Project;
use std::fs;

pub const HOST: &str = "kvm1";

pub fn import(project: &Project, lab: &Lab) -> String {
    project.kvmfw(lab, &["import", HOST]).expect(0).stdout
}

/// The flags for a host that no inventory knows: how the lab's hosts are logged in to.
pub fn files(lab: &Lab) -> [String; 4] {
    let file = |name: &str| lab.dir().join(name).display().to_string();
    ["--identity-file".to_owned(), file("id_ed25519"), "--known-hosts".to_owned(), file("known_hosts")]
}

/// Makes what was imported the inventory.
pub fn keep(project: &Project, yaml: &str) {
    fs::write(project.path().join("inventories/lab.yaml"), yaml).unwrap();
}

pub fn load(lab: &Lab, command: &str, rules: &str) {
    let script = format!("{command} <<'EOF'\n{rules}EOF\n");
    lab.host(HOST, &["sh", "-c", &script]).ok();
}

/// The article's host: one chain by hand, entered from INPUT and FORWARD, loaded at boot.
pub const RULES_V4: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:RH-Firewall-1-INPUT - [0:0]
-A INPUT -j RH-Firewall-1-INPUT
-A FORWARD -j RH-Firewall-1-INPUT
-A RH-Firewall-1-INPUT -i lo -j ACCEPT
-A RH-Firewall-1-INPUT -p icmp -m icmp --icmp-type any -j ACCEPT
-A RH-Firewall-1-INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A RH-Firewall-1-INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A RH-Firewall-1-INPUT -j REJECT --reject-with icmp-host-prohibited
COMMIT
";

/// The host with its rules, live and in the boot file, and a sysctl file of its own.
pub fn by_hand(lab: &Lab) {
    let script = format!(
        "mkdir -p /etc/iptables; cat >/etc/iptables/rules.v4 <<'EOF'\n{RULES_V4}EOF\niptables-restore </etc/iptables/rules.v4\n\
         printf '# by hand\\nnet.ipv4.conf.all.arp_ignore = 1\\n' >/etc/sysctl.d/60-arp.conf; chmod 640 /etc/sysctl.d/60-arp.conf\n\
         sysctl -q net.ipv4.conf.all.arp_ignore=1"
    );
    lab.host(HOST, &["sh", "-c", &script]).ok();
}

pub fn save(lab: &Lab) -> String {
    lab.host(HOST, &["iptables-save"]).ok()
}

/// What the host's own iptables says less counters and dates.
pub fn plain(save: &str) -> String {
    let lines = save.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(" [").next().unwrap());
    lines.map(|l| format!("{l}\n")).collect()
}

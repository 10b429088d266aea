//! Hostile surroundings: other firewalls, odd sysctl keys, held locks, and hosts that answer rubbish.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, host_of};
use common::transaction::until;
use common::{Backend, Lab};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Duration;

const RULES: &str = "\
iptables:
  filter:
    FORWARD:
      rules: |
        -p tcp --dport 4242 -j DROP
";

fn sh(lab: &Lab, host: &str, script: &str) -> String {
    lab.host(host, &["sh", "-c", script]).ok()
}

/// Each is refused before anything is touched, says the way out, and the way out works.
#[test]
fn other_firewalls_are_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(4).guests(false).up();
    let hosts = ["kvm1", "kvm2", "kvm3", "kvm4"];
    let project = Project::new(&lab, &hosts, RULES);
    let units = "mkdir -p /etc/systemd/system/sysinit.target.wants; cd /etc/systemd/system/sysinit.target.wants; ln -s /usr/lib/systemd/system/";
    sh(&lab, "kvm1", &format!("{units}firewalld.service firewalld.service"));
    sh(&lab, "kvm2", "mkdir -p /etc/ufw; echo ENABLED=yes >/etc/ufw/ufw.conf");
    let nft = "#!/usr/sbin/nft -f\n\nflush ruleset\n\ntable inet filter {\n}\n";
    sh(
        &lab,
        "kvm3",
        &format!("{units}nftables.service nftables.service; printf '{nft}' >/etc/nftables.conf"),
    );
    // The file of a service that is not enabled does nothing, neither does a ufw that is off.
    sh(
        &lab,
        "kvm4",
        &format!("printf '{nft}' >/etc/nftables.conf; mkdir -p /etc/ufw; echo ENABLED=no >/etc/ufw/ufw.conf"),
    );
    let before = hosts.map(|h| lab.dump(h));
    let json = project.apply(&lab, &["--format", "json"]).expect(7).json();
    let outs = ["disable --now firewalld", "ufw disable", "systemctl disable nftables"];
    for (n, out) in outs.iter().enumerate() {
        let host = host_of(&json, hosts[n]);
        assert_eq!(host["reason"], "other-firewall", "{host:#}");
        assert!(host["message"].as_str().unwrap().contains(out), "{host:#}");
        assert_eq!(lab.dump(hosts[n]), before[n], "{} was touched", hosts[n]);
        assert!(!lab.disk(hosts[n], "/var/lib/kvmfw").exists());
    }
    assert_eq!(host_of(&json, "kvm4")["status"], "changed", "{json:#}");
    sh(&lab, "kvm1", "rm /etc/systemd/system/sysinit.target.wants/firewalld.service");
    sh(&lab, "kvm2", "echo ENABLED=no >/etc/ufw/ufw.conf");
    sh(&lab, "kvm3", "sed -i '/flush ruleset/d' /etc/nftables.conf");
    project.apply(&lab, &[]).expect(0);
}

/// Files that only manage sysctl do not care who filters.
#[test]
fn sysctl_alone_goes_beside_another_firewall() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    sh(&lab, "kvm1", "mkdir -p /etc/ufw; echo ENABLED=yes >/etc/ufw/ufw.conf");
    let project = Project::new(&lab, &["kvm1"], "sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n");
    project.apply(&lab, &[]).expect(0);
}

#[test]
fn both_backends_and_native_rules_are_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2"], RULES);
    sh(&lab, "kvm1", "iptables-legacy -A INPUT -p tcp --dport 9 -j DROP");
    sh(
        &lab,
        "kvm2",
        "iptables-nft -A INPUT -p tcp --dport 9 -j DROP; nft add rule ip filter INPUT tcp dport { 7, 8 } drop",
    );
    let before = ["kvm1", "kvm2"].map(|h| lab.dump(h));
    let json = project.apply(&lab, &["--format", "json"]).expect(7).json();
    let (one, two) = (host_of(&json, "kvm1"), host_of(&json, "kvm2"));
    assert_eq!(one["reason"], "mixed-backends", "{one:#}");
    assert!(one["message"].as_str().unwrap().contains("remove them with iptables-legacy -F"), "{one:#}");
    assert_eq!(two["reason"], "native-nft", "{two:#}");
    assert_eq!(["kvm1", "kvm2"].map(|h| lab.dump(h)), before, "touched");
    // A policy decides without any rule.
    sh(&lab, "kvm1", "iptables-legacy -F INPUT; iptables-legacy -P FORWARD DROP");
    let json = project.kvmfw(&lab, &["plan", "-l", "kvm1", "--format", "json"]).expect(7).json();
    assert_eq!(host_of(&json, "kvm1")["reason"], "mixed-backends", "{json:#}");
    sh(&lab, "kvm1", "iptables-legacy -P FORWARD ACCEPT");
    let json = project.kvmfw(&lab, &["plan", "-l", "kvm1", "--format", "json"]).expect(0).json();
    assert_eq!(host_of(&json, "kvm1")["status"], "changed", "{json:#}");
    // A chain of its own in a table of iptables decides too, and no rule of it is shown.
    sh(
        &lab,
        "kvm2",
        "iptables -F INPUT; nft add chain ip filter late '{ type filter hook forward priority 5; policy drop; }'",
    );
    let json = project.kvmfw(&lab, &["plan", "-l", "kvm2", "--format", "json"]).expect(7).json();
    assert_eq!(host_of(&json, "kvm2")["reason"], "native-nft", "{json:#}");
}

#[test]
fn sysctl_keys_of_all_kinds() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).guests(false).up();
    let declared = "\
sysctl:
  60-t:
    net.ipv4.conf.all.arp_ignore: 1
    net.ipv4.conf.all.arp_announce: 1
    net.ipv4.conf.eth0/7.arp_ignore: 1
    net.ipv4.conf.eth0.forwarding: 1
    net.ipv4.route.flush: 1
    net.ipv4.tcp_available_congestion_control: none
";
    let project = Project::new(&lab, &["kvm1"], declared);
    sh(&lab, "kvm1", "ip link add name eth0.7 type bridge");
    sh(&lab, "kvm1", "echo 'net.ipv4.conf.all.arp_ignore = 2' >/etc/sysctl.d/70-later.conf");
    sh(&lab, "kvm1", "echo 'net/ipv4/conf/all/arp_announce=2' >>/etc/sysctl.conf");
    sh(&lab, "kvm1", "echo 'net.ipv4.conf.*.forwarding = 0' >/etc/sysctl.d/80-glob.conf");
    let before = lab.dump("kvm1");
    let json = project.kvmfw(&lab, &["apply", "-y", "--format", "json"]).expect(7).json();
    let one = host_of(&json, "kvm1");
    assert_eq!(one["reason"], "read-only-key", "{one:#}");
    assert!(one["message"].as_str().unwrap().contains("tcp_available_congestion_control is read-only"));
    assert_eq!(lab.dump("kvm1"), before, "touched");

    project.all(&declared.replace("    net.ipv4.tcp_available_congestion_control: none\n", ""));
    let run = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0);
    let json = run.json();
    let warnings = host_of(&json, "kvm1")["warnings"].as_array().unwrap();
    let says = |code: &str, words: &str| {
        let said = |w: &Value| w["code"] == code && w["message"].as_str().unwrap().contains(words);
        assert!(warnings.iter().any(said), "{code} {words}: {warnings:#?}");
    };
    says("write-only-key", "net.ipv4.route.flush can be written but not read");
    says("sysctl-overridden", "/etc/sysctl.d/70-later.conf:1 sets net.ipv4.conf.all.arp_ignore to 2");
    // systemd reads sysctl.conf by the link that Debian ships; procps reads the file itself, last.
    says("sysctl-overridden", "sysctl.conf:");
    let globbed = warnings.iter().any(|w| w["message"].as_str().unwrap().contains("80-glob.conf"));
    assert!(!globbed, "a key in full beats a glob in both tools: {warnings:#?}");
    project.apply(&lab, &[]).expect(0);
    // A dot in the name of an interface is no separator.
    assert_eq!(sh(&lab, "kvm1", "cat /proc/sys/net/ipv4/conf/eth0.7/arp_ignore").trim(), "1");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(text.contains("active, used at boot"), "{text}");
}

/// The kernel sorts this one: put back, and told how to write it.
#[test]
fn a_value_that_the_kernel_prints_differently() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let value = |v: &str| format!("sysctl: {{ 60-t: {{ net.ipv4.ip_local_reserved_ports: '{v}' }} }}\n");
    let project = Project::new(&lab, &["kvm1"], &value("9000,8080-8090"));
    let run = project.apply(&lab, &[]).expect(4);
    assert!(run.stdout.contains("made it 8080-8090,9000; if that is as good, write it so"), "{}", run.stdout);
    project.all(&value("8080-8090,9000"));
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

fn hold(lab: &Lab) -> Child {
    let mut command = lab.host_command("kvm1");
    let child = command.args(["flock", "/run/xtables.lock", "sh", "-c", "touch /run/held; exec sleep 600"]);
    let child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the lock is held", || lab.host("kvm1", &["test", "-e", "/run/held"]).success());
    child
}

/// Another program holds the lock of iptables: waited for, but not for ever.
#[test]
fn the_lock_of_iptables_is_held() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Legacy).guests(false).up();
    let project = Project::new(&lab, &["kvm1"], RULES);
    // A plan reads, and needs no lock.
    let mut holder = hold(&lab);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    let run = project.kvmfw(&lab, &["apply", "-y", "--apply-timeout", "40s"]).expect(4);
    assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
    assert!(run.stdout.contains("xtables lock"), "{}", run.stdout);
    assert!(run.took > Duration::from_secs(9), "it did not wait: {:?}", run.took);

    let child = project.spawn(&lab, &["apply", "-y", "--apply-timeout", "60s"]);
    let waits = "for p in /proc/[0-9]*; do read -r c <$p/comm && [ \"$c\" = iptables-restor ] && exit 0; done; exit 1";
    until("iptables-restore waits", || lab.host("kvm1", &["sh", "-c", waits]).success());
    sh(
        &lab,
        "kvm1",
        "for p in /proc/[0-9]*; do read -r c <$p/comm && [ \"$c\" = sleep ] && tr '\\0' ' ' <$p/cmdline | grep -q 600 && kill ${p#/proc/}; done; :",
    );
    let _ = holder.wait();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Each answers in another way that no host should; each is told of by itself, and the good one is changed.
#[test]
fn hosts_that_answer_garbage() {
    if !common::require_root() {
        return;
    }
    let answers = [
        (
            "kvm1",
            "printf 'Welcome!\\n@other host\\n\\033[2Jbanner without an end'; eval \"$SSH_ORIGINAL_COMMAND\"",
        ),
        ("kvm2", "head -c 300000 /dev/urandom"),
        ("kvm3", "printf '\\033[2J\\033]0;taken\\007\\r\\033[31m' >&2; exit 1"),
        ("kvm4", "exec cat /dev/zero"),
        ("kvm5", "exec yes >&2"),
        ("kvm6", "exec cat"),
        ("kvm7", "printf '@kvmfw-'; exec sleep 600"),
    ];
    let lab = Lab::builder().hosts(7).guests(false).up();
    let names = answers.map(|(name, _)| name);
    let project = Project::new(&lab, &names, RULES);
    for (name, answer) in answers {
        let keys = lab.disk(name, "/root/.ssh/authorized_keys");
        let key = std::fs::read_to_string(&keys).unwrap();
        std::fs::write(lab.disk(name, "/root/answer"), answer).unwrap();
        std::fs::write(&keys, format!("command=\"sh /root/answer\" {key}")).unwrap();
    }
    let run = project.apply(&lab, &["--max-unreachable", "100%"]).expect(5);
    let all = format!("{}{}", run.stdout, run.stderr);
    assert!(!all.contains('\u{1b}') && !all.contains('\u{7}') && !all.contains('\0'), "{all:?}");
    assert!(all.len() < 20_000, "{} bytes of output", all.len());
    assert!(all.contains("\\u{1b}[2J"), "escaped, and shown: {all}");
    assert!(run.took < Duration::from_secs(180), "{:?}", run.took);
    for stream in ["stdout", "stderr"] {
        assert!(run.stdout.contains(&format!("more than 16 MiB on {stream}")), "{all}");
    }
    assert!(run.stdout.contains("timed out: none of the remaining hosts answered for 20s"), "{all}");
    let rules = sh(&lab, "kvm1", "iptables-save");
    assert!(rules.contains("--dport 4242"), "the host with a banner was changed: {rules}");
    for name in &names[1..] {
        assert!(!lab.disk(name, "/var/lib/kvmfw").exists(), "{name} was touched");
    }
    let json = project.kvmfw(&lab, &["plan", "-l", "kvm[2-6]", "--format", "json"]).expect(5).json();
    for name in &names[1..6] {
        let host = host_of(&json, name);
        assert_eq!(host["status"], "unreachable", "{host:#}");
        let reason = host["reason"].as_str().unwrap();
        assert!(["bad-answer", "lost"].contains(&reason), "{host:#}");
    }
}

#[test]
fn a_changed_host_key_is_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2"], RULES);
    let known = lab.dir().join("known_hosts");
    let text = std::fs::read_to_string(&known).unwrap();
    let key = |host: &str| {
        let address = lab.address(host);
        let line = text.lines().find(|l| l.split([' ', ',']).any(|w| w == address)).unwrap();
        line.split(' ').nth(2).unwrap().to_owned()
    };
    // kvm1 is known by the key of kvm2.
    std::fs::write(&known, text.replace(&key("kvm1"), &key("kvm2"))).unwrap();
    let json = project.apply(&lab, &["--max-unreachable", "100%", "--format", "json"]).expect(5).json();
    let (one, two) = (host_of(&json, "kvm1"), host_of(&json, "kvm2"));
    assert_eq!((&one["status"], &one["reason"]), (&"unreachable".into(), &"connect".into()), "{one:#}");
    let said = one["message"].as_str().unwrap();
    let command = said.split(": ").last().unwrap();
    assert!(
        said.contains("host key has changed") && command.starts_with("ssh-keygen -R 10.99.0.11 -f "),
        "{said}"
    );
    assert_eq!(two["status"], "changed", "{json:#}");
    assert!(!lab.disk("kvm1", "/var/lib/kvmfw").exists());

    // The command that it names is the next step; after it the key is unknown, and that is refused too.
    lab.exec(&["sh", "-c", command]).ok();
    let json = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(5).json();
    assert!(host_of(&json, "kvm1")["message"].as_str().unwrap().contains("unknown host key"), "{json:#}");
}

/// Every jump host is named, and only jump hosts are.
#[test]
fn a_jump_host_is_recognised() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2", "kvm3"], RULES);
    let text = std::fs::read_to_string(project.path().join("inventories/lab.yaml")).unwrap();
    let through = text.replace(
        "kvm2: { address: '10.99.0.12' }",
        "kvm2: { address: '10.99.0.12', ssh: { jump: 'root@10.99.0.11:22' } }",
    );
    assert_ne!(text, through);
    project.write("inventories/lab.yaml", &through);
    let json = project.kvmfw(&lab, &["plan", "-l", "kvm1,kvm3", "--format", "json"]).expect(0).json();
    let says = |name: &str| {
        let all = host_of(&json, name)["warnings"].as_array().unwrap().clone();
        all.into_iter().find(|w| w["code"] == "jump-host").map(|w| w["message"].as_str().unwrap().to_owned())
    };
    assert!(says("kvm1").unwrap().contains("the jump host of kvm2 "), "{json:#}");
    assert_eq!(says("kvm3"), None, "{json:#}");
}

/// The same host, looked at from one of its guests and from elsewhere.
#[test]
fn a_controller_in_a_guest_is_recognised() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &["kvm1"], RULES);
    let known = lab.dir().join("known_hosts");
    let text = std::fs::read_to_string(&known).unwrap().replace("10.99.0.11", "10.99.0.11,192.168.1.254");
    std::fs::write(&known, text).unwrap();
    let plan = project.kvmfw(&lab, &["plan"]).expect(0);
    assert!(!plan.stdout.contains("in a guest of this host"), "{}", plan.stdout);

    let file = project.path().join("inventories/lab.yaml");
    let inventory = std::fs::read_to_string(&file).unwrap().replace("10.99.0.11", "192.168.1.254");
    std::fs::write(&file, inventory).unwrap();
    // The guest's network with this machine's files: by a process that lives in it.
    let mut inside = lab.guest_command("kvm1", "g0").args(["sleep", "600"]).spawn().unwrap();
    let wanted = lab.guest("kvm1", "g0", &["readlink", "/proc/self/ns/net"]).ok();
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let mut found = None;
    until("a process in the guest", || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        found = all
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .find(|pid| network(pid).is_some_and(|n| n.to_str() == Some(wanted.trim())));
        found.is_some()
    });
    let output = std::process::Command::new("nsenter")
        .arg(format!("--net=/proc/{}/ns/net", found.unwrap()))
        .arg(env!("CARGO_BIN_EXE_kvmfw"))
        .args(["plan", "--format", "json", "-C", project.path().to_str().unwrap()])
        .output()
        .unwrap();
    inside.kill().unwrap();
    inside.wait().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("controller-is-guest") && said.contains("behind port vnet0 of br123"), "{said}");
}

/// A guest by which another host is reached, though nothing comes from it and the host has forgotten it.
#[test]
fn a_guest_that_is_a_jump_host_is_recognised() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).up();
    let project = Project::new(&lab, &["kvm1", "kvm2"], RULES);
    let file = project.path().join("inventories/lab.yaml");
    let address = lab.guest("kvm1", "g0", &["ip", "-o", "-4", "address", "show", "dev", "eth0"]).ok();
    let address = address.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    lab.host("kvm1", &["ip", "neigh", "flush", "all"]).ok();
    let text = std::fs::read_to_string(&file).unwrap();
    let behind = format!("address: '10.99.0.12', ssh: {{ jump: 'x@{address}' }}");
    assert!(text.contains("address: '10.99.0.12'"), "{text}");
    std::fs::write(&file, text.replace("address: '10.99.0.12'", &behind)).unwrap();
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).stdout;
    let told =
        format!("{address}, the jump host of kvm2, is a guest of this host, behind port vnet0 of br123");
    assert!(plan.contains(&told), "{plan}");
    // Many that are away: a plan that waited for each in turn would take longer than a host may.
    let away: String = (100..180)
        .map(|n| format!("  gone{n}: {{ address: 192.0.2.{n}, ssh: {{ jump: 192.168.1.{n} }} }}\n"))
        .collect();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("groups:\n", &format!("  kvm3: {{ address: 10.99.0.13 }}\n{away}groups:\n")),
    )
    .unwrap();
    // It would be the canary, but for its guest. The other one's have another network.
    lab.host("kvm3", &["ip", "address", "flush", "dev", "br123"]).ok();
    let run = project.apply(&lab, &["--limit", "kvm1,kvm3", "--format", "jsonl"]).expect(0).stdout;
    assert!(run.contains(&told), "{run}");
    let done = |host: &str| {
        let done = |line: &&str| line.contains(r#""event":"done""#) && line.contains(&format!(r#""{host}""#));
        run.lines().position(|line| done(&line)).unwrap_or_else(|| panic!("{host}: {run}"))
    };
    assert!(done("kvm3") < done("kvm1"), "{run}");
}

/// The token lets a confirm through: it stands in no argument, no log, no file that others may read.
#[test]
fn secrets_are_not_world_readable() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], RULES);
    let plan = project.path().join("saved.plan");
    std::fs::write(&plan, "").unwrap();
    std::fs::set_permissions(&plan, std::fs::Permissions::from_mode(0o644)).unwrap();
    project.kvmfw(&lab, &["plan", "-o", plan.to_str().unwrap()]).expect(0);
    assert_eq!(std::fs::metadata(&plan).unwrap().permissions().mode() & 0o777, 0o600);

    let child = project.spawn(&lab, &["apply", "-y", "-v", "--confirm-timeout", "60s", "--soak", "3s"]);
    let find = |mark: &str| {
        let folders = std::fs::read_dir(lab.disk("kvm1", "/var/lib/kvmfw/txn")).ok()?;
        folders.flatten().map(|e| e.path()).find(|p| p.join(mark).exists())
    };
    until("applied", || find("applied").is_some());
    let folder = find("applied").unwrap();
    let token = std::fs::read_to_string(folder.join("token")).unwrap().trim().to_owned();
    assert!(token.len() >= 32);
    let argv = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
    let seen = sh(&lab, "kvm1", argv) + &lab.exec(&["sh", "-c", argv]).stdout;
    assert!(!seen.contains(&token), "the token is in somebody's arguments");
    let open = sh(&lab, "kvm1", "find /var/lib/kvmfw -perm /077 ! -type l");
    assert_eq!(open, "", "open to others");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains(&token) && !lab.console("kvm1").contains(&token), "the token was printed");
    let kept =
        sh(&lab, "kvm1", &format!("grep -rl {token} /var/lib/kvmfw /etc/kvmfw /var/log 2>/dev/null; :"));
    assert_eq!(kept, "", "the token outlives its transaction");
    // What the boot and sysctl tools have to read is readable; nothing else is, on either side.
    let open = sh(&lab, "kvm1", "find /etc/kvmfw -type f -perm /077 ! -path '*/sysctl.d/*'");
    assert_eq!(open, "", "open to others");
    for entry in walk(&project.path().join("runs")) {
        assert_eq!(std::fs::metadata(&entry).unwrap().permissions().mode() & 0o077, 0, "{}", entry.display());
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() { all.extend(walk(&entry.path())) } else { all.push(entry.path()) }
    }
    all
}

//! Hosts whose answers, names or logins are not what one expects: told as it is, by each command, and nobody else
//! waits for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::{Project, host_of};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

const HOST: &str = "kvm1";
const BRIDGE: &str = "bridges: { br123: { ageing: 77 } }\n";

/// Whoever asks such a host is told that it did not answer, and never that all is well there.
#[test]
fn every_command_refuses_a_garbage_answer() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], BRIDGE);
    let keys = lab.disk(HOST, "/root/.ssh/authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    fs::write(&keys, format!("command=\"sh /root/answer\" {key}")).unwrap();
    for answer in ["printf '\\033[2Jgarbage\\nmore\\n'", "head -c 300000 /dev/urandom", ":", "exec cat"] {
        fs::write(lab.disk(HOST, "/root/answer"), answer).unwrap();
        for args in [
            &["plan"][..],
            &["apply", "-y"],
            &["status"],
            &["history", HOST],
            &["unlock", HOST, "-y"],
            &["undo", "--to", "0", "-y"],
            &["import", HOST],
            &["explain", "--host", HOST],
        ] {
            let run = project.kvmfw(&lab, args).expect(5);
            let all = format!("{}{}", run.stdout, run.stderr);
            assert!(all.contains(HOST) && !all.contains(['\u{1b}', '\0']), "{args:?}: {all:?}");
            assert!(all.len() < 2000, "{args:?}: {} bytes", all.len());
        }
    }
    assert!(!lab.disk(HOST, "/var/lib/kvmfw").exists(), "touched");
}

/// Why a login is not let in stands in what the host prints in place of an answer, and every command shows it.
#[test]
fn the_words_of_a_host_that_does_not_answer_are_shown() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], BRIDGE);
    let keys = lab.disk(HOST, "/root/.ssh/authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    let commands = [
        &["plan"][..],
        &["apply", "-y"],
        &["status"],
        &["history", HOST],
        &["unlock", HOST, "-y"],
        &["undo", "--to", "0", "-y"],
        &["import", HOST],
        &["explain", "--host", HOST],
    ];
    let told = |words: &str| {
        for args in commands {
            let run = project.kvmfw(&lab, args).expect(5);
            let all = format!("{}{}", run.stdout, run.stderr);
            assert!(all.contains(words) && !all.contains('\u{1b}'), "{args:?}: {all}");
        }
    };
    fs::write(
        &keys,
        format!("command=\"printf 'Maintenance until noon\\n\\033[2Jask Bob\\n'; exit 1\" {key}"),
    )
    .unwrap();
    told("the host's answer is not complete: Maintenance until noon; \\u{1b}[2Jask Bob");
    fs::write(&keys, format!("command=\"echo only backups here >&2; exit 3\" {key}")).unwrap();
    told("the host's answer is not complete: only backups here");
    fs::write(&keys, &key).unwrap();
    let passwd = lab.disk(HOST, "/etc/passwd");
    let users = fs::read_to_string(&passwd).unwrap();
    let root = users.lines().find(|line| line.starts_with("root:")).unwrap();
    let nologin = root.rsplit_once(':').unwrap().0.to_owned() + ":/usr/sbin/nologin";
    fs::write(&passwd, users.replace(root, &nologin)).unwrap();
    told("the host's answer is not complete: This account is currently not available.");
    fs::write(&passwd, &users).unwrap();
    // sudo has words of its own.
    fs::remove_file(lab.disk(HOST, "/etc/sudoers.d/admin")).unwrap();
    project.all_with_ssh("user: admin, become: sudo", BRIDGE);
    for args in commands {
        let run = project.kvmfw(&lab, args).expect(7);
        let all = format!("{}{}", run.stdout, run.stderr);
        assert!(all.contains("sudo: a password is required"), "{args:?}: {all}");
    }
}

/// A host on which every document that has a line like `when` prints without end, once it has done its work.
fn flood(lab: &Lab, when: &str, floods: &str) {
    let script = format!(
        "doc=$(mktemp); cat >$doc; (eval \"$SSH_ORIGINAL_COMMAND\") <$doc\ngrep -Eq '{when}' $doc || exit 0\nrm $doc; exec {floods}\n"
    );
    fs::write(lab.disk(HOST, "/root/answer"), script).unwrap();
}

/// In every command and at every step: it costs its limit and not the memory of the controller, which is told as such, and
/// what is not known is not guessed.
#[test]
fn a_host_that_prints_without_end_is_cut_off() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], "sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n");
    let keys = lab.disk(HOST, "/root/.ssh/authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    fs::write(&keys, format!("command=\"sh /root/answer\" {key}")).unwrap();
    let run = |args: &[&str], code: i32| {
        let kvmfw = project.command(&lab, args);
        // In kB, of writable memory: more is not to be had, and kvmfw dies.
        let mut command = lab.exec_command("sh");
        command
            .args(["-c", "ulimit -d 163840; exec \"$@\"", "sh"])
            .arg(kvmfw.get_program())
            .args(kvmfw.get_args());
        command.env("KVMFW_RUN_DIR", project.path().join("runs")).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr]
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .concat();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        said
    };
    let short = ["--apply-timeout", "5s", "--confirm-timeout", "5s"];
    let apply = [&["apply", "-y"][..], &short].concat();
    for (floods, stream) in [("cat /dev/zero", "stdout"), ("cat /dev/zero >&2", "stderr"), ("yes", "stdout")]
    {
        flood(&lab, "", floods);
        let said = run(&["plan"], 5);
        assert!(said.contains(HOST) && said.contains(&format!("more than 16 MiB on {stream}")), "{said}");
    }
    // Staged, and let go over a new connection.
    flood(&lab, "^upload_run ", "cat /dev/zero");
    let said = run(&apply, 5);
    assert!(said.contains("more than 16 MiB on stdout"), "{said}");
    assert!(!lab.disk(HOST, "/etc/sysctl.d/60-t.conf").exists());
    flood(&lab, "no such line", "true");
    assert!(!run(&["status"], 0).contains("a transaction is open"));
    // What the answer to `commit` was nobody knows; the host does.
    flood(&lab, "kvmfw.sh commit", "yes >&2");
    let said = run(&apply, 6);
    assert!(
        said.contains("more than 1 MiB on stderr") && said.contains("no decision was reported"),
        "{said}"
    );
    flood(&lab, "no such line", "true");
    assert!(run(&["status"], 0).contains("active, used at boot"));
    // The answer to `go` is not needed.
    project.all("sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 2 } }\n");
    flood(&lab, "kvmfw.sh start", "cat /dev/zero");
    run(&apply, 0);
    flood(&lab, "", "cat /dev/zero");
    for args in [
        &["status"][..],
        &["history", HOST],
        &["import", HOST],
        &["explain", "--host", HOST],
        &["unlock", HOST, "-y"],
        &["undo", "--to", "0", "-y"],
    ] {
        let said = run(args, 5);
        assert!(said.contains(HOST) && said.contains("more than 16 MiB on stdout"), "{args:?}: {said}");
    }
}

/// iproute2 prints the control characters of a link's name as they are, which is no JSON: the links of the host
/// are known all the same, and its bridge is not made a second time, to go with the rollback.
#[test]
fn a_link_with_an_odd_name_hides_no_other() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let odd = "ip link add name \"$(printf 'a\\033[31mx')\" type bridge; ip link set eth1 alias \"$(printf \"the cat's \\001 \\\"port\\\"\")\"";
    lab.host(HOST, &["sh", "-ec", odd]).ok();
    let project = Project::new(&lab, &[HOST], BRIDGE);
    let before = lab.dump(HOST);
    let plan = project.kvmfw(&lab, &["plan"]).expect(0);
    assert!(plan.stdout.contains("- ageing_time 30000\n"), "{}", plan.stdout);
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    // One that is taken off, with the same name beside it.
    project.all(&format!("{BRIDGE}checks: [{{ command: 'false', required: true }}]\nsysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: 1 }} }}\n"));
    project.apply(&lab, &[]).expect(4);
    project.all(BRIDGE);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    common::same(&before, &lab.dump(HOST), "after the undo");
}

/// Not a host without links: those cannot be read, and so nothing is planned.
#[test]
fn unreadable_links_are_not_taken_for_none() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).up();
    let hosts = ["kvm1", "kvm2", "kvm3"];
    let project = Project::new(&lab, &hosts, BRIDGE);
    // That of another program, one that is cut off, and none.
    let tools = ["busybox ip address show", "/usr/bin/ip \"$@\" | head -c 700", "exit 1"];
    for (host, does) in hosts.iter().zip(tools) {
        let script = format!(
            "#!/bin/sh\ncase $* in *'-j address show'*) {does}; exit ;; esac\nexec /root/ip \"$@\"\n"
        )
        .replace("/usr/bin/ip", "/root/ip");
        fs::write(lab.disk(host, "/root/fake"), script).unwrap();
        let place = "tool=$(readlink -f $(command -v ip)); cp $tool /root/ip; chmod 755 /root/fake; mount --bind /root/fake $tool";
        lab.host(host, &["sh", "-ec", place]).ok();
    }
    let before = hosts.map(|host| lab.host(host, &["/root/ip", "-br", "link"]).ok());
    let json = project.apply(&lab, &["--max-unreachable", "100%", "--format", "json"]).expect(5).json();
    for host in hosts {
        let told = host_of(&json, host);
        assert_eq!(
            (&told["status"], &told["reason"]),
            (&"unreachable".into(), &"bad-answer".into()),
            "{told:#}"
        );
        assert!(told["message"].as_str().unwrap().contains("cannot read the host's links"), "{told:#}");
        assert!(!lab.disk(host, "/var/lib/kvmfw").exists(), "{host} was touched");
    }
    assert_eq!(hosts.map(|host| lab.host(host, &["/root/ip", "-br", "link"]).ok()), before);
}

/// Who listens, one a port from 3001: says nothing, stops after its name, talks for ever, tries the terminal,
/// sends rubbish for ever.
const LISTENERS: &str = "\
import os, socket, sys, threading, time
def hushed(c): time.sleep(600)
def named(c):
    c.sendall(b'SSH-2.0-OpenSSH_9.2\\r\\n')
    time.sleep(600)
def talks(c):
    while True: c.sendall(b'x' * 200 + b'\\r\\n')
def paints(c): c.sendall(b'\\x1b[2J\\x1b]0;taken\\x07\\r\\nSSH-1.5-\\x1b[31mx\\r\\n')
def rubbish(c):
    while True: c.sendall(os.urandom(4096))
def run(does, c):
    try: does(c)
    except OSError: pass
def serve(s, does):
    while True: threading.Thread(target=run, args=(does, s.accept()[0]), daemon=True).start()
for n, does in enumerate((hushed, named, talks, paints, rubbish)):
    s = socket.create_server(('10.99.0.1', 3001 + n))
    threading.Thread(target=serve, args=(s, does), daemon=True).start()
print('ready', flush=True)
sys.stdin.read()
";

#[test]
fn a_login_that_never_completes_times_out() {
    if !common::require_root() || !common::require_tools(&["python3"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let mut command = lab.exec_command("python3");
    command.args(["-c", LISTENERS]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut listeners = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(listeners.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let project = Project::new(&lab, &[HOST], BRIDGE);
    let inventory = fs::read_to_string(project.path().join("inventories/lab.yaml")).unwrap();
    let odd = |n: u32| format!("  odd{n}: {{ address: 10.99.0.1, ssh: {{ port: {} }} }}\n", 3000 + n);
    let more: String = (1..=5).map(odd).collect();
    project.write("inventories/lab.yaml", &inventory.replacen("hosts:\n", &format!("hosts:\n{more}"), 1));
    let run = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(5);
    let json = run.json();
    assert_eq!(host_of(&json, HOST)["status"], "changed", "{json:#}");
    for n in 1..=5 {
        let told = host_of(&json, &format!("odd{n}"));
        assert_eq!(
            (&told["status"], &told["reason"]),
            (&"unreachable".into(), &"connect".into()),
            "{told:#}"
        );
    }
    let all = format!("{}{}", run.stdout, run.stderr);
    assert!(!all.contains(['\u{1b}', '\u{7}']), "{all:?}");
    assert!(all.len() < 20_000, "{} bytes", all.len());
    assert!(run.took < Duration::from_secs(60), "{:?}", run.took);
    drop(listeners.stdin.take());
    listeners.wait().unwrap();
}

/// A host that lies about its records and files writes on the operator's terminal what it likes nowhere, and what `import`
/// prints of it still loads.
#[test]
fn nothing_that_a_host_keeps_is_obeyed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], BRIDGE);
    project.apply(&lab, &[]).expect(0);
    let odd = "\u{1b}[2J\u{1b}]0;taken\u{7}\u{9b}31m\u{202e}evil\u{2066}\u{61c}\u{200f}\u{7f}\u{e0041}";
    let history = lab.disk(HOST, "/var/lib/kvmfw/history");
    let kept = fs::read_to_string(&history).unwrap();
    let mut words: Vec<&str> = kept.trim_end().split('\t').collect();
    let outcome = format!("rolled-back: {odd}");
    let changed: Vec<String> = words.iter().map(|word| format!("{word}{odd}")).collect();
    words[3] = &outcome;
    fs::write(&history, format!("{kept}{}\n{}\n", words.join("\t"), changed.join("\t"))).unwrap();
    fs::write(lab.disk(HOST, "/etc/kvmfw/inventory"), format!("lab{odd}\n")).unwrap();
    fs::write(
        lab.disk(HOST, "/etc/sysctl.d/70-odd.conf"),
        format!("net.ipv4.ip_local_reserved_ports = {odd}\nnet.ipv4.{odd} = 1\n"),
    )
    .unwrap();
    fs::write(
        lab.disk(HOST, &format!("/etc/sysctl.d/71-{}.conf", odd.replace('/', ""))),
        "net.ipv4.ip_forward = 0\n",
    )
    .unwrap();
    let sh = |script: &str| lab.host(HOST, &["sh", "-ec", script]).ok();
    sh(
        "iptables -A INPUT -m comment --comment \"$(printf '\\033[2J')\" -j ACCEPT; iptables -A INPUT -m comment --comment '\u{202e}evil' -j ACCEPT",
    );
    sh(&format!(
        "ip link add name \"$(printf 'a\\033[31m')\" type bridge; ip link add name 'b\u{202e}' type bridge; ip link set eth1 alias '{}'",
        "\u{202e}evil"
    ));
    for args in [
        &["history", HOST][..],
        &["history", HOST, "--format", "json"],
        &["status"],
        &["status", "--format", "json"],
        &["plan"],
        &["plan", "--format", "json"],
        &["plan", "--format", "markdown"],
        &["explain", "--host", HOST],
        &["explain", "--host", HOST, "--format", "json"],
        &["explain", "--host", HOST, "--format", "svg"],
        &["import", HOST],
        &["unlock", HOST, "-y"],
        &["undo", "--to", "0", "-y"],
    ] {
        let run = project.kvmfw(&lab, args);
        let all = format!("{}{}", run.stdout, run.stderr);
        let obeyed = |c: char| {
            (c.is_control() && c != '\n' && c != '\t')
                || "\u{202e}\u{2066}\u{61c}\u{200f}\u{e0041}".contains(c)
        };
        assert!(!all.contains(obeyed), "{args:?}: {all:?}");
        assert_ne!(run.code, 1, "{args:?}: {all}");
        if args[0] == "import" {
            assert_eq!(run.code, 0, "{all}");
        }
        if args.contains(&"json") {
            run.json();
        }
    }
}

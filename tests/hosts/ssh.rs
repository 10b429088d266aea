//! Ways to log in, as `ssh` itself knows them: kvmfw uses the operator's own ssh and takes nothing
//! from it. Each login here has a home of its own, with its own `~/.ssh`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run, host_of};
use common::terminal::Terminal;
use common::transaction::{end, until};
use common::{Cut, Lab};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const HOST: &str = "kvm1";

/// An operator with a `~/.ssh`, where kvmfw runs.
struct Operator<'a> {
    lab: &'a Lab,
    project: Project,
    home: tempfile::TempDir,
}

impl<'a> Operator<'a> {
    /// The hosts are reached as `ssh:` says, and no other way.
    fn new(lab: &'a Lab, ssh: &str) -> Self {
        let operator =
            Self { lab, project: Project::new(lab, &[], "modules: []"), home: tempfile::tempdir().unwrap() };
        fs::create_dir(operator.file("")).unwrap();
        operator.inventory(ssh);
        operator
    }

    fn inventory(&self, ssh: &str) {
        let yaml = format!(
            "hosts: {{ kvm1: {{ }} }}\ngroups:\n  all:\n    ssh: {{ {ssh} }}\n    sysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: 1 }} }}\n"
        );
        self.project.write("inventories/prod.yaml", &yaml);
    }

    /// A file of `~/.ssh`.
    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(".ssh").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The key that the hosts know, under a name in `~/.ssh`.
    fn key(&self, name: &str) {
        self.write(name, &fs::read_to_string(self.lab.dir().join("id_ed25519")).unwrap());
    }

    fn known_hosts(&self) {
        self.write("known_hosts", &fs::read_to_string(self.lab.dir().join("known_hosts")).unwrap());
    }

    fn command(&self, args: &[&str]) -> Command {
        self.command_in(&["setsid", "--wait"], args)
    }

    /// kvmfw with that home, in a session of its own. ssh takes the home from the password file, and so
    /// it is put in the place of root's.
    fn command_in(&self, session: &[&str], args: &[&str]) -> Command {
        let program = std::env::var("KVMFW").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kvmfw").to_owned());
        let mut command = self.lab.exec_command("unshare");
        command
            .arg("--mount")
            .args(session)
            .args(["sh", "-c", "mount --bind \"$0\" /root && exec \"$@\""])
            .arg(self.home.path())
            .arg(program)
            .args(args)
            .args(["-i", "prod", "--color", "never", "-C"])
            .arg(self.project.path())
            .env("HOME", "/root")
            .env("KVMFW_RUN_DIR", self.project.path().join("runs"))
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, mut command: Command) -> Run {
        let start = Instant::now();
        let output = command.output().unwrap();
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    #[track_caller]
    fn logs_in(&self) {
        let run = self.run(self.command(&["plan", "--detailed-exitcode"])).expect(2);
        assert!(run.stdout.contains("arp_ignore"), "{}", run.stdout);
    }

    #[track_caller]
    fn stays_out(&self, why: &str) {
        let run = self.run(self.command(&["plan"])).expect(5);
        assert!(run.stdout.contains(why), "{}", run.stdout);
    }
}

/// ssh-keygen, which says nothing.
#[track_caller]
fn keygen(args: &[&str]) {
    let output = Command::new("ssh-keygen").arg("-q").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Lines for a host's sshd, which starts anew with them.
fn sshd(lab: &Lab, lines: &str) {
    fs::write(lab.disk(HOST, "/etc/ssh/sshd_config.d/test.conf"), lines).unwrap();
    lab.reboot(HOST);
}

#[test]
fn ssh_config_with_host_include_and_match() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let operator = Operator::new(&lab, "connect_timeout: 5s");
    operator.key("fleet");
    operator.known_hosts();
    operator.write(
        "config",
        "Include conf.d/*.conf\nMatch host 10.99.0.11\n    User admin\n    IdentityFile ~/.ssh/fleet\n",
    );
    operator.write(
        "conf.d/lab.conf",
        "Host kvm?\n    HostName 10.99.0.11\n    ControlMaster auto\n    ControlPath ~/.ssh/%C\n",
    );
    // admin is no root, so it is the configuration that names the user.
    let run = operator.run(operator.command(&["plan"])).expect(7);
    assert!(run.stdout.contains("become: sudo"), "{}", run.stdout);
    operator.inventory("become: sudo");
    operator.logs_in();
    // Options of the inventory stand before the configuration, and do not replace it.
    operator.inventory("become: sudo, options: { ServerAliveInterval: 7 }");
    operator.logs_in();
    // One that this ssh does not know is named, and not the file that it was written into.
    operator.inventory("become: sudo, options: { KexAlgorithms: of-tomorrow }");
    let run = operator.run(operator.command(&["plan"])).expect(5);
    let named = "ssh on this machine rejects an option: Bad SSH2 KexAlgorithms 'of-tomorrow'";
    assert!(run.stdout.contains(named) && !run.stdout.contains("/kvmfw-"), "{}", run.stdout);
}

/// A session that is over for us is not yet over for sshd, where something of the login still runs: with `MaxSessions 1` the
/// next one is refused until then.
#[test]
fn an_sshd_that_lets_in_one_session_at_once() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    sshd(&lab, "MaxSessions 1\n");
    let project = Project::new(&lab, &[HOST], "sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n");
    let keys = lab.disk(HOST, "/root/.ssh/authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    fs::write(&keys, format!("command=\"sh /root/answer\" {key}")).unwrap();
    let late = |seconds: u32| {
        let script = format!("(eval \"$SSH_ORIGINAL_COMMAND\"); exec sleep {seconds}\n");
        fs::write(lab.disk(HOST, "/root/answer"), script).unwrap();
    };
    late(2);
    project.apply(&lab, &[]).expect(0);
    late(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    // One that never ends is told as what it is, and nothing was touched.
    late(600);
    let run = project.apply(&lab, &[]).expect(5);
    assert!(run.stdout.contains("MaxSessions"), "{}", run.stdout);
    late(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
}

/// The user's own known_hosts may take what a host says of its keys; one that an inventory names may not.
#[test]
fn a_known_hosts_that_the_inventory_names_is_only_read() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let operator = Operator::new(&lab, "user: root");
    operator.key("id_ed25519");
    lab.host(HOST, &["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", "/etc/ssh/another"]).ok();
    sshd(&lab, "HostKey /etc/ssh/another\n");
    operator.write("config", "UpdateHostKeys yes\nHost kvm1\n    HostName 10.99.0.11\n");
    // ssh touches no line with several names.
    let before = format!(
        "10.99.0.11 {}",
        fs::read_to_string(lab.disk(HOST, "/etc/ssh/ssh_host_ed25519_key.pub")).unwrap()
    );
    operator.write("known_hosts", &before);
    operator.logs_in();
    let known = fs::read_to_string(operator.file("known_hosts")).unwrap();
    assert!(known.contains("ecdsa"), "ssh has written nothing, so it would not have elsewhere: {known}");

    operator.write("of_the_inventory", &before);
    operator.inventory("user: root, known_hosts: ~/.ssh/of_the_inventory");
    operator.logs_in();
    assert_eq!(fs::read_to_string(operator.file("of_the_inventory")).unwrap(), before);
}

#[test]
fn hashed_known_hosts() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let operator = Operator::new(&lab, "user: root");
    operator.key("id_ed25519");
    operator.write("config", "Host kvm1\n    HostName 10.99.0.11\n");
    operator.stays_out("unknown host key");
    operator.known_hosts();
    keygen(&["-H", "-f", operator.file("known_hosts").to_str().unwrap()]);
    assert!(fs::read_to_string(operator.file("known_hosts")).unwrap().starts_with("|1|"), "it is not hashed");
    operator.logs_in();
    // A key that changed is told as such.
    let file = operator.file("other");
    keygen(&["-t", "ed25519", "-N", "", "-f", file.to_str().unwrap()]);
    let public = fs::read_to_string(operator.file("other.pub")).unwrap();
    operator.write("known_hosts", &format!("10.99.0.11 {public}"));
    keygen(&["-H", "-f", operator.file("known_hosts").to_str().unwrap()]);
    operator.stays_out("the host key has changed");
}

/// Ends an agent, also when a test fails.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_key_that_only_the_agent_has() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let operator = Operator::new(&lab, "user: root");
    operator.known_hosts();
    operator.write("config", "Host kvm1\n    HostName 10.99.0.11\n");
    operator.stays_out("ssh-add");
    let socket = operator.file("agent");
    let mut agent = Command::new("ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
    let _agent = Agent(agent.spawn().unwrap());
    common::transaction::wait("the agent", Duration::from_secs(10), || socket.exists().then_some(()));
    let mut add = Command::new("ssh-add");
    add.arg("-q").arg(lab.dir().join("id_ed25519")).env("SSH_AUTH_SOCK", &socket);
    assert!(add.status().unwrap().success());
    let mut command = operator.command(&["plan", "--detailed-exitcode"]);
    command.env("SSH_AUTH_SOCK", &socket);
    operator.run(command).expect(2);
    // By the configuration too.
    operator.write("config", "Host kvm1\n    HostName 10.99.0.11\n    IdentityAgent ~/.ssh/agent\n");
    operator.logs_in();
}

#[test]
fn certificates_of_users_and_hosts() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let operator = Operator::new(&lab, "user: root");
    operator.write("config", "Host kvm1\n    HostName 10.99.0.11\n");
    let path = |name: &str| operator.file(name).to_str().unwrap().to_owned();
    for name in ["ca", "id_ed25519"] {
        keygen(&["-t", "ed25519", "-N", "", "-f", &path(name)]);
    }
    let ca = fs::read_to_string(operator.file("ca.pub")).unwrap();
    let (host_key, host_cert) =
        ("/etc/ssh/ssh_host_ed25519_key.pub", "/etc/ssh/ssh_host_ed25519_key-cert.pub");
    keygen(&[
        "-s",
        &path("ca"),
        "-h",
        "-I",
        "kvm1",
        "-n",
        "10.99.0.11",
        lab.disk(HOST, host_key).to_str().unwrap(),
    ]);
    fs::write(lab.disk(HOST, "/etc/ssh/ca.pub"), &ca).unwrap();
    sshd(&lab, &format!("TrustedUserCAKeys /etc/ssh/ca.pub\nHostCertificate {host_cert}\n"));
    operator.stays_out("unknown host key");
    operator.write("known_hosts", &format!("@cert-authority 10.99.0.* {ca}"));
    operator.stays_out("Permission denied");
    keygen(&["-s", &path("ca"), "-I", "operator", "-n", "root", &path("id_ed25519.pub")]);
    operator.logs_in();
}

#[test]
fn through_a_jump_host() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    // There is no other way.
    lab.cut(HOST, Cut::Both);
    let operator = Operator::new(&lab, "user: root, jump: admin@bastion");
    operator.key("id_ed25519");
    operator.known_hosts();
    let names = "Host bastion\n    HostName 10.99.0.12\nHost kvm1\n    HostName 10.99.0.11\n";
    operator.write("config", names);
    operator.logs_in();
    // By the configuration, and with what an apply needs: new connections.
    operator.inventory("user: root");
    operator.write("config", &format!("{names}    ProxyJump admin@bastion\n"));
    operator.run(operator.command(&["apply", "-y"])).expect(0);
}

/// What needs an answer fails at once, though there is a terminal that could give one.
#[test]
fn ssh_never_prompts() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let operator = Operator::new(&lab, "user: root, connect_timeout: 5s");
    operator.key("id_ed25519");
    keygen(&["-p", "-P", "", "-N", "a secret", "-f", operator.file("id_ed25519").to_str().unwrap()]);
    operator.known_hosts();
    operator.write("config", "Host kvm1\n    HostName 10.99.0.11\n");
    let asked = |operator: &Operator<'_>| {
        let command = operator.command_in(&["setsid", "--wait", "--ctty"], &["plan"]);
        let start = Instant::now();
        let (code, screen) = Terminal::start(command).end();
        assert_eq!(code, 5, "{screen}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(!screen.contains("passphrase for") && !screen.contains("assword:"), "{screen}");
        screen
    };
    let screen = asked(&operator);
    assert!(screen.contains("Permission denied") && screen.contains("ssh-add"), "{screen}");

    // A host that wants a password.
    fs::remove_dir_all(lab.disk(HOST, "/root/.ssh")).unwrap();
    sshd(&lab, "PasswordAuthentication yes\nPermitRootLogin yes\n");
    let screen = asked(&operator);
    assert!(screen.contains("Permission denied") && screen.contains("ssh-add"), "{screen}");

    // A jump host for whose key one would be asked.
    operator.inventory("user: root, jump: kvm2, connect_timeout: 5s");
    operator.write("config", "Host kvm1\n    HostName 10.99.0.11\nHost kvm2\n    HostName 10.99.0.12\n");
    let screen = asked(&operator);
    assert!(screen.contains("the connection through kvm2 ended"), "{screen}");
    // It may have dropped us by chance; but it may also count who fails to log in.
    let console = lab.console("kvm2");
    let logins = console.matches("Connection closed by authenticating user").count();
    assert!((1..=2).contains(&logins), "{logins}: {console}");
}

/// The ssh that keeps the connection of a kvmfw whose sockets are below the folder.
fn kept_by(sockets: &Path) -> String {
    let below = format!("\0-S\0{}/", sockets.display());
    let has = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&below))
    };
    let found: Vec<_> = fs::read_dir("/proc").unwrap().flatten().filter(has).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].file_name().into_string().unwrap()
}

/// Whoever ends a connection while a document runs: it is told that it was lost, and no word of its socket. A shell
/// that ends by itself, or is killed, has lost no connection.
#[test]
fn a_connection_that_is_lost() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], "modules: []");
    let keys = lab.disk(HOST, "/root/.ssh/authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    fs::write(keys, format!("command=\"exec sh /root/answer\" {key}")).unwrap();
    let runs = lab.disk(HOST, "/root/runs");
    let sockets = project.path().join("sockets");
    fs::create_dir(&sockets).unwrap();
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700)).unwrap();
    const HANGS: &str = "touch /root/runs; exec sleep 600";
    const HALF: &str = "printf '@kvmfw-'; touch /root/runs; exec sleep 600";
    const KILLED: &str = "touch /root/runs; kill -KILL $$";
    const NO_SH: &str = "touch /root/runs; echo 'sh: not found' >&2; exit 127";
    const LOST: (&str, &str) = ("lost", "the connection was lost");
    const CUT: (&str, &str) = ("bad-answer", "the host's answer is not complete: the connection was lost");
    const NOT_RUN: (&str, &str) = ("bad-answer", "the host's answer is not complete: sh: not found");
    let cases = [
        (HANGS, "ssh", LOST),
        (HANGS, "sshd", LOST),
        (HALF, "ssh", CUT),
        (HALF, "sshd", CUT),
        (KILLED, "", ("lost", "the shell on the host was killed")),
        (NO_SH, "", NOT_RUN),
    ];
    for (answer, dies, told) in cases {
        fs::write(lab.disk(HOST, "/root/answer"), answer).unwrap();
        let mut kvmfw = project.command(&lab, &["plan", "--format", "json"]);
        kvmfw.env("XDG_RUNTIME_DIR", &sockets).stdout(Stdio::piped()).stderr(Stdio::piped());
        let kvmfw = kvmfw.spawn().unwrap();
        until("the document runs", || runs.exists());
        match dies {
            "ssh" => drop(lab.exec(&["kill", "-KILL", &kept_by(&sockets)]).ok()),
            "sshd" => drop(lab.host(HOST, &["pkill", "-KILL", "-f", "^sshd: root"]).ok()),
            _ => {}
        }
        let json = end(kvmfw).expect(5).json();
        let host = host_of(&json, HOST);
        assert_eq!(
            (&host["reason"], &host["message"]),
            (&told.0.into(), &told.1.into()),
            "{answer}, {dies}: {host:#}"
        );
        fs::remove_file(&runs).unwrap();
    }
}

//! One host without an inventory: key, bridges, apply, and the inventory that says the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::{Project, Run};
use common::terminal::Terminal;
use std::process::Command;

const HOST: &str = "kvm1";

struct Bench {
    lab: Lab,
    project: Project,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::up();
        let project = Project::new(&lab, &[HOST], "modules: []");
        Self { lab, project }
    }

    fn known_hosts(&self) -> String {
        self.project.path().join("known_hosts").display().to_string()
    }

    fn bootstrap(&self, more: &[&str]) -> Run {
        let args = self.words("root", more);
        let words: Vec<&str> = args.iter().map(String::as_str).chain(["-y"]).collect();
        self.project.kvmfw(&self.lab, &words)
    }

    fn words(&self, login: &str, more: &[&str]) -> Vec<String> {
        let target = format!("{login}@{}", self.lab.address(HOST));
        let key = self.lab.dir().join("id_ed25519").display().to_string();
        let known = self.known_hosts();
        let fixed = ["bootstrap", &target, "--name", HOST, "--identity-file", &key, "--known-hosts", &known];
        fixed.iter().chain(&["--confirm-timeout", "5s"]).chain(more).map(|word| (*word).to_owned()).collect()
    }

    /// What ssh-keygen says of the key that the lab knows the host by.
    fn fingerprint(&self) -> String {
        let known = self.lab.dir().join("known_hosts");
        let output = Command::new("ssh-keygen")
            .args(["-l", "-F", &self.lab.address(HOST), "-f"])
            .arg(known)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let word = text.split_whitespace().find(|w| w.starts_with("SHA256:"));
        word.unwrap_or_else(|| panic!("no fingerprint in {text}")).to_owned()
    }

    /// Keeps what was printed as the inventory `prod`, and plans it.
    fn plan_of_what_was_printed(&self, run: &Run) -> Run {
        // Nothing else is on stdout, so that it can be redirected into a file.
        let yaml = &run.stdout;
        assert!(yaml.starts_with("# yaml-language-server: $schema=../schema/inventory.json\n"), "{yaml}");
        self.project.write("inventories/prod.yaml", yaml);
        self.project.kvmfw(&self.lab, &["plan", "-i", "prod", "--detailed-exitcode"])
    }
}

const FIREWALL: [&str; 6] =
    ["-m", "host-firewall", "-m", "bridge-accept-each", "--param", "host-firewall.allow_tcp=22,16514"];

#[test]
fn a_host_from_nothing() {
    if !common::require_root() {
        return;
    }
    let bench = Bench::new();
    let before = bench.lab.dump(HOST);
    let fingerprint = bench.fingerprint();

    // Nobody has said that the key is right: not even --yes can.
    let run = bench.bootstrap(&FIREWALL).expect(7);
    assert!(run.stderr.contains(&format!("--host-key-fingerprint {fingerprint}")), "{}", run.stderr);
    // Nor is there anybody to ask where there is no terminal, and --yes would not help.
    let words = bench.words("root", &FIREWALL);
    let run =
        bench.project.kvmfw(&bench.lab, &words.iter().map(String::as_str).collect::<Vec<_>>()).expect(7);
    assert!(run.stderr.contains(&format!("--host-key-fingerprint {fingerprint}")), "{}", run.stderr);
    assert!(!run.stderr.contains("--yes"), "{}", run.stderr);
    let wrong = [&FIREWALL[..], &["--host-key-fingerprint", "SHA256:AAAA"]].concat();
    let run = bench.bootstrap(&wrong).expect(7);
    assert!(run.stderr.contains("nothing was changed"), "{}", run.stderr);
    assert!(
        !std::path::Path::new(&bench.known_hosts()).exists(),
        "a key was written down that nobody trusts"
    );
    common::same(&before, &bench.lab.dump(HOST), "nothing was to be done");

    let right = [&FIREWALL[..], &["--host-key-fingerprint", &fingerprint]].concat();
    let run = bench.bootstrap(&right).expect(0);
    assert!(run.stderr.contains("br123 (eth1 vnet0 vnet1)"), "the bridge is not proposed: {}", run.stderr);
    let live = bench.lab.host(HOST, &["iptables-save"]).ok();
    for rule in ["--dport 16514 -j ACCEPT", "-A KVMFW-FORWARD -i br123 -o br123 -j ACCEPT"] {
        assert!(live.contains(rule), "{rule} is not in\n{live}");
    }
    assert!(bench.lab.guest_ping(HOST, "g0", "192.168.1.2"), "guests are dark");
    bench.plan_of_what_was_printed(&run).expect(0);

    // The key is known now, and what was there stays.
    let run = bench.bootstrap(&["-m", "firewall-log"]).expect(0);
    let live = bench.lab.host(HOST, &["iptables-save"]).ok();
    assert!(live.contains("-j LOG") && live.contains("--dport 16514 -j ACCEPT"), "{live}");
    bench.plan_of_what_was_printed(&run).expect(0);
    let again = bench.bootstrap(&["-m", "firewall-log"]).expect(0);
    assert_eq!(run.stdout, again.stdout);

    // The inventory takes it with its next change; a bootstrap then keeps off.
    let path = bench.project.path().join("inventories/prod.yaml");
    let prod = std::fs::read_to_string(path).unwrap().replace("16514", "16515");
    bench.project.write("inventories/prod.yaml", &prod);
    bench.project.kvmfw(&bench.lab, &["apply", "-i", "prod", "-y"]).expect(0);
    let run = bench.bootstrap(&["-m", "bridge-bypass"]).expect(7);
    assert!(run.stdout.contains("managed by inventory `prod`"), "{}", run.stdout);

    bench.project.kvmfw(&bench.lab, &["undo", "-i", "prod", "--to", "0", "-y"]).expect(0);
    common::same(&before, &bench.lab.dump(HOST), "after undo --to 0");
}

#[test]
fn bad_input_is_reported_before_any_prompt() {
    if !common::require_root() {
        return;
    }
    let bench = Bench::new();
    for (args, words) in [
        (&["-m", "host-firewal"][..], "did you mean `host-firewall`?"),
        (&["-m", "host-firewall", "--param", "host-firewall.allow_tcp=ssh"], "allow_tcp"),
        (&["-m", "host-firewall", "--param", "host-firewall.allow=22"], "available: allow_tcp"),
        (&["-m", "host-firewall", "--param", "22"], "write MODULE.PARAM=VALUE"),
    ] {
        let run = bench.bootstrap(args).expect(3);
        assert!(run.stderr.contains(words), "{args:?}: {}", run.stderr);
    }
    let fingerprint = bench.fingerprint();
    let no_bridge = ["-m", "bridge-accept-each", "--bridge", "br9", "--host-key-fingerprint", &fingerprint];
    let run = bench.bootstrap(&no_bridge).expect(3);
    assert!(run.stderr.contains("the host has no bridge `br9`; its bridges: br123"), "{}", run.stderr);
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    if !common::require_root() {
        return;
    }
    let bench = Bench::new();
    std::fs::remove_file(bench.lab.disk(HOST, "/etc/alternatives/iptables-save")).unwrap();
    std::fs::remove_file(bench.lab.disk(HOST, "/etc/alternatives/ip6tables-save")).unwrap();
    let fingerprint = bench.fingerprint();
    let run = bench.bootstrap(&["-m", "host-firewall", "--host-key-fingerprint", &fingerprint]).expect(7);
    assert!(run.stdout.contains("install it: apt-get install iptables"), "{}", run.stdout);
}

#[test]
fn an_absent_host() {
    if !common::require_root() {
        return;
    }
    let bench = Bench::new();
    bench.lab.power_cut(HOST);
    bench.bootstrap(&["-m", "host-firewall"]).expect(5);
    let run = bench.bootstrap(&["-m", "host-firewall", "--host-key-fingerprint", "SHA256:AAAA"]).expect(5);
    assert!(run.stderr.contains("10.99.0.11"), "{}", run.stderr);
}

/// Question by question, as a person sees it; and a login that is not root.
#[test]
fn the_operator_is_asked_for_key_bridges_and_plan() {
    if !common::require_root() {
        return;
    }
    let bench = Bench::new();
    let fingerprint = bench.fingerprint();
    let start = || {
        let args = bench.words("admin", &FIREWALL);
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        Terminal::start(bench.project.command(&bench.lab, &words))
    };
    let mut terminal = start();
    terminal.sees(&format!("unknown host key ED25519 {fingerprint}"));
    terminal.type_line("n");
    assert_eq!(terminal.end().0, 7);
    assert!(!std::path::Path::new(&bench.known_hosts()).exists(), "a key was kept that was declined");

    let sudoers = bench.lab.disk(HOST, "/etc/sudoers.d/admin");
    let may = std::fs::read_to_string(&sudoers).unwrap();
    std::fs::write(&sudoers, may.replace("NOPASSWD: ", "")).unwrap();
    let mut terminal = start();
    terminal.sees("Is this the key of the host? [y/N]");
    terminal.type_line("y");
    let (code, screen) = terminal.end();
    assert!(code == 7 && screen.contains("sudo: a password is required"), "{code} {screen}");

    std::fs::write(&sudoers, may).unwrap();
    let mut terminal = start();
    terminal.sees("Bridges on the host: br123 (eth1 vnet0 vnet1)");
    terminal.type_line("y");
    terminal.sees("Apply to 1 of 1 host? [y/N]");
    terminal.type_line("y");
    let (code, screen) = terminal.end();
    assert!(code == 0 && screen.contains("ssh: { user: admin, become: sudo"), "{code} {screen}");
    assert!(
        !screen.contains("verify the key, then accept it"),
        "the question is the next step, not: {screen}"
    );
}

/// Strict sshds ban an address that connects and does not log in: that happens once where the key is not known, and not at
/// all where it is.
#[test]
fn the_host_key_is_asked_for_once() {
    if !common::require_root() {
        return;
    }
    let bench = Bench::new();
    let fingerprint = bench.fingerprint();
    std::fs::write(bench.lab.disk(HOST, "/etc/ssh/sshd_config.d/test.conf"), "LogLevel VERBOSE\n").unwrap();
    bench.lab.reboot(HOST);
    let count = |what: &str| bench.lab.console(HOST).matches(what).count();
    let asked = || count("Connection closed by authenticating user");
    let words = ["-m", "firewall-log"];
    let right = ["-m", "firewall-log", "--host-key-fingerprint", &fingerprint];
    let start = asked();
    bench.bootstrap(&words).expect(7);
    assert_eq!(asked() - start, 1, "to tell the fingerprint: {}", bench.lab.console(HOST));
    let start = asked();
    bench.bootstrap(&right).expect(0);
    assert_eq!(asked() - start, 1, "to compare it: {}", bench.lab.console(HOST));
    // Known by name, hashed or not; with and without the fingerprint; by an authority.
    let (start, logins) = (asked(), count("Accepted publickey"));
    bench.bootstrap(&words).expect(0);
    let once = count("Accepted publickey") - logins;
    let hashed = Command::new("ssh-keygen").args(["-q", "-H", "-f", &bench.known_hosts()]).output().unwrap();
    assert!(hashed.status.success());
    bench.bootstrap(&right).expect(0);
    assert_eq!(asked(), start, "{}", bench.lab.console(HOST));
    assert_eq!(count("Accepted publickey") - logins, 2 * once, "{}", bench.lab.console(HOST));
    // A wrong one is compared with what the host shows, and not with what is known here.
    let wrong = ["-m", "firewall-log", "--host-key-fingerprint", "SHA256:AAAA"];
    let run = bench.bootstrap(&wrong).expect(7);
    assert!(
        run.stderr.contains(&format!("{fingerprint}, not SHA256:AAAA; nothing was changed")),
        "{}",
        run.stderr
    );
}

/// Whatever the umask is: what tells how hosts are guarded is for its owner, what is made to be handed on for everybody.
#[test]
fn modes_of_files_do_not_depend_on_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    if !common::require_root() {
        return;
    }
    let bench = Bench::new();
    let fingerprint = bench.fingerprint();
    let inventory = "sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n";
    for umask in ["000", "077"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| folder.path().join(name);
        let word = |name: &str| at(name).display().to_string();
        let run = |args: &[&str]| {
            let kvmfw = bench.project.command(&bench.lab, args);
            let mut command = bench.lab.exec_command("sh");
            command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(kvmfw.get_program());
            command
                .args(kvmfw.get_args())
                .env("KVMFW_RUN_DIR", at("state/runs"))
                .stdin(std::process::Stdio::null());
            let output = command.output().unwrap();
            assert_eq!(
                output.status.code(),
                Some(0),
                "{args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        bench.project.all(inventory);
        run(&["plan", "-o", &word("saved"), "--junit", &word("plan.xml")]);
        run(&["apply", "-y", "--junit", &word("apply.xml")]);
        run(&["undo", "--to", "0", "-y"]);
        run(&["generate", "schema", "-o", &word("made/schema")]);
        let mut words = bench.words("root", &["-m", "firewall-log", "--host-key-fingerprint", &fingerprint]);
        let known = words.iter().position(|word| *word == bench.known_hosts()).unwrap();
        words[known] = word("home/.ssh/known_hosts");
        run(&words.iter().map(String::as_str).chain(["-y"]).collect::<Vec<_>>());
        run(&["undo", "--to", "0", "-y"]);
        let mut seen = 0;
        let mut folders = vec![folder.path().to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).unwrap().flatten() {
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                let shared = path.extension().is_some_and(|e| e == "xml") || path.starts_with(at("made"));
                let wanted = match (meta.is_dir(), shared) {
                    (true, true) => 0o755,
                    (true, false) => 0o700,
                    (false, true) => 0o644,
                    (false, false) => 0o600,
                };
                assert_eq!(meta.permissions().mode() & 0o7777, wanted, "umask {umask}: {}", path.display());
                if meta.is_dir() {
                    folders.push(path);
                }
                seen += 1;
            }
        }
        assert!(seen > 15, "{seen}");
    }
}

//! A host that boots, and kvmfw beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/boots");

/// Whether these tests are wanted. Once they are, whatever is missing is a failure.
pub fn asked_for() -> bool {
    if std::env::var("KVMFW_BOOTS").is_ok_and(|v| v == "1") {
        return true;
    }
    // Not eprint!, which the test runner captures.
    let line = b"\nNIGHTLY: not run, real boots belong to .ci/nightly; run me with KVMFW_BOOTS=1\n";
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
    false
}

/// A host with a disk of its own. Dropping it takes it away.
pub struct Machine {
    image: PathBuf,
    folder: tempfile::TempDir,
    controller: String,
    running: Option<Child>,
}

#[track_caller]
fn ok(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

impl Machine {
    /// A host on which these units are enabled, not yet booted.
    pub fn new(units: &[&str]) -> Self {
        let built =
            Command::new("sh").arg(format!("{HERE}/../image.sh")).stderr(Stdio::inherit()).output().unwrap();
        let image = PathBuf::from(ok(built).trim());
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("bash")
            .args([&format!("{HERE}/machine.sh"), "make"])
            .arg(folder.path())
            .arg(image.join("root"))
            .output()
            .unwrap();
        ok(made);
        let controller = fs::read_to_string(folder.path().join("controller")).unwrap().trim().to_owned();
        let machine = Self { image, folder, controller, running: None };
        for (target, unit) in
            [("multi-user", "networking"), ("network-online", "networking"), ("multi-user", "guests")]
        {
            let wants = machine.path(&format!("etc/systemd/system/{target}.target.wants/{unit}.service"));
            fs::remove_file(wants).unwrap();
        }
        machine.write(
            "etc/network/interfaces",
            "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n",
        );
        for unit in units {
            let wants = machine.path("etc/systemd/system/multi-user.target.wants");
            fs::create_dir_all(&wants).unwrap();
            std::os::unix::fs::symlink(
                format!("/lib/systemd/system/{unit}.service"),
                wants.join(format!("{unit}.service")),
            )
            .unwrap();
        }
        let key = fs::read_to_string(machine.image.join("host_key")).unwrap();
        fs::write(machine.folder.path().join("known_hosts"), format!("10.98.0.2 {key}")).unwrap();
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("disk/root").join(path)
    }

    /// Writes a file of the host's own, for root alone as some want it.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let mode = if path.to_str().unwrap().contains("networkd") { 0o644 } else { 0o600 };
        let mode = if path.to_str().unwrap().contains("etc/systemd") { 0o644 } else { mode };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The words of the group `all` beside `ssh:`.
    pub fn all(&self, words: &str) {
        let (folder, key) = (self.folder.path().display(), self.image.join("id"));
        let words: String = words.lines().map(|line| format!("    {line}\n")).collect();
        fs::create_dir_all(self.folder.path().join("inventories")).unwrap();
        let text = format!(
            "hosts:\n  kvm: {{ address: 10.98.0.2 }}\ngroups:\n  all:\n    ssh: {{ user: root, identity_file: {}, \
             known_hosts: {folder}/known_hosts, connect_timeout: 10s }}\n{words}",
            key.display()
        );
        fs::write(self.folder.path().join("inventories/lab.yaml"), text).unwrap();
    }

    /// Boots it, and returns when its sshd answers.
    pub fn boot(&mut self) {
        let console =
            fs::File::options().create(true).append(true).open(self.folder.path().join("console")).unwrap();
        let child = Command::new("bash")
            .args([&format!("{HERE}/machine.sh"), "boot"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        self.running = Some(child);
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let answer = self
                .beside("ssh-keyscan")
                .args(["-T", "1", "-t", "ed25519", "10.98.0.2"])
                .stderr(Stdio::null())
                .output()
                .unwrap();
            if !answer.stdout.is_empty() {
                return;
            }
            let console = fs::read_to_string(self.folder.path().join("console")).unwrap_or_default();
            let ended = self.running.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "no boot: {console}{}", self.look());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the host says of itself, for a test that failed.
    fn look(&self) -> String {
        let script = "ip -br address; ip route; systemctl --failed --no-pager; journalctl --no-pager -n 60";
        self.enter(script).map_or_else(String::new, |o| String::from_utf8_lossy(&o.stdout).into_owned())
    }

    /// A command where the controller stands.
    fn beside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.controller, program]).stdin(Stdio::null());
        command
    }

    fn leader(&self) -> Option<String> {
        let nspawn = self.running.as_ref()?.id();
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    }

    fn enter(&self, script: &str) -> Option<Output> {
        let leader = self.leader()?;
        Command::new("nsenter")
            .args(["-t", &leader, "-m", "-n", "-p", "-u", "-i", "sh", "-ec", script])
            .stdin(Stdio::null())
            .output()
            .ok()
    }

    /// Runs a script on the host, past its network.
    #[track_caller]
    pub fn on_host(&self, script: &str) -> String {
        ok(self.enter(script).expect("the host runs"))
    }

    /// Runs kvmfw to a good end.
    #[track_caller]
    pub fn kvmfw(&self, args: &[&str]) -> String {
        self.kvmfw_ends(args, 0)
    }

    /// What kvmfw says, after a check of its exit code.
    #[track_caller]
    pub fn kvmfw_ends(&self, args: &[&str], code: i32) -> String {
        let output = self
            .beside(env!("CARGO_BIN_EXE_kvmfw"))
            .args(args)
            .args(["-C", self.folder.path().to_str().unwrap(), "--color", "never"])
            .env("KVMFW_RUN_DIR", self.folder.path().join("runs"))
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}\n{}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.look()
        );
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Takes the power from it.
    pub fn power_cut(&mut self) {
        if let Some(leader) = self.leader() {
            let _ = Command::new("kill").args(["-KILL", &leader]).status();
        }
        if let Some(mut child) = self.running.take() {
            let _ = child.wait();
        }
    }

    /// Pulls the cable of eth0, waits until the host has seen it, and plugs it in again.
    pub fn pull_and_plug(&self) {
        let set = |state: &str| {
            let status =
                Command::new("ip").args(["-n", &self.controller, "link", "set", "h0", state]).status();
            assert!(status.unwrap().success());
        };
        set("down");
        self.becomes("pulled", "carrier", |m| m.on_host("cat /sys/class/net/eth0/carrier"), "0\n");
        // NetworkManager acts on a cable only once it was out for some seconds, and on links that it only
        // watches (100 (connected (externally))) never.
        let seen = "if [ -d /run/NetworkManager/devices ] && nmcli -g GENERAL.STATE device show eth0 | grep -qx '100 (connected)'; \
                    then echo connected; else echo away; fi";
        self.becomes("pulled", "eth0 for NetworkManager", |m| m.on_host(seen), "away\n");
        set("up");
        let status = Command::new("ip")
            .args(["-n", &self.controller, "address", "replace", "fd98::1/64", "dev", "h0", "nodad"])
            .status();
        assert!(status.unwrap().success());
        self.becomes("plugged in", "carrier", |m| m.on_host("cat /sys/class/net/eth0/carrier"), "1\n");
    }

    /// Addresses that are not of the link alone, by link.
    pub fn addresses(&self) -> String {
        self.on_host("ip -o address show scope global | awk '{ print $2, $4 }' | sort")
    }

    /// All default routes of IPv4, less what says who made them and how.
    pub fn default_routes(&self) -> String {
        self.on_host("ip -o -4 route show default | sed 's/ proto.*//; s/ metric.*//; s/ onlink//; s/ *$//'")
    }

    /// Links, addresses, routes, and the files that kvmfw has for those who configure them.
    pub fn network(&self) -> String {
        self.on_host(
            "ls /sys/class/net; ip -o address show scope global | awk '{ print $2, $4 }' | sort
             { ip -o route; ip -o -6 route; } | sed 's/ linkdown//; s/ metric [0-9]*/ metric/; /^fe80/d' | sort
             for bridge in /sys/class/net/*/bridge; do
                 [ ! -e $bridge ] || echo $bridge $(cat $bridge/stp_state $bridge/ageing_time $bridge/../address) $(ls $bridge/../brif)
             done
             for file in $(find /etc/systemd /etc/NetworkManager /etc/netplan /etc/network /run/systemd/network -name '*kvmfw*' ! -type d | sort); do
                 echo $file; cat $file
             done",
        )
    }

    /// STP, ageing, the own switch for iptables and the address of the bridge.
    pub fn bridge(&self) -> String {
        self.on_host(
            "cd /sys/class/net/brmgmt && echo $(cat bridge/stp_state bridge/ageing_time bridge/nf_call_iptables address)",
        )
    }

    /// Waits until something is so, and then for a second that it stays.
    #[track_caller]
    pub fn becomes(&self, when: &str, what: &str, look: impl Fn(&Self) -> String, expected: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        let mut since: Option<Instant> = None;
        loop {
            let now = look(self);
            if now == expected {
                if since.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(1) {
                    return;
                }
            } else {
                since = None;
            }
            assert!(Instant::now() < end, "{when}: {what}: {now}instead of: {expected}\n{}", self.look());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_cut();
        let _ = Command::new("bash")
            .args([&format!("{HERE}/machine.sh"), "down"])
            .arg(Path::new(self.folder.path()))
            .status();
    }
}

//! A machine that really boots, whatever it is made of, and a kvmfw project for it.

use crate::common;
use crate::common::transaction::wait;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What a machine is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// qemu, all hardware emulated: an own kernel with modules, an own clock, a disk that loses what was
    /// not synced.
    Emulated,
    /// systemd-nspawn: an own systemd on the kernel that is there. Boots in a second.
    Container,
    /// The same, and the packages netfilter-persistent and iptables-persistent are not installed.
    ContainerWithoutNetfilterPersistent,
}

/// A machine with a disk of its own. Dropping it is a power cut for good.
pub struct Machine {
    kind: Kind,
    image: PathBuf,
    folder: tempfile::TempDir,
    name: String,
    port: u16,
    process: Child,
    boots: usize,
    _alone: Option<MutexGuard<'static, ()>>,
}

/// One emulated machine at a time: two on the same cores are so slow that kvmfw gives them up.
static EMULATOR: Mutex<()> = Mutex::new(());

/// Whether machines can be booted here; see [`common::require_root`] for what happens if not.
pub fn require_machines() -> bool {
    common::require_root() && common::require_tools(&["mmdebstrap", "mke2fs", "chroot"])
}

/// The same, for the matrix: whole minutes on emulated hardware belong to .ci/nightly.
pub fn require_night() -> bool {
    if std::env::var("KVMFW_VM").is_ok_and(|v| v == "1") {
        return require_machines();
    }
    common::tell("\nNIGHTLY: not run, emulated machines belong to .ci/nightly; run me with KVMFW_VM=1");
    false
}

/// The folder that image.sh fills, once.
fn image() -> PathBuf {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let built = Command::new("sh").arg(script("../image.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(built.status.success(), "tests/image.sh: {}", built.status);
        PathBuf::from(String::from_utf8(built.stdout).unwrap().trim())
    };
    IMAGE.get_or_init(build).clone()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm").join(name)
}

impl Machine {
    pub fn boot(kind: Kind) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let image = image();
        let alone = (kind == Kind::Emulated).then(|| EMULATOR.lock().unwrap_or_else(PoisonError::into_inner));
        let folder = tempfile::tempdir().unwrap();
        let name = format!("kvmfw-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let port = match kind {
            Kind::Emulated => {
                let disk = [image.join("disk.img"), folder.path().join("disk")];
                assert!(Command::new("cp").arg("--sparse=always").args(disk).status().unwrap().success());
                TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
            }
            _ => 22,
        };
        let key = fs::read_to_string(image.join("host_key")).unwrap();
        let known = match kind {
            Kind::Emulated => format!("[127.0.0.1]:{port} {key}"),
            _ => format!("10.0.2.15 {key}"),
        };
        fs::write(folder.path().join("known_hosts"), known).unwrap();
        fs::create_dir(folder.path().join("inventories")).unwrap();
        let process = start(kind, &image, folder.path(), &name, port);
        let mut machine = Self { kind, image, folder, name, port, process, boots: 0, _alone: alone };
        machine.wait_for_boot();
        machine.all("modules: [bridge-bypass]\nbridges: { br123: { manage: false } }\n");
        machine
    }

    /// The words of the group `all` beside `ssh:`.
    pub fn all(&self, words: &str) {
        self.all_as("user: root", words);
    }

    /// The same, with another login.
    pub fn all_as(&self, login: &str, words: &str) {
        let folder = self.folder.path().display();
        let id = self.image.join("id");
        let ssh = format!(
            "{{ {login}, port: {}, identity_file: {}, known_hosts: {folder}/known_hosts, connect_timeout: 300s }}",
            self.port,
            id.display(),
        );
        let words: String = words.lines().map(|line| format!("    {line}\n")).collect();
        let text = format!(
            "hosts:\n  vm: {{ address: '{}' }}\ngroups:\n  all:\n    ssh: {ssh}\n{words}",
            self.address()
        );
        fs::write(self.folder.path().join("inventories/lab.yaml"), text).unwrap();
    }

    fn address(&self) -> &'static str {
        if self.kind == Kind::Emulated { "127.0.0.1" } else { "10.0.2.15" }
    }

    /// A program, run where the machine is next door.
    fn next_door(&self, program: &str) -> Command {
        if self.kind == Kind::Emulated {
            return Command::new(program);
        }
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.process.id().to_string(), "-n", "--", program]);
        command
    }

    /// A command on the machine, not yet run. The connection of the first is that of the next ones too: on
    /// emulated hardware each would take seconds.
    fn ssh(&self, login: &str, command: &str) -> Command {
        let folder = self.folder.path().display();
        let mut ssh = self.next_door("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=300",
            "-p",
            &self.port.to_string(),
        ])
        .args(["-o", "ControlMaster=auto", "-o", "ControlPersist=600"])
        .arg(format!("-oControlPath={folder}/{login}"))
        .arg(format!("-oUserKnownHostsFile={folder}/known_hosts"))
        .arg("-i")
        .arg(self.image.join("id"))
        .args([&format!("{login}@{}", self.address()), command])
        .stdin(Stdio::null());
        ssh
    }

    /// Ends the connection that the commands of a login share, and with it its session there.
    pub fn hang_up(&self, login: &str) {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none"]).arg(format!("-oControlPath={}/{login}", self.folder.path().display()));
        let _ = ssh.args(["-O", "exit", "there"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = fs::remove_file(self.folder.path().join(login));
    }

    /// What the command says, after a check that it succeeded.
    #[track_caller]
    pub fn sh(&self, command: &str) -> String {
        self.sh_as("root", command)
    }

    /// The same, as another user.
    #[track_caller]
    pub fn sh_as(&self, login: &str, command: &str) -> String {
        let out = self.ssh(login, command).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{command}: {}\n{err}", out.status);
        String::from_utf8(out.stdout).unwrap()
    }

    /// A command whose end nobody awaits: it may take its own connection with it.
    pub fn sh_and_gone(&self, login: &str, command: &str) {
        let _ = self.ssh(login, command).output().unwrap();
    }

    /// Waits on the machine until a shell condition holds.
    #[track_caller]
    pub fn until(&self, condition: &str) {
        self.sh(&format!("timeout 400 sh -c 'until {condition}; do sleep 0.2; done'"));
    }

    /// Starts kvmfw with the machine's project.
    pub fn spawn(&self, args: &[&str]) -> Child {
        // Another program can be put to the same tests.
        let program = std::env::var("KVMFW").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kvmfw").to_owned());
        self.next_door(&program)
            .args(args)
            .args(["-C", self.folder.path().to_str().unwrap(), "--color", "never"])
            .env("KVMFW_RUN_DIR", self.folder.path().join("runs"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What kvmfw says, after a check of its exit code.
    #[track_caller]
    pub fn kvmfw(&self, args: &[&str], code: i32) -> String {
        end(self.spawn(args), code)
    }

    /// What must hold after every boot: nothing is left to do, and the guests reach each other.
    #[track_caller]
    pub fn is_as_promised(&self) -> String {
        let plan = self.kvmfw(&["plan", "--detailed-exitcode"], 0);
        self.sh("ip netns exec g1 ping -c 1 -W 20 192.0.2.2");
        plan
    }

    /// The machine goes down in order, and comes again.
    pub fn reboot(&mut self) {
        // A connection that goes down with it is not closed by it.
        self.hang_up("root");
        self.sh_and_gone("root", "systemctl --no-block reboot");
        self.hang_up("root");
        if self.kind == Kind::Emulated {
            wait("the machine goes down", LONG, || self.process.try_wait().unwrap());
            self.process = start(self.kind, &self.image, self.folder.path(), &self.name, self.port);
        }
        self.wait_for_boot();
    }

    /// Its process is killed, and it comes again. Emulated, what was not synced is gone.
    pub fn power_cut(&mut self) {
        self.kill();
        self.process = start(self.kind, &self.image, self.folder.path(), &self.name, self.port);
        self.wait_for_boot();
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.hang_up("root");
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("console")).unwrap_or_default())
            .into_owned()
    }

    /// Until the console says that the last unit has started.
    fn wait_for_boot(&mut self) {
        let limit = if self.kind == Kind::Emulated { LONG } else { LONG / 10 };
        let end = Instant::now() + limit;
        while self.console().matches("guests are up").count() <= self.boots {
            assert!(
                self.process.try_wait().unwrap().is_none() && Instant::now() < end,
                "no boot: {}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.boots += 1;
    }
}

/// Emulated hardware on a machine that has other things to do as well.
const LONG: Duration = Duration::from_secs(900);

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        for top in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
            // Its last process may be dying still, though the one that we knew is gone.
            let (folder, end) = (Path::new(top).join(&self.name), Instant::now() + Duration::from_secs(10));
            while folder.exists() && !remove_cgroup(&folder) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Removes a cgroup that nothing is in any more, with those below it; whether it is gone.
fn remove_cgroup(folder: &Path) -> bool {
    for below in fs::read_dir(folder).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&below.path());
        }
    }
    fs::remove_dir(folder).is_ok()
}

fn start(kind: Kind, image: &Path, folder: &Path, name: &str, port: u16) -> Child {
    let console = fs::File::options().create(true).append(true).open(folder.join("console")).unwrap();
    let mut command = match kind {
        Kind::Emulated => emulated(image, folder, port),
        _ => container(image, folder, name, kind),
    };
    command.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console).spawn().unwrap()
}

fn container(image: &Path, folder: &Path, name: &str, kind: Kind) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"])
        .arg(script("container.sh"))
        .args([image, folder])
        .arg(name);
    if kind == Kind::ContainerWithoutNetfilterPersistent {
        command.arg("without-netfilter-persistent");
    }
    command
}

/// Its clock counts instructions: however busy this machine is, no timeout of that one comes early.
fn emulated(image: &Path, folder: &Path, port: u16) -> Command {
    let mut command = Command::new(image.join("qemu"));
    command
        .args(["-machine", "q35", "-accel", "tcg,thread=single", "-icount", "shift=2", "-cpu", "max"])
        .args(["-nodefaults", "-m", "1024", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", "console=ttyS0 root=/dev/vda rw quiet net.ifnames=0 mitigations=off"])
        .arg("-kernel")
        .arg(image.join("vmlinuz"))
        .arg("-initrd")
        .arg(image.join("initrd"))
        .args(["-drive", &format!("file={}/disk,if=virtio,format=raw", folder.display())])
        .args(["-netdev", &format!("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22")])
        .args(["-device", "virtio-net-pci,netdev=n0,romfile="]);
    command
}

/// What a kvmfw that was started said, after a check of its exit code.
#[track_caller]
pub fn end(child: Child, code: i32) -> String {
    let out = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "{text}");
    text
}

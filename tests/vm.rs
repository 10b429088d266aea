//! Real boots of a real kernel with modules, systemd and power cuts: a virtual machine per test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

mod vm {
    use super::common;
    use std::fs;
    use std::net::TcpListener;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    /// A machine with a disk of its own. Dropping it is a power cut for good.
    struct Machine {
        image: PathBuf,
        folder: tempfile::TempDir,
        port: u16,
        qemu: Child,
    }

    /// A machine takes minutes: these tests belong to .ci/nightly, which sets KVMFW_VM=1. Once that is
    /// set, whatever is missing is a failure.
    fn asked_for() -> bool {
        if std::env::var("KVMFW_VM").is_ok_and(|v| v == "1") {
            return true;
        }
        // Not eprint!, which the test runner captures.
        let line = b"\nNIGHTLY: not run, a virtual machine belongs to .ci/nightly; run me with KVMFW_VM=1\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        false
    }

    fn start(image: &Path, folder: &Path, port: u16) -> Child {
        let path = |name: &str| image.join(name).to_str().unwrap().to_owned();
        let console = fs::File::options().create(true).append(true).open(folder.join("console")).unwrap();
        Command::new("qemu-system-x86_64")
            .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-nographic", "-no-reboot", "-append", "console=ttyS0 root=/dev/vda rw"])
            .args(["-kernel", &path("vmlinuz"), "-initrd", &path("initrd")])
            .args(["-drive", &format!("file={}/disk,if=virtio,format=raw", folder.display())])
            .args(["-netdev", &format!("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22")])
            .args(["-device", "virtio-net-pci,netdev=n0,addr=2"])
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap()
    }

    impl Machine {
        fn boot() -> Self {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/image.sh");
            let built = Command::new("sh").arg(script).stderr(Stdio::inherit()).output().unwrap();
            assert!(built.status.success(), "tests/vm/image.sh: {}", built.status);
            let image = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim());
            let folder = tempfile::tempdir().unwrap();
            let made = Command::new("cp")
                .arg("--sparse=always")
                .args([image.join("disk.img"), folder.path().join("disk")])
                .status()
                .unwrap();
            assert!(made.success());
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let key = fs::read_to_string(image.join("host_key")).unwrap();
            fs::write(folder.path().join("known_hosts"), format!("[127.0.0.1]:{port} {key}")).unwrap();
            let inventory = format!(
                "hosts:\n  vm: {{ address: '127.0.0.1' }}\ngroups:\n  all:\n    ssh: {{ user: root, port: {port}, identity_file: {}, known_hosts: {}/known_hosts, connect_timeout: 60s }}\n    modules: [bridge-bypass]\n    bridges: {{ br123: {{ manage: false }} }}\n",
                image.join("id").display(),
                folder.path().display()
            );
            fs::create_dir(folder.path().join("inventories")).unwrap();
            fs::write(folder.path().join("inventories/lab.yaml"), inventory).unwrap();
            let qemu = start(&image, folder.path(), port);
            let mut machine = Self { image, folder, port, qemu };
            machine.wait();
            machine
        }

        fn ssh(&self, command: &str) -> Command {
            let mut ssh = Command::new("ssh");
            ssh.args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=30",
                "-p",
                &self.port.to_string(),
            ])
            .arg(format!("-oUserKnownHostsFile={}/known_hosts", self.folder.path().display()))
            .arg("-i")
            .arg(self.image.join("id"))
            .args(["root@127.0.0.1", command])
            .stdin(Stdio::null());
            ssh
        }

        /// Until the machine has booted to its end.
        fn wait(&mut self) {
            let end = Instant::now() + Duration::from_secs(400);
            loop {
                let ready = self.ssh("systemctl is-active guests.service").output().unwrap();
                if ready.status.success() {
                    return;
                }
                let console = fs::read_to_string(self.folder.path().join("console")).unwrap_or_default();
                assert!(
                    self.qemu.try_wait().unwrap().is_none() && Instant::now() < end,
                    "no boot: {console}"
                );
            }
        }

        #[track_caller]
        fn sh(&self, command: &str) -> String {
            let out = self.ssh(command).output().unwrap();
            let err = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{command}: {}\n{err}", out.status);
            String::from_utf8(out.stdout).unwrap()
        }

        #[track_caller]
        fn kvmfw(&self, args: &[&str], code: i32) -> String {
            let out = Command::new(env!("CARGO_BIN_EXE_kvmfw"))
                .args(args)
                .args(["-C", self.folder.path().to_str().unwrap(), "--color", "never"])
                .env("KVMFW_RUN_DIR", self.folder.path().join("runs"))
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let text =
                format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
            text
        }

        /// The process is killed: what was not synced is gone.
        fn power_cut(&mut self) {
            self.qemu.kill().unwrap();
            self.qemu.wait().unwrap();
            self.qemu = start(&self.image, self.folder.path(), self.port);
            self.wait();
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = self.qemu.kill();
            let _ = self.qemu.wait();
        }
    }

    const VALUES: &str = "cat /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables /proc/sys/net/bridge/bridge-nf-call-arptables";
    const NO_MODULE: &str = "test ! -e /proc/sys/net/bridge";
    const BY_HAND: &str = "iptables -A FORWARD -m physdev --physdev-is-bridged -j ACCEPT && udevadm settle";

    /// The trap first: a plain file in sysctl.d does not hold. Then what kvmfw does instead, which
    /// lasts through a rule by hand and a power cut.
    #[test]
    fn bypass_lasts_when_the_module_comes_later() {
        if !asked_for() {
            return;
        }
        let mut vm = Machine::boot();
        vm.sh(NO_MODULE);
        vm.sh("echo net.bridge.bridge-nf-call-iptables=0 >/etc/sysctl.d/90-trap.conf && systemctl restart systemd-sysctl");
        vm.sh(BY_HAND);
        assert_eq!(
            vm.sh(VALUES).lines().next(),
            Some("1"),
            "the trap: the file is there and the value is not"
        );
        vm.sh("rm /etc/sysctl.d/90-trap.conf && iptables -F FORWARD && rmmod xt_physdev br_netfilter");
        vm.sh(NO_MODULE);

        vm.kvmfw(&["apply", "-y"], 0);
        vm.sh(NO_MODULE);
        vm.kvmfw(&["plan", "--detailed-exitcode"], 0);
        vm.sh(BY_HAND);
        assert_eq!(vm.sh(VALUES), "0\n0\n0\n");

        vm.power_cut();
        vm.sh(NO_MODULE);
        vm.kvmfw(&["plan", "--detailed-exitcode"], 0);
        vm.sh(BY_HAND);
        assert_eq!(vm.sh(VALUES), "0\n0\n0\n");
        vm.sh("ip netns exec g1 ping -c 1 -W 10 192.0.2.2");
    }
}

//! Real boots of a real kernel with modules, systemd and power cuts: a virtual machine per test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod vm {
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
            fs::create_dir(folder.path().join("inventories")).unwrap();
            let qemu = start(&image, folder.path(), port);
            let mut machine = Self { image, folder, port, qemu };
            machine.wait();
            machine.all("modules: [bridge-bypass]\nbridges: { br123: { manage: false } }\n");
            machine
        }

        /// The words of the group `all` beside `ssh:`.
        fn all(&self, words: &str) {
            let folder = self.folder.path().display();
            let ssh = format!(
                "{{ user: root, port: {}, identity_file: {}, known_hosts: {folder}/known_hosts, connect_timeout: 60s }}",
                self.port,
                self.image.join("id").display(),
            );
            let words: String = words.lines().map(|line| format!("    {line}\n")).collect();
            let text =
                format!("hosts:\n  vm: {{ address: '127.0.0.1' }}\ngroups:\n  all:\n    ssh: {ssh}\n{words}");
            fs::write(self.folder.path().join("inventories/lab.yaml"), text).unwrap();
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

        fn spawn(&self, args: &[&str]) -> Child {
            Command::new(env!("CARGO_BIN_EXE_kvmfw"))
                .args(args)
                .args(["-C", self.folder.path().to_str().unwrap(), "--color", "never"])
                .env("KVMFW_RUN_DIR", self.folder.path().join("runs"))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        }

        #[track_caller]
        fn kvmfw(&self, args: &[&str], code: i32) -> String {
            end(self.spawn(args), code)
        }

        /// An apply that is in its window: its check waits for /run/go. And the id of the transaction.
        #[track_caller]
        fn window(&self, port: u16) -> (Child, String) {
            self.all(&opened(port));
            let kvmfw = self.spawn(&["apply", "-y", "--apply-timeout", "120s", "--confirm-timeout", "120s"]);
            self.sh("timeout 200 sh -c 'until [ -e /var/lib/kvmfw/open/applied ]; do sleep 1; done'");
            let id = self.sh("basename $(readlink /var/lib/kvmfw/open)").trim().to_owned();
            (kvmfw, id)
        }

        /// The machine goes down in order, and comes again.
        fn reboot(&mut self) {
            // The connection may break before its answer.
            let _ = self.ssh("systemctl reboot").output().unwrap();
            let end = Instant::now() + Duration::from_secs(200);
            while self.qemu.try_wait().unwrap().is_none() {
                assert!(Instant::now() < end, "the machine does not go down");
                std::thread::sleep(Duration::from_millis(100));
            }
            self.qemu = start(&self.image, self.folder.path(), self.port);
            self.wait();
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

    /// What a kvmfw that was started said, after a check of its exit code.
    #[track_caller]
    fn end(child: Child, code: i32) -> String {
        let out = child.wait_with_output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(code), "{text}");
        text
    }

    /// A firewall with one extra port, and a check that waits once it is armed, not before the change.
    fn opened(port: u16) -> String {
        format!(
            "modules: [bridge-bypass, host-firewall]\nbridges: {{ br123: {{ manage: false }} }}\nparams: {{ host-firewall: {{ allow_tcp: [22, {port}] }} }}\nchecks: [{{ command: '[ ! -e /var/lib/kvmfw/open ] || until [ -e /run/go ]; do sleep 1; done', timeout: 200s }}]\n"
        )
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

    /// The guard is a unit of systemd: it lasts through a daemon-reload, comes again after kill -9, and
    /// where the host is rebooted or loses power in the window, the boot puts the old rules back.
    #[test]
    fn systemd_reboot_and_power_cut_in_the_window() {
        if !asked_for() {
            return;
        }
        let mut vm = Machine::boot();
        let (kvmfw, id) = vm.window(80);
        let pid = format!("systemctl show -p MainPID --value kvmfw-{id}.service");
        let first = vm.sh(&pid);
        assert_ne!(first.trim(), "0", "no guard");
        vm.sh("systemctl daemon-reload");
        assert_eq!(vm.sh(&pid), first, "the guard did not last through a daemon-reload");
        vm.sh(&format!(
            "kill -9 {0} && timeout 100 sh -c 'until p=$({pid}) && [ \"$p\" != 0 ] && [ \"$p\" != {0} ]; do sleep 1; done'",
            first.trim()
        ));
        vm.sh("touch /run/go");
        end(kvmfw, 0);
        vm.kvmfw(&["plan", "--detailed-exitcode"], 0);
        vm.sh("test ! -e /var/lib/kvmfw/open");

        for power in [false, true] {
            vm.sh("rm -f /run/go");
            let (mut kvmfw, id) = vm.window(81);
            // Nobody is there to confirm; a host that comes again ends it alone.
            kvmfw.kill().unwrap();
            kvmfw.wait().unwrap();
            assert!(vm.sh("iptables-save").contains("--dport 81"), "not in the window");
            if power {
                vm.power_cut()
            } else {
                vm.reboot()
            }
            let done = vm.sh(&format!("cat /var/lib/kvmfw/txn/{id}/done"));
            assert!(done.starts_with("rolled_back"), "power cut {power}: {done}");
            let live = vm.sh("iptables-save");
            assert!(live.contains("--dport 80") && !live.contains("--dport 81"), "power cut {power}: {live}");
            vm.kvmfw(&["plan", "--detailed-exitcode"], 2);
        }
    }

    /// A VLAN sub-interface, with the dot in its name, as port of a bridge: there again after a boot.
    #[test]
    fn vlan_sub_interface_is_a_port() {
        if !asked_for() {
            return;
        }
        let mut vm = Machine::boot();
        vm.sh("printf 'auto eth1\niface eth1 inet manual\n\tpre-up ip link add eth1 type dummy\nauto eth1.123\niface eth1.123 inet manual\n\tvlan-raw-device eth1\n' >>/etc/network/interfaces && ifup eth1 eth1.123");
        vm.all("bridges: { br9: { ports: [eth1.123], addresses: ['198.51.100.1/24'], stp: false } }\n");
        let is_port = "ip -o link show master br9";
        for boot in [false, true] {
            if boot {
                vm.power_cut();
            } else {
                vm.kvmfw(&["apply", "-y"], 0);
            }
            assert!(vm.sh(is_port).contains("eth1.123@eth1"), "after a boot {boot}: {}", vm.sh(is_port));
            vm.sh("ip -o -4 address show br9 | grep -F 198.51.100.1/24");
            vm.kvmfw(&["plan", "--detailed-exitcode"], 0);
        }
    }
}

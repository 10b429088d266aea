"""Ansible and pyinfra on the benchmark's lab, doing the same work as kvmfw: those of them that are installed."""

import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent / "peers"
PROGRAMS = {"ansible": "ansible-playbook", "pyinfra": "pyinfra"}
# What the peers leave on a host; the next contender finds it as it was.
RESET = """
for six in iptables ip6tables; do
    $six -t filter -F; $six -t filter -X
    for chain in INPUT FORWARD OUTPUT; do $six -P $chain ACCEPT; done
done
rm -f /etc/sysctl.d/60-bridge.conf /etc/network/interfaces.d/br123 /etc/iptables.rules.v4 /etc/iptables.rules.v6
"""


def installed():
    """Names of the peers whose programs are there."""
    return [name for name, program in PROGRAMS.items() if shutil.which(program)]


def appended(text):
    """The rules of what iptables-save prints, without counters and policies."""
    return [line for line in text.splitlines() if line.startswith("-A")]


class Peers:
    """The files that the peers want, made from the lab."""

    def __init__(self, lab, hosts):
        self.lab, self.folder = lab, lab.folder / "peers"
        self.rules = self.folder / "rules"
        self.rules.mkdir(parents=True)
        self.sysctls = self.host(1, "sysctl -e net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables net.bridge.bridge-nf-call-arptables")
        names = [f"kvm{n}" for n in range(1, hosts + 1)]
        ssh = f"-F {lab.dir}/ssh_config"
        (self.folder / "hosts.ini").write_text(
            "".join(f"{name} ansible_host={lab.address(n + 1)}\n" for n, name in enumerate(names))
            + f"[all:vars]\nansible_user=root\nansible_python_interpreter=/usr/bin/python3\nansible_ssh_private_key_file={lab.dir}/id_ed25519\n"
            + f"ansible_ssh_common_args='{ssh}'\nrules={self.rules}\n"
        )
        (self.folder / "ansible.cfg").write_text(
            "[defaults]\nforks = 50\nhost_key_checking = True\n[ssh_connection]\npipelining = True\n"
            + f"ssh_args = -o ControlMaster=auto -o ControlPersist=60s\ncontrol_path_dir = {self.folder}/cp\n"
        )

    def host(self, n, script):
        return self.lab.run("host", f"kvm{n}", "--", "sh", "-c", script, capture_output=True, text=True).stdout

    def record(self):
        """The rules as the first host has them now, kvmfw's: the peers load the very same."""
        for program, file in [("iptables-save", "rules.v4"), ("ip6tables-save", "rules.v6")]:
            (self.rules / file).write_text(self.host(1, f"{program} -t filter"))

    def check(self):
        """The first host has the rules now: what was measured was the work."""
        for program, file in [("iptables-save", "rules.v4"), ("ip6tables-save", "rules.v6")]:
            live = self.host(1, f"{program} -t filter")
            if appended(live) != appended((self.rules / file).read_text()):
                raise SystemExit(f"a peer left other rules than {file}:\n{live}")

    def command(self, peer, hosts, dry):
        """What a user types, and what it wants in its environment."""
        program = shutil.which(PROGRAMS[peer])
        if peer == "ansible":
            limit = ",".join(f"kvm{n}" for n in range(1, hosts + 1))
            command = [program, "-i", self.folder / "hosts.ini", "-l", limit, HERE / "ansible.yml"]
            return command + (["--check"] if dry else []), {"ANSIBLE_CONFIG": str(self.folder / "ansible.cfg")}
        inventory = self.folder / f"hosts-{hosts}.py"
        data = {
            "ssh_user": "root",
            "ssh_key": f"{self.lab.dir}/id_ed25519",
            "ssh_known_hosts_file": f"{self.lab.dir}/known_hosts",
            "ssh_strict_host_key_checking": "yes",
            "rules": str(self.rules),
        }
        inventory.write_text(f"hosts = {[(self.lab.address(n), data) for n in range(1, hosts + 1)]!r}\n")
        command = [program, "-y", "--parallel", "50", inventory, HERE / "deploy.py"]
        return command + (["--dry"] if dry else []), {}

    def reset(self, hosts):
        """Every host as before the peer came."""
        values = [line.replace(" ", "") for line in self.sysctls.splitlines()]
        for n in range(1, hosts + 1):
            self.host(n, RESET + "".join(f"sysctl -q -w {value}\n" for value in values))

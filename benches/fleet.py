#!/usr/bin/env python3
"""How fast kvmfw is on many hosts, beside the floor: bare ssh doing the same round trips.

    benches/fleet.py [--hosts 1,10,50,100,200] [--rounds 3] [--kvmfw target/release/kvmfw] [--memory] [--peers]

Brings up a lab of its own (root; the packages of tests/install-deps.sh), gives every contender the same
hosts in the same state, in turns, and prints a table of medians with the spread. Judges nothing.

floor, plan    xargs -P32 ssh HOST 'sh -s', fed with the very document that kvmfw sends for a plan
floor, apply   the same over two new connections for each host, which is what an apply needs
CPU            of the client and everything it started, by the kernel's accounts, ssh in the background too
peers          Ansible and pyinfra doing the same work (benches/peers), those of them that are on PATH
RSS            the largest single process of the client; --memory samples the sum (PSS) of all in a run of its own

Client and hosts share this machine, so the hosts' work is part of every wall time. The lab's sshd knows
one key exchange (curve25519): else the comparison would be one of key exchanges.
"""

import argparse, ctypes, os, shutil, signal, statistics, subprocess, sys, tempfile, threading, time
from pathlib import Path

import peers

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "tests/lab/lab.sh"
PARALLEL = 32
PR_SET_CHILD_SUBREAPER = 36


class Measured:
    """What one run of a command took."""

    def __init__(self, wall, cpu, rss, code, output):
        self.wall, self.cpu, self.rss, self.code, self.output = wall, cpu, rss, code, output


def measure(command, end_rest=False, **more):
    """Runs a command and waits for it and all that it leaves behind, or ends that. Wall is until the command
    itself ends; CPU and the largest RSS are of everything."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **more)
        wall = code = None
        cpu, rss = 0.0, 0
        while True:
            try:
                pid, status, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            cpu += usage.ru_utime + usage.ru_stime
            rss = max(rss, usage.ru_maxrss)
            if pid == child.pid:
                wall, code = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
                child.returncode = code
                for rest in descendants(os.getpid()) if end_rest else []:
                    os.kill(rest, signal.SIGTERM)
        out.seek(0)
        return Measured(wall, cpu, rss, code, out.read().decode(errors="replace"))


class Lab:
    """The hosts, and the project that kvmfw plans."""

    def __init__(self, hosts, folder):
        self.dir = Path(f"/run/lab-bench-{os.getpid()}")
        self.folder = folder
        self.run("up", "-n", str(hosts), "--no-guests")
        self.kvmfw = None

    def run(self, command, *arguments, **more):
        return subprocess.run(["bash", LAB, command, "--dir", self.dir, *arguments], check=True, stdin=subprocess.DEVNULL, **more)

    def controller(self, *command):
        return ["bash", str(LAB), "exec", "--dir", str(self.dir), "--", *map(str, command)]

    def address(self, n):
        return f"10.99.0.{10 + n}" if n <= 240 else f"10.99.1.{n - 240}"

    def down(self):
        self.run("down")


def project(lab, folder, hosts):
    """The article's ruleset, 100 rules, the three keys of br_netfilter and one bridge."""
    rules = "".join(f"            -s 10.{n}.0.0/16 -p tcp -m tcp --dport {1000 + n} -j ACCEPT\n" for n in range(100))
    names = "".join(f"  kvm{n}: {{ address: {lab.address(n)} }}\n" for n in range(1, hosts + 1))
    text = f"""hosts:
{names}groups:
  all:
    ssh: {{ user: root, identity_file: {lab.dir}/id_ed25519, known_hosts: {lab.dir}/known_hosts }}
    modules: [host-firewall, firewall-log, bridge-accept-each]
    bridges: {{ br123: {{ stp: false }} }}
    sysctl:
      60-bridge:
        net.bridge.bridge-nf-call-iptables: 1
        net.bridge.bridge-nf-call-ip6tables: 1
        net.bridge.bridge-nf-call-arptables: 0
    iptables:
      filter:
        INPUT:
          rules: |
{rules}"""
    (folder / "inventories").mkdir(parents=True, exist_ok=True)
    (folder / "inventories/bench.yaml").write_text(text)


def record_document(lab, kvmfw):
    """The document of a plan, as it goes over the wire: the host keeps a copy of what it is fed."""
    keys = lab.dir / "hosts/kvm1/disk/root/.ssh/authorized_keys"
    key = keys.read_text()
    keys.write_text(f'command="tee /root/document | sh -s" {key}')
    try:
        kvmfw_run(lab, kvmfw, "plan", 1).ok()
    finally:
        keys.write_text(key)
    copy = lab.dir / "hosts/kvm1/disk/root/document"
    document = lab.folder / "document"
    shutil.move(copy, document)
    return document


class Run:
    def __init__(self, measured, wanted):
        self.measured, self.wanted = measured, wanted

    def ok(self):
        if self.measured.code != self.wanted:
            sys.exit(f"exit code {self.measured.code}:\n{self.measured.output}")
        return self.measured


def kvmfw_run(lab, kvmfw, command, hosts, *arguments):
    env = {**os.environ, "KVMFW_RUN_DIR": str(lab.folder / "runs")}
    arguments = [command, "-C", lab.folder, "-l", f"kvm[1-{hosts}]", "-p", PARALLEL, *arguments]
    return Run(measure(lab.controller(kvmfw, *arguments), env=env), 0)


def floor(lab, document, hosts, connections):
    ssh = f"ssh -F {lab.dir}/ssh_config -o ControlMaster=no root@{{}} sh -s <{document} >/dev/null"
    script = " && ".join([ssh] * connections)
    names = lab.folder / f"names-{hosts}"
    names.write_text("".join(f"kvm{n}\n" for n in range(1, hosts + 1)))
    return Run(measure(lab.controller("xargs", "-a", names, "-P", PARALLEL, "-I", "{}", "sh", "-c", script)), 0)


def forget(lab, hosts):
    """No connection of an earlier run is on any host's books."""
    for n in range(1, hosts + 1):
        lab.run("host", f"kvm{n}", "--", "conntrack", "-F", capture_output=True)


def back(lab, kvmfw, hosts):
    arguments = ["-y", "--to", "0", "--batch", "100%"]
    kvmfw_run(lab, kvmfw, "undo", hosts, *arguments).ok()
    forget(lab, hosts)


def apply(lab, kvmfw, hosts):
    return kvmfw_run(lab, kvmfw, "apply", hosts, "-y", "--batch", "100%")


def peer_run(lab, others, peer, hosts, dry=False):
    command, more = others.command(peer, hosts, dry)
    # Its masters stay for a minute; nobody waits for them.
    return Run(measure(lab.controller(*command), end_rest=True, env={**os.environ, **more}), 0)


def rounds(lab, kvmfw, document, hosts, count, others, names):
    """Every column once in each round, in turns with its floor."""
    figures = {}

    def note(name, run):
        figures.setdefault(name, []).append(run.ok())

    for _ in range(count):
        note("floor, first plan", floor(lab, document, hosts, 1))
        note("kvmfw, first plan", kvmfw_run(lab, kvmfw, "plan", hosts))
        note("floor, apply", floor(lab, document, hosts, 2))
        note("kvmfw, apply", apply(lab, kvmfw, hosts))
        note("floor, plan again", floor(lab, document, hosts, 1))
        note("kvmfw, plan again", kvmfw_run(lab, kvmfw, "plan", hosts))
        if names:
            others.record()
        back(lab, kvmfw, hosts)
        for peer in names:
            note(f"{peer}, first plan", peer_run(lab, others, peer, hosts, dry=True))
            note(f"{peer}, apply", peer_run(lab, others, peer, hosts))
            others.check()
            note(f"{peer}, plan again", peer_run(lab, others, peer, hosts, dry=True))
            others.reset(hosts)
            forget(lab, hosts)
    return figures


def table(hosts, figures):
    print(f"\n{hosts} hosts, {len(next(iter(figures.values())))} rounds")
    print("| | wall s (min–max) | ÷ floor | CPU s | ÷ floor | largest process MB |")
    print("|---|---|---|---|---|---|")
    for name, runs in figures.items():
        wall, cpu = [r.wall for r in runs], [r.cpu for r in runs]
        ratio = ["", ""]
        if not name.startswith("floor"):
            base = figures["floor, " + name.split(", ")[1]]
            # Pair by pair: what slows the machine slows both of a pair.
            ratio = [
                f"{statistics.median(a / b for a, b in zip(mine, theirs)):.2f}"
                for mine, theirs in [(wall, [r.wall for r in base]), (cpu, [r.cpu for r in base])]
            ]
        rss = max(r.rss for r in runs) / 1024
        print(
            f"| {name} | {statistics.median(wall):.2f} ({min(wall):.2f}–{max(wall):.2f}) | {ratio[0]} "
            f"| {statistics.median(cpu):.2f} | {ratio[1]} | {rss:.0f} |"
        )
    sys.stdout.flush()


def memory(lab, kvmfw, hosts):
    """The largest sum of PSS of kvmfw with its ssh processes, in a plan and an apply, and of kvmfw alone."""
    peaks = {}
    for name, run in [("plan", lambda: kvmfw_run(lab, kvmfw, "plan", hosts)), ("apply", lambda: apply(lab, kvmfw, hosts))]:
        peak = {"all": 0, "kvmfw": 0}
        stop = threading.Event()

        def sample():
            while not stop.wait(0.05):
                total = own = 0
                for pid in descendants(os.getpid()):
                    try:
                        comm = Path(f"/proc/{pid}/comm").read_text().strip()
                        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                    except OSError:
                        continue
                    pss = sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
                    total += pss
                    own += pss if comm.startswith("kvmfw") else 0
                peak["all"], peak["kvmfw"] = max(peak["all"], total), max(peak["kvmfw"], own)

        sampler = threading.Thread(target=sample)
        sampler.start()
        run().ok()
        stop.set()
        sampler.join()
        peaks[name] = peak
    back(lab, kvmfw, hosts)
    for name, peak in peaks.items():
        print(f"memory, {name}, {hosts} hosts: kvmfw {peak['kvmfw'] / 1024:.0f} MB, with its ssh {peak['all'] / 1024:.0f} MB (PSS)")


def descendants(pid):
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rsplit(") ", 1)[1].split()[1]), []).append(int(entry.name))
    found, todo = [], list(children.get(pid, []))
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default="1,10,50,100,200")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kvmfw", type=Path, default=ROOT / "target/release/kvmfw")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("fleet.py: needs root, for the lab")
    if not options.kvmfw.exists():
        sys.exit(f"fleet.py: no {options.kvmfw}; cargo build --release")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = peers.installed() if options.peers else []
    if options.peers:
        print("peers:", ", ".join(names) or "none is on PATH")
    counts = [int(n) for n in options.hosts.split(",")]
    kvmfw = options.kvmfw.resolve()
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(max(counts), Path(folder))
        # From now on ssh in the background becomes our child when its parent ends, and its CPU is counted. Not
        # earlier: the hosts would be our children too, and they never end.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            project(lab, lab.folder, max(counts))
            document = record_document(lab, kvmfw)
            others = peers.Peers(lab, max(counts)) if names else None
            for hosts in counts:
                table(hosts, rounds(lab, kvmfw, document, hosts, options.rounds, others, names))
                if options.memory:
                    memory(lab, kvmfw, hosts)
        finally:
            lab.down()


if __name__ == "__main__":
    main()

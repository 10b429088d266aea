#!/usr/bin/env python3
"""Whether hosts that misbehave hold the others up: an apply to 90 hosts alone, and to the same 90 with 10 bad ones.

    benches/misbehave.py [--hosts 100] [--rounds 3] [--kvmfw target/release/kvmfw]

Brings up a lab of its own (root; the packages of tests/install-deps.sh). A tenth of its hosts misbehave, each in
another way, as long as there are ways. Measured is when the last of the others had confirmed its change, by the
clock of its disk: how long the bad ones then still take is told beside it. Judges nothing.
"""

import argparse, os, signal, statistics, sys, tempfile, time
from pathlib import Path

import fleet


def forced(lab, host, script):
    """Whoever logs in gets this, and not what he asked for."""
    keys = lab.dir / f"hosts/{host}/disk/root/.ssh/authorized_keys"
    keys.write_text("".join(f'command="{script}" {key}\n' for key in keys.read_text().splitlines()))


def stopped(lab, host):
    """Its sshd lets one connect, and says nothing."""
    os.kill(int((lab.dir / f"hosts/{host}/pid").read_text().split()[0]), signal.SIGSTOP)


def tool(lab, host, name, script):
    """Another program in the place of one of its tools."""
    path = lab.dir / f"hosts/{host}/disk/etc/alternatives/{name}"
    path.unlink()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def unknown_key(lab, host):
    address = lab.address(int(host.removeprefix("kvm")))
    known = lab.dir / "known_hosts"
    lines = known.read_text().splitlines(keepends=True)
    known.write_text("".join(line for line in lines if address not in line.split()[0].split(",")))


def full(lab, host):
    script = "mount -t tmpfs -o size=4k none /var/lib && ! dd if=/dev/zero of=/var/lib/x bs=4k 2>/dev/null"
    lab.run("host", host, "--", "sh", "-c", script)


WAYS = [
    ("silent after the login", lambda lab, host: forced(lab, host, "exec sleep 1000")),
    ("silent in the middle of the look", lambda lab, host: tool(lab, host, "iptables-save", "exec sleep 1000")),
    ("answers after ten seconds", lambda lab, host: forced(lab, host, r"sleep 10; eval \"$SSH_ORIGINAL_COMMAND\"")),
    ("lets one connect, and says nothing", stopped),
    ("lets nothing out", lambda lab, host: lab.run("cut", host, "from")),
    ("has no power", lambda lab, host: lab.run("power-cut", host)),
    ("has another key", unknown_key),
    ("answers with garbage", lambda lab, host: forced(lab, host, "head -c 300000 /dev/urandom")),
    ("complains without end", lambda lab, host: forced(lab, host, "exec yes >&2")),
    ("has a full disk", full),
]


def last_done(lab, names):
    """When the last of them had committed, by the clock of this machine; all must have."""
    moments = []
    for name in names:
        done = list((lab.dir / f"hosts/{name}/disk/var/lib/kvmfw/txn").glob("*/done"))
        newest = max(done, key=lambda path: path.stat().st_ctime_ns, default=None)
        if newest is None or not newest.read_text().startswith("committed"):
            sys.exit(f"{name} was not changed")
        moments.append(newest.stat().st_ctime)
    return max(moments)


def apply(lab, kvmfw, hosts, good, wanted):
    more = ["--max-fail", "100%", "--max-unreachable", "100%"]
    begun = time.time()
    run = fleet.kvmfw_run(lab, kvmfw, "apply", hosts, "-y", "--batch", "100%", *more)
    run.wanted = wanted
    end = run.ok().wall
    return last_done(lab, good) - begun, end


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kvmfw", type=Path, default=fleet.ROOT / "target/release/kvmfw")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("misbehave.py: needs root, for the lab")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kvmfw, hosts = options.kvmfw.resolve(), options.hosts
    bad = hosts // 10
    good = [f"kvm{n}" for n in range(1, hosts - bad + 1)]
    with tempfile.TemporaryDirectory() as folder:
        lab = fleet.Lab(hosts, Path(folder))
        try:
            fleet.project(lab, lab.folder, hosts)
            for n in range(bad):
                WAYS[n % len(WAYS)][1](lab, f"kvm{len(good) + n + 1}")
            alone, beside, ends = [], [], []
            for _ in range(options.rounds):
                alone.append(apply(lab, kvmfw, len(good), good, 0)[0])
                fleet.back(lab, kvmfw, len(good))
                done, end = apply(lab, kvmfw, hosts, good, 4 if bad >= len(WAYS) else 5)
                beside.append(done)
                ends.append(end)
                fleet.back(lab, kvmfw, len(good))
        finally:
            lab.down()
    print(f"{len(good)} hosts, and {bad} that misbehave: " + "; ".join(what for what, _ in WAYS[:bad]))
    print("| | last of the good ones done, s (min–max) | ÷ alone | the run ends, s |")
    print("|---|---|---|---|")
    ratio = statistics.median(b / a for a, b in zip(alone, beside))
    spread = lambda times: f"{statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f})"
    print(f"| alone | {spread(alone)} | | |")
    print(f"| beside the bad ones | {spread(beside)} | {ratio:.2f} | {spread(ends)} |")


if __name__ == "__main__":
    main()

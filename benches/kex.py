#!/usr/bin/env python3
"""What a key exchange costs: connections to one lab host, one after the other, with each exchange that the ssh
here knows and that somebody would choose.

    benches/kex.py [--connections 20] [--rounds 5]

Prints medians for one connection: wall and CPU of the client, and the ratio to the first line, pair by pair.
"""

import argparse, os, signal, statistics, subprocess, sys, tempfile
from pathlib import Path

import fleet

CHOICES = ["curve25519-sha256", "sntrup761x25519-sha512@openssh.com", "mlkem768x25519-sha256", "ecdh-sha2-nistp256", "diffie-hellman-group16-sha512"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("kex.py: needs root, for the lab")
    known = subprocess.run(["ssh", "-Q", "kex"], check=True, capture_output=True, text=True).stdout.split()
    choices = [kex for kex in CHOICES if kex in known]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        lab = fleet.Lab(1, Path(folder))
        try:
            # The lab's sshd knows one; for the next connections it knows these.
            allow = f"sed -i 's/^KexAlgorithms .*/KexAlgorithms {','.join(choices)}/' /etc/ssh/sshd_config && kill -HUP 1"
            lab.run("host", "kvm1", "--", "sh", "-c", allow)
            figures = {kex: [] for kex in choices}
            for turn in range(options.rounds + 1):
                for kex in choices:
                    ssh = f"ssh -F {lab.dir}/ssh_config -o ControlMaster=no -o ConnectionAttempts=5 -o KexAlgorithms={kex} root@kvm1 true"
                    script = f"for n in $(seq {options.connections}); do {ssh} || exit; done"
                    run = fleet.Run(fleet.measure(lab.controller("sh", "-c", script)), 0).ok()
                    # The first turn warms up, and sshd may still be starting again.
                    if turn:
                        figures[kex].append(run)
        finally:
            lab.down()
    print("| key exchange | wall ms | CPU ms of the client | ÷ first |")
    print("|---|---|---|---|")
    for kex, runs in figures.items():
        wall, cpu = [[getattr(run, what) * 1000 / options.connections for run in runs] for what in ("wall", "cpu")]
        ratio = statistics.median(run.cpu / base.cpu for run, base in zip(runs, figures[choices[0]]))
        print(f"| {kex} | {statistics.median(wall):.0f} | {statistics.median(cpu):.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()

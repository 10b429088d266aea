"""What a pyinfra user would run for the benchmark's work; DATA rules is the folder of the rule files."""

from pathlib import Path
from io import StringIO

from pyinfra import host
from pyinfra.operations import files, server

RULES = Path(host.data.rules)
INTERFACE = "auto br123\niface br123 inet manual\n    bridge_ports none\n    bridge_stp off\n"

for key, value in [("iptables", 1), ("ip6tables", 1), ("arptables", 0)]:
    server.sysctl(
        name=f"sysctl {key}",
        key=f"net.bridge.bridge-nf-call-{key}",
        value=value,
        persist=True,
        persist_file="/etc/sysctl.d/60-bridge.conf",
    )
files.put(name="bridge, at boot", src=StringIO(INTERFACE), dest="/etc/network/interfaces.d/br123", mode="644")
server.shell(name="bridge, now", commands=["[ -e /sys/class/net/br123 ] || ip link add br123 type bridge"])
for version, restore in [("v4", "iptables-restore"), ("v6", "ip6tables-restore")]:
    file = f"/etc/iptables.rules.{version}"
    put = files.put(name=f"rules {version}, at boot", src=str(RULES / f"rules.{version}"), dest=file, mode="640")
    server.shell(name=f"rules {version}, now", commands=[f"{restore} {file}"], _if=put.did_change)

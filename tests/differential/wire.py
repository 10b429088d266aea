"""The wire of the differential test: a host with a bridge and a routed device, two guests and a
neighbour, each in a network namespace of its own, none of which answers by itself.

Prints a line {"pid": P, "net": FD}: the host's namespace is /proc/P/fd/FD. Then reads packets, one
JSON object a line, sends each for real and prints where it arrived, as JSON. It waits for no clock:
frames that pass no rule follow every packet on the same processor's queue, and when they are there
the packet is there or nowhere.

      g0 --- vnet0 [br0 10.0.0.254/24] vnet1 --- g1        net --- eth0 [10.1.0.254/24]
"""
import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import sys

CLONE_NEWNET = 0x40000000
FENCE = 0x88B5
OTHER = 0x88B6
MARK = 0x4B564D00
MAGIC = b"kvmfwdif"
SOL_PACKET, PACKET_AUXDATA, VLAN_VALID = 263, 8, 0x10
MAC = {"host": "02:00:00:00:00:fe", "eth0": "02:00:00:00:01:fe", "g0": "02:00:00:00:00:01",
       "g1": "02:00:00:00:00:02", "net": "02:00:00:00:01:01"}
NEAR = {"g0": ("vnet0", "br0"), "g1": ("vnet1", "br0"), "net": ("eth0", "eth0")}
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), "namespace")


def new_net():
    check(libc.unshare(CLONE_NEWNET))
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def enter(net):
    check(libc.setns(net, CLONE_NEWNET))


def ip(text):
    subprocess.run(["ip", "-batch", "-"], input=text.encode(), check=True)


def sysctl(path, value):
    with open("/proc/sys/net/" + path, "w") as knob:
        knob.write(value)


def set_up():
    """The namespaces and what is in them; the host's is the one we are in at the end."""
    nets = {"host": new_net()}
    for name in NEAR:
        nets[name] = new_net()
    enter(nets["host"])
    for key in ("ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad", "ipv6/conf/default/accept_ra",
                "ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv4/conf/all/send_redirects",
                "ipv4/conf/default/send_redirects"):
        sysctl(key, "0")
    sysctl("ipv6/conf/default/addr_gen_mode", "1")
    sysctl("ipv4/ip_forward", "1")
    sysctl("ipv6/conf/all/forwarding", "1")
    for family in ("ip", "ip6"):
        sysctl(f"bridge/bridge-nf-call-{family}tables", "1")
    pid = os.getpid()
    ip("".join(f"link add {port} address 02:00:00:00:0f:{n:02x} type veth peer name eth address {MAC[name]} "
               f"netns /proc/{pid}/fd/{nets[name]}\n"
               for n, (name, (port, _)) in enumerate(NEAR.items())))
    ip(f"""link set lo up
link set eth0 address {MAC["eth0"]}
link add br0 address {MAC["host"]} type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set vnet0 master br0
link set vnet1 master br0
link set vnet0 up
link set vnet1 up
link set eth0 up
link set br0 up
address add 10.0.0.254/24 brd + dev br0
address add 10.1.0.254/24 brd + dev eth0
address add fd00::fe/64 dev br0 nodad
address add fd01::fe/64 dev eth0 nodad
route add default via 10.1.0.1 dev eth0
route add default via fd01::1 dev eth0
""")
    ip("".join(f"neigh add {address} lladdr {MAC[name]} dev {NEAR[name][1]} nud permanent\n"
               for name, addresses in {"g0": ("10.0.0.1", "fd00::1"), "g1": ("10.0.0.2", "fd00::2"),
                                       "net": ("10.1.0.1", "fd01::1")}.items()
               for address in addresses))
    for name in ("g0", "g1"):
        subprocess.run(["bridge", "fdb", "replace", MAC[name], "dev", NEAR[name][0], "master", "static"],
                       check=True)
    # What the host says by itself (resets, errors, discovery) would be traffic that nobody asked for.
    # Ours carries a mark, which is taken away before the first table of iptables.
    subprocess.run(["nft", "-f", "-"], check=True, input=f"""
        table inet wire {{ chain out {{ type filter hook output priority -450
            meta mark != {MARK} drop
            meta mark set 0
        }}
        }}""".encode())
    for name in NEAR:
        enter(nets[name])
        sysctl("ipv6/conf/all/disable_ipv6", "1")
        ip("link set eth arp off up\n")
    return nets


class Wire:
    def __init__(self, nets):
        self.frames = {}
        for name in NEAR:
            enter(nets[name])
            link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            link.bind(("eth", 3))
            # A VLAN tag is told beside the frame.
            link.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self.frames[name] = link
        enter(nets["host"])
        # A raw socket gets what has passed INPUT, and sends what then passes OUTPUT.
        self.local = [self.raw(socket.AF_INET, protocol) for protocol in (1, 6, 17, 254)]
        self.local += [self.raw(socket.AF_INET6, protocol) for protocol in (58, 6, 17, 254)]
        self.out = {4: self.raw(socket.AF_INET, 255), 6: self.raw(socket.AF_INET6, 255)}
        for sender in self.out.values():
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        self.fences = 0

    @staticmethod
    def raw(family, protocol):
        link = socket.socket(family, socket.SOCK_RAW, protocol)
        link.setblocking(False)
        if family == socket.AF_INET6 and protocol != 255:
            link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        return link

    def fence(self):
        """Comes by the same queue as what was sent before it, over as many devices."""
        for _ in range(2):
            self.fences += 1
            token = struct.pack("!I", self.fences)
            mac = bytes.fromhex((MAC["g1"] + MAC["g0"]).replace(":", ""))
            self.frames["g0"].send(mac + struct.pack("!H", FENCE) + token + bytes(42))
            while True:
                if not select.select([self.frames["g1"]], [], [], 20)[0]:
                    raise TimeoutError("a frame between two guests got lost")
                frame, vlan, _ = receive(self.frames["g1"])
                if frame[12:14] == struct.pack("!H", FENCE):
                    if frame[14:18] == token:
                        break
                    continue
                self.kept.append(("g1", frame, vlan))

    def send(self, order):
        self.kept = []
        token = MAGIC + struct.pack("!I", order["id"])
        kind, packets = contents(order, token)
        if order["at"] == "host":
            family = order["family"]
            try:
                self.out[family].sendto(packets[0], (order["dst"], 0))
            except OSError as error:
                # A packet that a rule drops on its way out is an error to who sends it.
                if error.errno not in (1, 113, 111, 105):
                    raise
        else:
            head = bytes.fromhex((MAC[order["mac"]] + MAC[order["at"]]).replace(":", ""))
            if "vlan" in order:
                head += struct.pack("!HH", 0x8100, order["vlan"])
            for packet in packets:
                self.frames[order["at"]].send(head + struct.pack("!H", kind) + packet)
        self.fence()
        return self.arrived(token)

    def arrived(self, token):
        found = []
        for name, link in self.frames.items():
            while select.select([link], [], [], 0)[0]:
                frame, vlan, direction = receive(link)
                if direction != socket.PACKET_OUTGOING:
                    self.kept.append((name, frame, vlan))
        for name, frame, vlan in self.kept:
            kind = struct.unpack("!H", frame[12:14])[0]
            if kind in (0x0800, 0x86DD, 0x0806, OTHER) and token in frame:
                seen = read(frame[14:]) if kind in (0x0800, 0x86DD) else {}
                found.append({"at": name, **seen, **({} if vlan is None else {"vlan": vlan})})
        for link in self.local:
            while select.select([link], [], [], 0)[0]:
                data, extra, _, peer = link.recvmsg(2048, 256)
                if token not in data:
                    continue
                if link.family == socket.AF_INET6:
                    dst = [d[:16] for level, kind, d in extra if kind == socket.IPV6_PKTINFO][0]
                    data = struct.pack("!IHBB", 0x60000000, len(data), link.proto, 64) \
                        + socket.inet_pton(socket.AF_INET6, peer[0].split("%")[0]) + dst + data
                found.append({"at": "host", **read(data)})
        return found


def receive(link):
    """A frame, its VLAN if it has a tag, and whether it came or went."""
    frame, extra, _, address = link.recvmsg(2048, 256)
    vlan = None
    for level, kind, data in extra:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tci, _ = struct.unpack("=IIIHHHH", data)
            vlan = tci & 0xFFF if status & VLAN_VALID else None
    return frame, vlan, address[2]


def contents(order, token):
    """What is in the frames to send: the EtherType, and each frame's payload."""
    if order.get("frame") == "arp":
        src, dst = (bytes.fromhex(MAC[order[end]].replace(":", "")) for end in ("at", "mac"))
        return 0x0806, [struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + src + bytes([10, 0, 0, 1]) + dst
                        + bytes([10, 0, 0, 2]) + token]
    if order.get("frame") == "other":
        return OTHER, [token + bytes(42)]
    kind = 0x0800 if order["family"] == 4 else 0x86DD
    if not order.get("split"):
        return kind, [build(order, token)]
    # Either piece has the token, the first one the header of what is above IP too.
    heads = {6: 20, 17: 8, 1: 8, 58: 8}
    first = heads.get(order["protocol"], 0) + len(token)
    first += -first % 8
    padding = bytes(first - heads.get(order["protocol"], 0) - len(token))
    return kind, split(build(order, token + padding + token), first, order["id"])


def split(packet, first, number):
    """A packet in two pieces, of which the first has so many bytes above IP."""
    if packet[0] >> 4 == 4:
        head, body = packet[:20], packet[20:]
        pieces = []
        for at, part in ((0, body[:first]), (first, body[first:])):
            flags = at // 8 | (0 if at else 0x2000)
            front = head[:2] + struct.pack("!HHH", 20 + len(part), number & 0xFFFF, flags) + head[8:10] + bytes(2) + head[12:]
            pieces.append(front[:10] + struct.pack("!H", total(front)) + front[12:] + part)
        return pieces
    head, body = packet[:40], packet[40:]
    return [head[:4] + struct.pack("!HB", 8 + len(part), 44) + head[7:]
            + struct.pack("!BBHI", head[6], 0, at | (0 if at else 1), number) + part
            for at, part in ((0, body[:first]), (first, body[first:]))]


def total(data):
    if len(data) % 2:
        data += b"\0"
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF


def build(order, token):
    """A whole packet with sums that are right: conntrack calls it INVALID otherwise."""
    four = order["family"] == 4
    kind = socket.AF_INET if four else socket.AF_INET6
    src, dst = (socket.inet_pton(kind, order[end]) for end in ("src", "dst"))
    protocol = order["protocol"]
    if protocol == 6:
        head, at = struct.pack("!HHIIBBHHH", order["sport"], order["dport"], order["seq"], order["ack"],
                               0x50, order["flags"], 65000, 0, 0), 16
    elif protocol == 17:
        head, at = struct.pack("!HHHH", order["sport"], order["dport"], 8 + len(token), 0), 6
    elif protocol in (1, 58):
        head, at = struct.pack("!BBHHH", *order["icmp"], 0, order["echo"], 1), 2
    else:
        head, at = b"", None
    if "quoted" in order:
        # The head of the packet that an ICMP error is about.
        token = build(order["quoted"], b"\0" * 12)[:(28 if four else 48) + 12] + token
        head = head[:4] + bytes(4)
    body = head + token
    if at is not None:
        pseudo = src + dst + (struct.pack("!BBH", 0, protocol, len(body)) if four
                              else struct.pack("!IHBB", len(body), 0, 0, protocol))
        sum_ = total((b"" if protocol == 1 else pseudo) + body)
        body = body[:at] + struct.pack("!H", sum_) + body[at + 2:]
    if four:
        front = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), order["id"] & 0xFFFF, 0, 64, protocol, 0,
                            src, dst)
        return front[:10] + struct.pack("!H", total(front)) + front[12:] + body
    return struct.pack("!IHBB", 0x60000000, len(body), protocol, 64) + src + dst + body


def read(packet):
    if packet[0] >> 4 == 4:
        kind, protocol, src, dst = socket.AF_INET, packet[9], packet[12:16], packet[16:20]
        rest = packet[(packet[0] & 15) * 4:]
        place = struct.unpack("!H", packet[6:8])[0]
        offset, more = place & 0x1FFF, place & 0x2000
    else:
        kind, protocol, src, dst, rest = socket.AF_INET6, packet[6], packet[8:24], packet[24:40], packet[40:]
        offset = more = 0
        if protocol == 44:
            protocol, place, rest = rest[0], struct.unpack("!H", rest[2:4])[0], rest[8:]
            offset, more = place & 0xFFF8, place & 1
    seen = {"src": socket.inet_ntop(kind, src), "dst": socket.inet_ntop(kind, dst), "protocol": protocol,
            "piece": "later" if offset else "first" if more else "whole"}
    if offset:
        return seen
    if protocol in (6, 17):
        seen["sport"], seen["dport"] = struct.unpack("!HH", rest[:4])
    elif protocol in (1, 58):
        seen["echo"] = struct.unpack("!H", rest[4:6])[0]
    return seen


def main():
    # One processor has one queue, which keeps the order.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    nets = set_up()
    wire = Wire(nets)
    print(json.dumps({"pid": os.getpid(), "net": nets["host"]}), flush=True)
    for line in sys.stdin:
        print(json.dumps(wire.send(json.loads(line))), flush=True)


main()

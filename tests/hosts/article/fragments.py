# 4|6 head|both|end ID LETTER: sends an ICMP message of two fragments under that identification; "head" only the
#   first of them, "end" a small whole message that tells the receiver to stop.
# 4|6 receive: prints the text of every message of ours, until that small one.
# Addresses are those of every tenant: .1 sends, .2 receives. All texts add up to the same checksum, so
# that of a message put together from two others is right.
import socket
import struct
import sys

HEAD, TAIL = 64, 40
V6 = sys.argv[1] == "6"
FROM, TO = ("fd00:1::1", "fd00:1::2") if V6 else ("192.168.1.1", "192.168.1.2")
FAMILY = socket.AF_INET6 if V6 else socket.AF_INET
ICMP = socket.IPPROTO_ICMPV6 if V6 else socket.IPPROTO_ICMP
ENDS = socket.inet_pton(FAMILY, FROM) + socket.inet_pton(FAMILY, TO)
REPLY = 129 if V6 else 0  # an echo reply: nobody answers it
MARK = b"\0\xa7\0\xa7"


def message(text):
    pseudo = ENDS + struct.pack("!II", 8 + len(text), ICMP) if V6 else b""
    whole = pseudo + struct.pack("!BBH", REPLY, 0, 0) + MARK + text
    whole += b"\0" * (len(whole) % 2)
    total = sum(struct.unpack("!%dH" % (len(whole) // 2), whole))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBH", REPLY, 0, ~total & 0xFFFF) + MARK + text


def ip(payload, identification=0, offset=0, more=0):
    if not V6:
        fragment = more << 13 | offset // 8
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), identification, fragment, 64, ICMP, 0) + ENDS + payload
    following = ICMP
    if offset or more:
        payload = struct.pack("!BBHI", ICMP, 0, offset | more, identification) + payload
        following = socket.IPPROTO_FRAGMENT
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + ENDS + payload


def text_of(letter):  # A: AACC…aacc…, C: CCAA…ccaa…
    pair = letter * 2 + ("C" if letter == "A" else "A") * 2
    return ((pair * TAIL)[:HEAD - 8] + (pair.lower() * TAIL)[:TAIL]).encode()


def send(what, identification=0, letter="A"):
    sock = socket.socket(FAMILY, socket.SOCK_RAW, socket.IPPROTO_RAW)
    body = message(text_of(letter))
    packets = [ip(body[:HEAD], int(identification), 0, 1), ip(body[HEAD:], int(identification), HEAD, 0)]
    if what == "head":
        packets = packets[:1]
    if what == "end":
        packets = [ip(message(b"END!"))]
    for packet in packets:
        sock.sendto(packet, (TO, 0))


def receive():
    sock = socket.socket(FAMILY, socket.SOCK_RAW, ICMP)
    sock.settimeout(10)
    print("ready", flush=True)
    while True:
        packet = sock.recv(4096)[0 if V6 else 20:]
        if packet[0] == REPLY and packet[4:8] == MARK:
            text = packet[8:].decode()
            if text == "END!":
                return
            print(text, flush=True)


if sys.argv[2] == "receive":
    receive()
else:
    send(*sys.argv[2:])

# send HALVES ID: an ICMP message (v4) of two fragments under that IP identification; "head" sends the first alone.
#   end: one small whole message that tells the receiver to stop.
# receive: prints the text of every message of ours, until that small one.
# Addresses are those of every tenant: 192.168.1.1 sends, 192.168.1.2 receives.
import socket
import struct
import sys

HEAD, TAIL = 64, 40


def message(text):  # an echo reply: nobody answers it
    return struct.pack("!BBHHH", 0, 0, 0, 0xA7, 0xA7) + text


def ip(identification, fragment, payload):
    return struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identification, fragment, 64, socket.IPPROTO_ICMP, 0,
        socket.inet_aton("192.168.1.1"), socket.inet_aton("192.168.1.2")) + payload


def send(what, identification, letter):
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    body = message(letter.encode() * (HEAD - 8) + letter.lower().encode() * TAIL)
    packets = [ip(identification, 0x2000, body[:HEAD]), ip(identification, HEAD // 8, body[HEAD:])]
    if what == "head":
        packets = packets[:1]
    if what == "end":
        packets = [ip(identification, 0, message(b"END"))]
    for packet in packets:
        sock.sendto(packet, ("192.168.1.2", 0))


def receive():
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.settimeout(10)
    print("ready", flush=True)
    while True:
        packet = sock.recv(4096)
        if packet[20] == 0 and packet[24:28] == b"\0\xa7\0\xa7":
            text = packet[28:].decode()
            if text == "END":
                return
            print(text, flush=True)


if sys.argv[1] == "receive":
    receive()
else:
    send(sys.argv[1], int(sys.argv[2]), sys.argv[3])

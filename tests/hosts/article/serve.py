# Answers on every port given, TCP and UDP, v4 and v6, until it is killed.
import socket
import sys
import threading


def tcp(sock):
    while True:
        one, _ = sock.accept()
        one.sendall(b"here")
        one.close()


def udp(sock):
    while True:
        try:
            data, who = sock.recvfrom(65535)
            sock.sendto(data, who)
        except OSError:
            pass  # an ICMP error about an earlier answer


for port in map(int, sys.argv[1:]):
    for kind, loop in (socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp):
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            sock.listen(64)
        threading.Thread(target=loop, args=(sock,), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()

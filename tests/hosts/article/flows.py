# A new UDP flow every 10 ms to PORT of each ADDRESS, until stdin ends; then how many were begun and how
# many of them got no answer within a second. A ping would not do: the classic ruleset accepts all ICMP.
import resource
import select
import socket
import sys
import time

port, addresses = int(sys.argv[1]), sys.argv[2:]
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
poll = select.poll()
poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
open_flows, begun, lost, ending = {}, 0, [], None
start = following = time.monotonic()
while ending is None or (open_flows and time.monotonic() < ending + 1):
    if ending is None and time.monotonic() >= following:
        following += 0.01
        for address in addresses:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            begun += 1
            at = "%s after %.2f s" % (address, time.monotonic() - start)
            try:
                sock.connect((address, port))
                sock.send(b"?")
            except OSError as error:
                lost.append("%s: %s" % (at, error.strerror))
                continue
            open_flows[sock.fileno()] = sock, at, time.monotonic()
            poll.register(sock, select.POLLIN)
        if begun == len(addresses):
            print("ready", flush=True)
    for fd, _ in poll.poll(2):
        if fd == sys.stdin.fileno():
            poll.unregister(fd)
            ending = time.monotonic()
            continue
        sock, at, _ = open_flows.pop(fd)
        poll.unregister(fd)
        try:
            sock.recv(64)
        except OSError as error:
            lost.append("%s: %s" % (at, error.strerror))
        sock.close()
lost += ["%s: no answer" % at for _, at, _ in open_flows.values()]
print(begun, "begun,", len(lost), "lost")
for line in lost:
    print(line)

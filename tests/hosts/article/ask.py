# PORT QUESTION…: asks every "tcp|udp ADDRESS PORT", all at once, each as a new flow; a line for each with what came
# of it. The flows come from PORT and those after it: one that the kernel picks may have been used a moment
# ago, and what conntrack still has of that flow lets the new one pass.
import socket
import sys
import threading


def ask(i, kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    # More than a second: an ICMP error that is back before connect() is done with the socket is lost, and
    # only the one for the second SYN counts.
    sock.settimeout(1.5)
    sock.bind(("", first + i))
    try:
        sock.connect((address, int(port)))
        if kind == "udp":
            sock.send(b"?")
        results[i] = "answered" if sock.recv(64) else "closed"
    except OSError as error:
        results[i] = error.strerror or str(error)


first = int(sys.argv[1])
questions = [q.split() for q in sys.argv[2:]]
results = [""] * len(questions)
threads = [threading.Thread(target=ask, args=(i, *q)) for i, q in enumerate(questions)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for question, result in zip(questions, results):
    print(*question, result)

"""A cable between two network interfaces that it makes: ``cable.py NAME NAME DELAY LOSS``, until it is killed.

What ``tc qdisc add ... netem delay 20ms loss 1%`` does, where the kernel has no netem.
"""

import fcntl
import os
import random
import selectors
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
TUN, PLAIN = 0x0001, 0x1000
PACKET = 2**16


def interface(name):
    """Opens one; what others send through it is read here."""
    opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(opened, TUNSETIFF, struct.pack("16sH22x", name.encode(), TUN | PLAIN))
    return opened


def main(names, delay, loss):
    ends, random_ = [interface(name) for name in names], random.Random(0)
    print("there", flush=True)
    ready = selectors.DefaultSelector()
    for end, other in (ends, ends[::-1]):
        ready.register(end, selectors.EVENT_READ, other)
    on_the_way = deque()
    while True:
        wait = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        for key, _ in ready.select(wait):
            packet = os.read(key.fd, PACKET)
            if random_.random() >= loss:
                on_the_way.append((time.monotonic() + delay, key.data, packet))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, end, packet = on_the_way.popleft()
            try:
                os.write(end, packet)
            except OSError:  # the interface there is down, or gone with its namespace
                continue


if __name__ == "__main__":
    main(sys.argv[1:3], float(sys.argv[3]), float(sys.argv[4]))

"""Sends one ICE check (RFC 8445) from a socket that is bound to an interface, as libnice binds its own.

Usage: stun_check.py UFRAG PWD DEVICE LOCAL_ADDRESS ADDRESS PORT
Prints `answered` or `silent`. LOCAL_ADDRESS `-` leaves the socket unbound. Called by scenarios/addresses.mjs.
"""

import hashlib
import hmac
import os
import socket
import struct
import sys
import zlib

# linux/in.h; Python's socket module does not have it.
IP_UNICAST_IF = 50
TRIES = 10
PAUSE_S = 0.2
COOKIE = 0x2112A442
SUCCESS = 0x0101


def attribute(kind, value):
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def check(ufrag, pwd):
    """A binding request with USERNAME, PRIORITY, ICE-CONTROLLING, USE-CANDIDATE, integrity and fingerprint."""
    body = attribute(0x0006, f"{ufrag}:client".encode())
    body += attribute(0x0024, struct.pack("!I", 1)) + attribute(0x802A, bytes(8)) + attribute(0x0025, b"")
    transaction = os.urandom(12)

    def head(length):
        return struct.pack("!HHI", 0x0001, length, COOKIE) + transaction

    mac = hmac.new(pwd.encode(), head(len(body) + 24) + body, hashlib.sha1).digest()
    body += attribute(0x0008, mac)
    crc = zlib.crc32(head(len(body) + 8) + body) ^ 0x5354554E
    return head(len(body) + 8) + body + attribute(0x8028, struct.pack("!I", crc))


def main():
    ufrag, pwd, device, local, address, port = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        index = struct.pack("!I", socket.if_nametoindex(device))
        sock.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, index)
        if local != "-":
            sock.bind((local, 0))
        sock.settimeout(PAUSE_S)
        for _ in range(TRIES):
            try:
                sock.sendto(check(ufrag, pwd), (address, int(port)))
                while True:
                    reply = sock.recv(2000)
                    if struct.unpack("!H", reply[:2])[0] == SUCCESS:
                        print("answered")
                        return
            except OSError:
                pass
    print("silent")


main()

"""Clients that mean harm: some never finish their requests, some send images that claim to be huge."""

import select
import socket
import struct
import time
import urllib.parse
import zlib

from load_server import beside, disturbed, request, table_one

# Sockets that send half a head and then nothing.
STALLED = 200
# How long they are watched while nobody else asks anything.
STALLED_ALONE_S = 60
BOMBS = 100
BOMB_PIXELS = 60_000


def stalled(args, report):
    """The hot child's p99 beside clients that never finish their requests, against before."""
    with table_one(args) as server:
        ratio, turns = beside(args, server, stall)
        with disturbed(server, stall):
            before_s = server.cpu_s()
            time.sleep(STALLED_ALONE_S)
            share = (server.cpu_s() - before_s) / STALLED_ALONE_S
    report.add(f"{STALLED} stalled clients: p99 over before", ratio, "<= 1.1", ratio <= 1.1, share_of_a_core_alone=share, **turns)


def stall(server, done):
    """Keeps sockets open that have sent half a head; those that the server cuts off are opened again."""
    where = urllib.parse.urlsplit(server.url)
    sockets = []
    while not done.is_set():
        # Something to read is the server's 408 or the end of the connection.
        over = select.select(sockets, [], [], 0)[0]
        for gone in over:
            gone.close()
        sockets = [kept for kept in sockets if kept not in over]
        for _ in range(STALLED - len(sockets)):
            opened = socket.create_connection((where.hostname, where.port))
            opened.sendall(b"POST /classify HTTP/1.1\r\nhost: x\r\n")
            sockets.append(opened)
        done.wait(0.5)
    for kept in sockets:
        kept.close()


def bombs(args, report):
    """How soon a file of a few bytes that claims to be billions of pixels is refused, and what that leaves in memory."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", BOMB_PIXELS, BOMB_PIXELS, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with table_one(args) as server:
        # The first connections and buffers are no news.
        [request(server.url + "/classify", bomb, status_only=True) for _ in range(BOMBS)]
        before, times_ms, statuses = server.resident_bytes(), [], set()
        for _ in range(BOMBS):
            begin = time.perf_counter()
            statuses.add(request(server.url + "/classify", bomb, status_only=True))
            times_ms.append((time.perf_counter() - begin) * 1e3)
        growth_mb = (server.resident_bytes() - before) / 2**20
    refused = all(400 <= status < 500 for status in statuses)
    report.add("pixel bombs: slowest refusal, ms", max(times_ms), "< 50", refused and max(times_ms) < 50, statuses=sorted(statuses))
    report.add("pixel bombs: growth of memory, MiB", growth_mb, "< 8", growth_mb < 8)

# SPDX-License-Identifier: Apache-2.0
"""Reads spool files (schema/spool.h) by itself, so that what the library wrote is judged before, and without,
the collector. Written from the header's text, not from the collector's code."""
import glob
import os
import struct

from facts import Seen, demand

HEAD = struct.Struct("<8s6I16sQQQII40sQQ")  # up to created_real_ns
LOSS_AT = HEAD.size + 4 + 4 + 8 + 8
LOSS_SLOTS, RESERVED, SEGMENTS = 16, 1024, 4096
TABLE_AT = LOSS_AT + LOSS_SLOTS * 32 + RESERVED
SEG_HEAD = struct.Struct("<IIQQQQQ")
GROUP = struct.Struct("<IHHQQQIIHhI")
CELL = struct.Struct("<QIBBH")
LANE = struct.Struct("<IIQQQQ")
LOSS = struct.Struct("<IHHIIQQQII")
LOSS_PEER = struct.Struct("<IIQQ")
TEXT = struct.Struct("<IHHIIQ")
REASONS = ["spool_full", "no_space", "io_error", "too_large", "unknown_comm", "no_memory"]
FREE, ACTIVE, FULL = 1, 2, 3
DTYPE_BYTES = [1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1]
REC_PROCESS, REC_DIAG, REC_GROUP, REC_PART, REC_LOSS = 1, 8, 32, 33, 34
TEXT_CMDLINE, TEXT_OUT = 2, 5


def records(data):
    at = SEG_HEAD.size
    while at < len(data):
        size, kind = struct.unpack_from("<IH", data, at)
        demand(size >= 8 and size % 8 == 0 and at + size <= len(data), "a record of", size, "bytes at", at)
        yield kind, data[at:at + size]
        at += size


def _cells(record, count, at):
    for _ in range(count):
        yield CELL.unpack_from(record, at)
        at += CELL.size


def _add_group(seen, record, cells):
    fields = GROUP.unpack_from(record)
    count, lanes = fields[6], fields[8]
    at = GROUP.size + count * CELL.size
    comm, _, _, seq, _, _ = LANE.unpack_from(record, at)
    demand(lanes == 1, "traffic uses one lane a group, not", lanes)
    cells.extend(_cells(record, count, GROUP.size))
    sides = ([], [])
    for elements, peer, op, dtype, _ in cells:
        sides[op].append((peer, elements * DTYPE_BYTES[dtype]))
    stored = seen.exchanges.setdefault(comm - 1, {})
    demand(seq not in stored, "exchange", seq, "is there twice")
    stored[seq] = (tuple(sides[0]), tuple(sides[1]))
    seen.stored_groups += 1


def _add_loss(seen, record):
    _, _, _, comm, _, before, _, _, peers, _ = LOSS.unpack_from(record)
    edges = seen.loss_edges.setdefault(comm - 1, {}).setdefault(before, {})
    for i in range(peers):
        peer, _, sends, recvs = LOSS_PEER.unpack_from(record, LOSS.size + i * LOSS_PEER.size)
        old = edges.setdefault(peer, [0, 0])
        edges[peer] = [old[0] + sends, old[1] + recvs]


def _read_stream(seen, segments):
    parts, part_group = [], None
    for data in segments:
        for kind, record in records(data):
            if kind == REC_PART:
                fields = GROUP.unpack_from(record)
                if fields[5] != part_group:
                    parts, part_group = [], fields[5]
                parts.extend(_cells(record, fields[6], GROUP.size))
            elif kind == REC_GROUP:
                group = GROUP.unpack_from(record)[5]
                _add_group(seen, record, parts if group == part_group else [])
                parts, part_group = [], None
            elif kind == REC_LOSS:
                _add_loss(seen, record)


def _read_definitions(seen, segments):
    for data in segments:
        for kind, record in records(data):
            if kind not in (REC_PROCESS, REC_DIAG):
                continue
            what, length = TEXT.unpack_from(record)[3:5]
            text = record[TEXT.size:TEXT.size + length].decode("utf-8", "replace")
            if kind == REC_DIAG:
                seen.diagnostics.append((what, text))
            elif what == TEXT_CMDLINE:
                seen.cmdline = text.rstrip("\0").split("\0")


def read(path):
    """One spool file as Seen; nothing of it has been collected yet."""
    with open(path, "rb") as file:
        data = file.read()
    head = HEAD.unpack_from(data)
    magic, version, order, head_bytes, seg_bytes, cap, allocated = head[:7]
    demand(magic == b"SKWSPOOL" and version == 1 and order == 0x01020304, "not a spool:", path)
    demand(allocated <= cap and len(data) >= head_bytes + allocated * seg_bytes, "segments are missing in", path)
    seen = Seen(pid=head[11])
    seen.ended = {1: "running", 2: "exited"}[struct.unpack_from("<I", data, HEAD.size)[0]]
    seen.returned_groups = struct.unpack_from("<Q", data, LOSS_AT - 8)[0]
    for i, reason in enumerate(REASONS):
        counts = struct.unpack_from("<4Q", data, LOSS_AT + 32 * i)
        if any(counts):
            seen.loss[reason] = counts
    streams = {}
    for i in range(allocated):
        state, _ = struct.unpack_from("<II", data, TABLE_AT + 8 * i)
        at = head_bytes + i * seg_bytes
        _, stream, seq, returned, committed, _, _ = SEG_HEAD.unpack_from(data, at)
        seen.returned_groups += returned  # also of a segment that was given back
        if state not in (ACTIVE, FULL):
            continue
        streams.setdefault(stream, []).append((seq, data[at:at + committed]))
    for stream, segments in sorted(streams.items()):
        segments.sort()
        demand([seq for seq, _ in segments] == list(range(len(segments))), "stream", stream, "has segments",
               [seq for seq, _ in segments])
        ordered = [data for _, data in segments]
        if stream == 0:
            _read_definitions(seen, ordered)
        else:
            _read_stream(seen, ordered)
    return seen


def read_all(directory):
    return [read(path) for path in sorted(glob.glob(os.path.join(directory, "*.spool")))]


def directory_of(root, out):
    """Where the spool of an output directory lies below a root (schema/layout.h)."""
    value = 0xcbf29ce484222325
    for byte in os.fsencode(out):
        value = (value ^ byte) * 0x100000001b3 % 2**64
    return os.path.join(root, f"skewscope-{os.geteuid()}", f"{value:016x}")

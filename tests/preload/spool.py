#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads spool files (schema/spool.h) and says what is in them, one record a line.

usage: spool.py FILE…

An independent reader: it shares no code with the library or the collector, and it is strict. What does not
follow the layout raises Corrupt. Tests compare the lines of Spool.lines() with what a program says it did.
"""
import re
import struct
import sys
from pathlib import Path

HEAD_BYTES = 64 << 10
SEG_HEAD = struct.Struct("<IIQQQQQ")
REC = struct.Struct("<IHH")
SCHEMA = Path(__file__).resolve().parents[2] / "schema"
HEADER = (SCHEMA / "spool.h").read_text() + (SCHEMA / "spool_records.h").read_text()


def names(macro):
    """The names of one X-macro list of schema/spool.h or spool_records.h, in order."""
    body = re.search(rf"#define {macro}\(X\)(.*?)\n\n", HEADER, re.S).group(1)
    return re.findall(r"X\(\w+, \"(\w+)\"", body)


OPS = names("SKEW_OP_LIST")
LOSS = names("SKEW_LOSS_LIST")
COMM_KINDS = names("SKEW_COMM_KIND_LIST")
CALLS = ["none"] + names("SKEW_BACKEND_CALL_LIST")
GRAPH = ["none"] + names("SKEW_GRAPH_EVENT_LIST")
DIAGS = names("SKEW_DIAG_LIST")
TYPES = "int8 uint8 int32 uint32 int64 uint64 float16 float32 float64 bfloat16 float8e4m3 float8e5m2".split()
SEG_STATES = "absent free active full claimed".split()
ENDS = {1: "finalize", 2: "destroy", 3: "abort", 4: "revoke"}
TIMES = {16: "tier", 17: "kernel_name", 48: "time", 49: "clock", 50: "kernel"}  # read by tests/timing, as rows
TEXTS = {1: "exe", 2: "cmdline", 3: "host", 4: "env", 5: "out", 6: "nccl", 7: "version", 8: "cwd"}


class Corrupt(Exception):
    """The file does not follow schema/spool.h."""


def need(condition, what):
    if not condition:
        raise Corrupt(what)


class Spool:
    """One process image: what its spool file holds at this moment."""

    def __init__(self, path):
        self.path = Path(path)
        data = self.data = self.path.read_bytes()
        need(data[:8] == b"SKWSPOOL", f"{path}: no magic")
        (self.version, order, head_bytes, self.seg_bytes, self.seg_cap,
         self.seg_allocated) = struct.unpack_from("<6I", data, 8)
        need(self.version == 1 and order == 0x01020304 and head_bytes == HEAD_BYTES, f"{path}: bad head")
        self.boot_id = data[32:48]
        self.pid_ns, self.mnt_ns, self.start_ticks = struct.unpack_from("<3Q", data, 48)
        self.pid, self.uid = struct.unpack_from("<2I", data, 72)
        self.run_id = data[80:120].split(b"\0")[0].decode()
        self.created_ns, self.created_real_ns = struct.unpack_from("<2Q", data, 120)
        self.state, self.streams = struct.unpack_from("<2I", data, 136)
        self.exit_ns, self.returned_groups = struct.unpack_from("<2Q", data, 144)
        self.loss = {}
        for i in range(16):
            counts = struct.unpack_from("<4Q", data, 160 + 32 * i)
            if any(counts):
                self.loss[LOSS[i]] = dict(zip(("groups", "exchanges", "ops", "cells"), counts))
        self.call_counts = dict(zip(CALLS, struct.unpack_from("<16Q", data, 160 + 512 + 384 + 280)))
        self.segments = [struct.unpack_from("<2I", data, 160 + 512 + 1024 + 8 * i) for i in range(self.seg_allocated)]
        self.comms, self.comm_ends, self.sites, self.texts, self.diags = {}, [], {}, {}, []
        self.env, self.threads, self.modules, self.graphs, self.launches = {}, {}, [], [], []
        self.groups, self.lost_records, self.unknown = [], [], 0
        self.orphan_parts = 0
        self.times = []
        self.calls = []  # (function, object, site, tid) of functions that are noted only, in the order of their times
        self.range_names, self.ranges = {}, []
        streams = self._segments_by_stream()
        self._read_definitions(streams.pop(0, []))
        for stream in sorted(streams):
            self._read_stream(stream, streams[stream])

    def _segments_by_stream(self):
        streams = {}
        for index, (state, stream) in enumerate(self.segments):
            need(state < len(SEG_STATES), f"segment {index}: state {state}")
            at = HEAD_BYTES + index * self.seg_bytes
            magic, its_stream, seq, returned, committed, _, _ = SEG_HEAD.unpack_from(self.data, at)
            self.returned_groups += returned  # also of a segment that was given back
            if SEG_STATES[state] not in ("active", "full"):
                continue
            need(magic == 0x47455353 and its_stream == stream, f"segment {index}: bad head")
            need(SEG_HEAD.size <= committed <= self.seg_bytes, f"segment {index}: committed {committed}")
            streams.setdefault(stream, []).append((seq, self.data[at + SEG_HEAD.size:at + committed], state))
        for stream, segments in streams.items():
            segments.sort()
            need([s for s, _, _ in segments] == list(range(segments[0][0], segments[0][0] + len(segments))),
                 f"stream {stream}: segments are missing")
        return streams

    def _records(self, segments):
        for seq, data, _ in segments:
            at = 0
            while at < len(data):
                size, kind, _ = REC.unpack_from(data, at)
                need(size >= REC.size and size % 8 == 0 and at + size <= len(data),
                     f"segment {seq}: record of {size} bytes at {at}")
                yield kind, data[at:at + size]
                at += size

    def _read_definitions(self, segments):
        for kind, rec in self._records(segments):
            if kind in (1, 8):
                what, length, _ = struct.unpack_from("<IIQ", rec, 8)
                text = rec[24:24 + length].decode(errors="replace")
                if kind == 8:
                    self.diags.append((DIAGS[what - 1], text))
                elif TEXTS[what] == "env":
                    self.env[text.partition("=")[0]] = text.partition("=")[2]
                else:
                    self.texts[TEXTS[what]] = text
            elif kind == 2:
                stream, tid = struct.unpack_from("<II", rec, 8)
                self.threads[stream] = (tid, rec[16:32].split(b"\0")[0].decode())
            elif kind == 3:
                fields = struct.unpack_from("<IIQQQiiiiiIHHI", rec, 8)
                self.comms[fields[0]] = dict(zip(
                    ("comm", "parent", "key", "handle", "created_ns", "ranks", "rank", "device", "color",
                     "split_key", "ordinal", "kind", "flags"), fields))
            elif kind == 4:
                comm, how, _, result = struct.unpack_from("<IIQi", rec, 8)
                self.comm_ends.append((comm, ENDS[how], result))
            elif kind == 5:
                site, frames = struct.unpack_from("<II", rec, 8)
                self.sites[site] = struct.unpack_from(f"<{frames}Q", rec, 16)
            elif kind == 6:
                base, start, end = struct.unpack_from("<3Q", rec, 8)
                length, = struct.unpack_from("<I", rec, 56)
                self.modules.append((base, start, end, rec[64:64 + length].decode()))
            elif kind == 7:
                event, _, _, capture, graph, source, execution = struct.unpack_from("<IIQQQQQ", rec, 8)
                self.graphs.append((GRAPH[event], capture, graph, source, execution))
            elif kind == 18:
                name, length = struct.unpack_from("<II", rec, 8)
                need(length <= 126 and name not in self.range_names, f"range name {name}: {length} bytes")
                self.range_names[name] = rec[16:16 + length]
            elif kind == 35:
                self.launches.append(struct.unpack_from("<QQQ", rec, 8))
            elif kind == 52:
                self._read_call(rec)
            elif kind in TIMES:
                self.times.append((TIMES[kind], rec))
            else:
                self.unknown += 1

    def _read_call(self, rec):
        ns, thing, call, site, tid, _ = struct.unpack_from("<QQIIiI", rec, 8)
        need(len(rec) == 40 and 0 < call < len(CALLS), f"a call of {len(rec)} bytes, number {call}")
        self.calls.append((ns, CALLS[call], thing, site, tid))
        self.calls.sort()

    def _range(self, rec, at):
        name, domain, kind, numbers, _, serial, *number = struct.unpack_from("<IIHHIQ3q", rec, at)
        need(name == 0 or name in self.range_names, f"range name {name} was not defined")
        need(domain == 0 or domain in self.range_names, f"domain {domain} was not defined")
        need(numbers <= 3 and serial and kind < 2, f"range {serial}: kind {kind}, {numbers} numbers")
        text = self.range_names.get(name, b"?")
        for n in number[:numbers]:
            text = text.replace(b"\1", str(n).encode(), 1)
        prefix = self.range_names[domain].decode() + ":" if domain else ""
        return prefix + text.decode(errors="backslashreplace")

    def _read_ranges(self, stream, rec):
        group, depth, marks, deeper, more = struct.unpack_from("<QHHHH", rec, 8)
        need(len(rec) == 24 + 48 * (depth + marks), f"ranges of group {group}: {len(rec)} bytes")
        entries = [self._range(rec, 24 + 48 * i) for i in range(depth + marks)]
        self.ranges.append((stream, group, entries[:depth], entries[depth:], deeper, more))

    def _read_stream(self, stream, segments):
        parts, parts_of = [], None
        for kind, rec in self._records(segments):
            if kind in (32, 33):
                call, ret, group, cells, site, lanes, result, _ = struct.unpack_from("<QQQIIHhI", rec, 8)
                need(len(rec) == 48 + 16 * cells + 40 * lanes, f"group {group}: {len(rec)} bytes")
                cell = [struct.unpack_from("<QIBBH", rec, 48 + 16 * i) for i in range(cells)]
                if parts and parts_of != group:
                    self.orphan_parts += len(parts)
                    parts = []
                parts, parts_of = parts + cell, group
                if kind == 33:
                    need(lanes == 0, f"group {group}: a part with lanes")
                    continue
                lane = [dict(zip(("comm", "flags", "stream", "exchange_seq", "op_seq", "capture"),
                                 struct.unpack_from("<IIQQQQ", rec, 48 + 16 * cells + 40 * i)))
                        for i in range(lanes)]
                need(call <= ret, f"group {group}: returned before it was called")
                need(all(c[4] < lanes for c in parts), f"group {group}: a cell of no lane")
                self.groups.append({"in": stream, "group": group, "call_ns": call, "return_ns": ret, "site": site,
                                    "result": result, "cells": parts, "lanes": lane})
                parts, parts_of = [], None
            elif kind == 34:
                comm, reason, before, exchanges, ops, peers, _ = struct.unpack_from("<IIQQQII", rec, 8)
                self.lost_records.append((comm, LOSS[reason], before, exchanges, ops,
                                          [struct.unpack_from("<IIQQ", rec, 48 + 24 * i)[::1] for i in range(peers)]))
            elif kind == 35:
                self.launches.append(struct.unpack_from("<QQQ", rec, 8))
            elif kind == 52:
                self._read_call(rec)
            elif kind == 36:
                self._read_ranges(stream, rec)
            elif kind in TIMES:
                self.times.append((TIMES[kind], rec))
            else:
                self.unknown += 1
        self.orphan_parts += len(parts)

    # ---- as text, in the words of the tests ----------------------------------------------------------

    @staticmethod
    def cell_text(cell):
        count, peer, op, dtype, lane = cell
        name = TYPES[dtype] if dtype < len(TYPES) else f"type{dtype}"
        return f"{OPS[op]} {count} {name} {peer}" + (f" @{lane}" if lane else "")

    def group_lines(self, stream=None):
        """group LANE… [result N] | CELL, …      LANE: C<comm>/<stream>:<exchange_seq>:<op_seq>"""
        out = []
        for g in self.groups:
            if stream is not None and g["in"] != stream:
                continue
            lanes = " ".join(f"C{l['comm']}/{l['stream']:#x}:{l['exchange_seq']}:{l['op_seq']}" for l in g["lanes"])
            result = f" result {g['result']}" if g["result"] else ""
            out.append(f"group {lanes}{result} | " + ", ".join(map(self.cell_text, g["cells"])))
        return out

    def comm_lines(self):
        out = []
        for c in sorted(self.comms.values(), key=lambda c: c["comm"]):
            flags = "".join(f" {n}" for b, n in ((1, "nonblocking"), (2, "unidentified")) if c["flags"] & b)
            text = f"comm C{c['comm']} {COMM_KINDS[c['kind']]} {c['rank']}/{c['ranks']}"
            if c["parent"]:
                text += f" of C{c['parent']} ordinal {c['ordinal']} color {c['color']} key {c['split_key']}"
            out.append(text + flags)
        return out + [f"end C{c} {how} {result}" for c, how, result in self.comm_ends]

    def loss_lines(self):
        out = [f"loss {reason} " + " ".join(f"{n} {v}" for n, v in counts.items())
               for reason, counts in sorted(self.loss.items())]
        for comm, reason, before, exchanges, ops, peers in self.lost_records:
            out.append(f"lost C{comm} before {before} {reason} exchanges {exchanges} ops {ops} | " +
                       ", ".join(f"{p}:{s}/{r}" for p, _, s, r in peers))
        return out

    def range_lines(self):
        """ranges GROUP: OUTER > INNER [+N] [| [N,] MARK, …]"""
        out = []
        for _, group, stack, marks, deeper, more in self.ranges:
            text = f"ranges {group}: " + " > ".join(stack) + (f" +{deeper}" if deeper else "")
            out.append((text + (" | " + ", ".join(([str(more)] if more else []) + marks) if marks else "")).rstrip())
        return out

    def lines(self):
        return (self.comm_lines() + self.group_lines() + self.loss_lines() +
                [f"diag {name}: {text}" for name, text in self.diags])


def read_all(directory):
    """All spool files below a directory, oldest first."""
    return sorted((Spool(p) for p in Path(directory).rglob("*.spool")), key=lambda s: s.created_ns)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for name in sys.argv[1:]:
        spool = Spool(name)
        print(f"# {name}: pid {spool.pid}, state {spool.state}, {spool.returned_groups} groups returned")
        print("\n".join(spool.lines()))

# SPDX-License-Identifier: Apache-2.0
"""Reads a trace (schema/trace.sql) into Seen, straight from the tables, with a decoder of vectors of its own."""
import json
import sqlite3

from facts import Seen, demand


def _numbers(blob, width, stride, count):
    if stride == 0:
        return [int.from_bytes(blob[:width], "big")] * count
    return [int.from_bytes(blob[i * stride:i * stride + width], "big") for i in range(count)]


def _vectors(db):
    """vector_id -> ((peer, units), ...)"""
    vectors = {}
    for key, cells, total, largest, sw, ss, pw, ps, sizes, peers in db.execute(
            "SELECT vector_id, cells, total, largest, size_width, size_stride, peer_width, peer_stride, sizes, peers "
            "FROM vector"):
        units = _numbers(sizes, sw, ss, cells)
        who = list(range(cells)) if peers is None else _numbers(peers, pw, ps, cells)
        demand(sum(units) == total and max(units, default=0) == largest, "vector", key, "has wrong totals")
        vectors[key] = tuple(zip(who, units))
    return vectors


def _spell(vectors, cache, vector, unit):
    if vector is None:
        return ()
    found = cache.get((vector, unit))
    if found is None:
        found = cache[vector, unit] = tuple((p, n * unit) for p, n in vectors[vector])
    return found


def read(path):
    """All processes of a trace, as Seen."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    demand(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path, "is damaged")
    demand(not db.execute("PRAGMA foreign_key_check").fetchall(), path, "has dangling references")
    processes, members, cache = {}, {}, {}
    for key, pid, cmdline, returned, stored, ended in db.execute(
            "SELECT process_id, pid, cmdline, returned_groups, stored_groups, ended FROM process"):
        processes[key] = Seen(pid=pid, cmdline=json.loads(cmdline) if cmdline else [], returned_groups=returned,
                              stored_groups=stored, ended=ended)
    for member, process, local in db.execute("SELECT member_id, process_id, local_comm FROM member"):
        members[member] = (processes[process], local - 1)
    vectors = _vectors(db)
    for member, seq, sv, rv, su, ru in db.execute(
            "SELECT member_id, seq, send_vector, recv_vector, send_unit, recv_unit FROM exchange"):
        seen, comm = members[member]
        stored = seen.exchanges.setdefault(comm, {})
        demand(seq not in stored, path, "pid", seen.pid, "communicator", comm, "exchange", seq, "is there twice")
        stored[seq] = (_spell(vectors, cache, sv, su), _spell(vectors, cache, rv, ru))
    for member, before, peer, sends, recvs in db.execute(
            "SELECT member_id, before_seq, peer, sends, recvs FROM loss_edge"):
        seen, comm = members[member]
        edges = seen.loss_edges.setdefault(comm, {}).setdefault(before, {})
        old = edges.setdefault(peer, [0, 0])
        edges[peer] = [old[0] + sends, old[1] + recvs]
    for process, reason, *counts in db.execute(
            "SELECT process_id, reason, groups, exchanges, operations, cells FROM loss"):
        processes[process].loss[reason] = tuple(counts)
    for process, code, text in db.execute("SELECT process_id, code, text FROM diagnostic"):
        if process is not None:
            processes[process].diagnostics.append((code, text))
    _check_coverage(db, path)
    db.close()
    return list(processes.values())


def _check_coverage(db, path):
    """The view that people read agrees: nothing is missing without a reason."""
    for row in db.execute("SELECT process_id, returned_groups, stored_groups, lost_groups, missing_groups FROM coverage"):
        demand(row[4] <= 0, path, "coverage says that groups are missing: (process, returned, stored, lost, missing)", row)


def query(path, sql, *values):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return db.execute(sql, values).fetchall()
    finally:
        db.close()

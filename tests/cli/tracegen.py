# SPDX-License-Identifier: Apache-2.0
"""Makes trace databases for tests, with nothing but schema/trace.sql and Python's sqlite3.

The packing of vectors is written from the comments in schema/trace.sql and shares no code with the
collector or with analysis/: what the tests compare against is computed here from plain lists.
"""
import math
import pathlib
import sqlite3

SCHEMA = pathlib.Path(__file__).resolve().parents[2] / "schema" / "trace.sql"
SENDRECV, ALLTOALL, ALLTOALLV = 0, 2, 3


def width_of(value):
    return max(1, (value.bit_length() + 7) // 8)


def pack(values):
    """(blob, width, stride): big-endian, once when all are equal."""
    width = width_of(max(values, default=0))
    if values and all(v == values[0] for v in values) and len(values) > 1:
        return values[0].to_bytes(width, "big"), width, 0
    return b"".join(v.to_bytes(width, "big") for v in values), width, width


class Trace:
    """One database. Communicators are made by `comm`, exchanges added by `exchange`."""

    def __init__(self, path, host="node0", **meta):
        self.path = str(path)
        self.db = sqlite3.connect(self.path)
        self.db.execute("PRAGMA synchronous = OFF")
        self.db.executescript(SCHEMA.read_text(encoding="utf-8"))
        facts = {"node": "0123456789abcdef", "host": host, "created_real_ns": "1000", "version": "0.1.0",
                 "min_reader_version": "1", **meta}
        self.db.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
        for op, name in enumerate(["send", "recv", "alltoall", "alltoallv", "alltoallv_recv", "allgather",
                                   "reducescatter", "allreduce"]):
            self.db.execute("INSERT OR IGNORE INTO op_name VALUES (?, ?)", (op, name))
        self.vectors = {}
        self.members = {}
        self.seq = {}
        self.time = 1_000_000

    def run(self, key, command='["true"]', status=0, labels=()):
        cursor = self.db.execute(
            "INSERT INTO run (key, command, cwd, version, incarnation, started_real_ns, ended_real_ns,"
            " exit_status) VALUES (?, ?, '/', '0.1.0', 0, 1000000000, 3500000000, ?)",
            (key, command, status))
        for name, value in labels:
            self.db.execute("INSERT INTO run_label VALUES (?, ?, ?)", (cursor.lastrowid, name, value))
        return cursor.lastrowid

    def process(self, rank, run_id=None, returned=0, stored=0):
        return self.db.execute(
            "INSERT INTO process (run_id, key, pid, host, exe, world_rank, nccl_version, nccl_path,"
            " nccl_route, started_ns, started_real_ns, ended, returned_groups, stored_groups)"
            " VALUES (?, ?, ?, 'node0', '/usr/bin/python3', ?, 22809, '/usr/lib/libnccl.so.2', 'next', 1,"
            " 1, 'exited', ?, ?)",
            (run_id, f"p-{self.path}-{rank}", 100 + rank, rank, returned, stored)).lastrowid

    def comm(self, key, ranks, processes, kind="init_rank", known=True):
        """processes: rank → process_id, for the ranks that are in this database."""
        comm_id = self.db.execute("INSERT INTO communicator (key, kind, ranks) VALUES (?, ?, ?)",
                                  (key, kind, ranks if known else None)).lastrowid
        for rank, process in processes.items():
            local = self.db.execute("SELECT count(*) FROM member WHERE process_id = ?",
                                    (process,)).fetchone()[0] + 1
            self.members[comm_id, rank] = self.db.execute(
                "INSERT INTO member (comm_id, rank, process_id, local_comm, device, handle, created_ns)"
                " VALUES (?, ?, ?, ?, ?, 4096, 1)", (comm_id, rank, process, local, rank)).lastrowid
        return comm_id

    def vector(self, cells):
        """cells: list of (peer, bytes). Returns (vector_id, unit)."""
        if cells is None:
            return None, 0
        unit = math.gcd(*(size for _, size in cells)) if cells else 0
        sizes = [size // unit if unit else 0 for _, size in cells]
        peers = [peer for peer, _ in cells]
        key = (tuple(peers), tuple(sizes))
        if key not in self.vectors:
            size_blob, size_width, size_stride = pack(sizes)
            peer_blob, peer_width, peer_stride = (None, 1, 1) if peers == list(range(len(peers))) else \
                pack(peers)
            self.vectors[key] = self.db.execute(
                "INSERT INTO vector (cells, total, largest, size_width, size_stride, peer_width,"
                " peer_stride, sizes, peers) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (len(cells), sum(sizes), max(sizes, default=0), size_width, size_stride, peer_width,
                 peer_stride, size_blob, peer_blob)).lastrowid
        return self.vectors[key], unit

    def exchange(self, comm_id, rank, send, recv, op=SENDRECV, seq=None, label=None):
        """send, recv: lists of (peer, bytes), or None for a side without any call."""
        member = self.members[comm_id, rank]
        if seq is None:
            seq = self.seq.get(member, 0)
        self.seq[member] = seq + 1
        self.time += 1000
        send_id, send_unit = self.vector(send)
        recv_id, recv_unit = self.vector(recv)
        exchange = self.db.execute(
            "INSERT INTO exchange (member_id, seq, op, start_ns, enqueue_ns, dtype, send_vector,"
            " recv_vector, send_unit, recv_unit, thread, group_seq, flags)"
            " VALUES (?, ?, ?, ?, 500, 9, ?, ?, ?, ?, 1, ?, 0)",
            (member, seq, op, self.time, send_id, recv_id, send_unit, recv_unit, seq)).lastrowid
        if label:
            self.db.execute("INSERT INTO exchange_label (exchange_id, role, step, layer, microbatch, confidence, source) VALUES (?, ?, ?, ?, 0, 1.0, 'test')",
                            (exchange, label.get("role"), label.get("step"), label.get("layer")))
        return exchange

    def matrix(self, comm_id, matrix, ranks=None, seq=None, op=SENDRECV, label=None):
        """One exchange of all ranks (or some): matrix[i][j] bytes from i to j."""
        size = len(matrix)
        for rank in range(size) if ranks is None else ranks:
            self.exchange(comm_id, rank, [(j, matrix[rank][j]) for j in range(size)],
                          [(i, matrix[i][rank]) for i in range(size)], op, seq, label)

    def close(self):
        longest = self.db.execute("SELECT coalesce(max(cells), 0) FROM vector").fetchone()[0]
        self.db.executemany("INSERT INTO ordinal VALUES (?)", [(n,) for n in range(longest)])
        groups = {}
        for process, count in self.db.execute(
                "SELECT process_id, count(*) FROM exchange JOIN member USING (member_id)"
                " GROUP BY process_id"):
            groups[process] = count
        for process, count in groups.items():
            self.db.execute("UPDATE process SET returned_groups = max(returned_groups, ?),"
                            " stored_groups = max(stored_groups, ?) WHERE process_id = ?",
                            (count, count, process))
        self.db.commit()
        self.db.close()


def simple(path, matrices, key="00c0ffee00c0ffee", **extra):
    """A trace with one communicator and one exchange of all ranks for each matrix."""
    trace = Trace(path)
    run_id = trace.run("20261122-101500-00000001", '["torchrun", "train.py"]', labels=[("ep", "8")])
    size = len(matrices[0])
    comm = trace.comm(key, size, {r: trace.process(r, run_id) for r in range(size)})
    for matrix in matrices:
        trace.matrix(comm, matrix, **extra)
    trace.close()
    return comm

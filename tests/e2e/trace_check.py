# SPDX-License-Identifier: Apache-2.0
"""Compares a trace database with what expected.py computes: every cell of every exchange, send and
receive side, and every other operation, in order, on every rank."""
import os
import sqlite3

from truth_check import comm_size

COMMS = ["world", "ep", "tp_ep", "sp", "pp", "dp", "moe_dp"]  # the order in which a rank makes them


def database(path):
    return os.path.join(path, "trace.db") if os.path.isdir(path) else path


def comms_of(job, expected, split):
    """Names of a rank's communicators, in order of creation."""
    used = {call.comm for call in expected[0]}
    if job.ep_groups > 1 or split:
        used.add("world")
    return [c for c in COMMS if c in used]


def edges_by_exchange(db, view, peer):
    cells = {}
    for exchange, other, nbytes in db.execute(
            f"SELECT exchange_id, {peer}, bytes FROM {view} ORDER BY exchange_id, ordinal"):
        cells.setdefault(exchange, []).append((other, nbytes))
    return cells


class Trace:
    def __init__(self, path):
        self.db = sqlite3.connect(f"file:{database(path)}?mode=ro", uri=True)
        self.sent = edges_by_exchange(self.db, "edges", "dst_rank")
        self.received = edges_by_exchange(self.db, "recv_edges", "src_rank")

    def members(self):
        """{(world rank, ordinal of the communicator in its creation): (member, rank, ranks, comm)}"""
        rows = self.db.execute(
            """SELECT p.world_rank, m.process_id, m.comm_id, m.member_id, m.rank, c.ranks
               FROM member m JOIN process p USING (process_id) JOIN communicator c USING (comm_id)
               ORDER BY m.process_id, m.local_comm""").fetchall()
        if all(row[0] is None for row in rows):
            return self.members_of_threads(rows)
        out, seen = {}, {}
        for world, process, comm, member, rank, ranks in rows:
            n = seen.setdefault(process, 0)
            seen[process] += 1
            out[world, n] = (member, rank, ranks, comm)
        return out

    def members_of_threads(self, rows):
        """One process holds all ranks of one EP group: every communicator has all of them, and none is
        begun before all ranks have finished the one before."""
        order = [comm for comm, in self.db.execute(
            "SELECT comm_id FROM member GROUP BY comm_id ORDER BY min(created_ns)")]
        return {(rank, order.index(comm)): (member, rank, ranks, comm)
                for _, _, comm, member, rank, ranks in rows}

    def matrices(self, comm):
        """{seq: {(source, destination): bytes}} as the view gives them."""
        out = {}
        for seq, src, dst, nbytes in self.db.execute(
                "SELECT seq, src_rank, dst_rank, bytes FROM exchange_matrix WHERE comm_id = ?", (comm,)):
            out.setdefault(seq, {})[src, dst] = nbytes
        return out

    def loads(self, comm):
        return {(seq, rank): (sent, received) for seq, rank, sent, received in self.db.execute(
            "SELECT seq, rank, send_bytes, recv_bytes FROM rank_load WHERE comm_id = ?", (comm,))}

    def exchanges(self, member):
        return self.db.execute(
            """SELECT e.exchange_id, o.name, e.dtype, e.flags & 1 FROM exchange e JOIN op_name o USING (op)
               WHERE member_id = ? ORDER BY seq""", (member,)).fetchall()

    def operations(self, member):
        return self.db.execute(
            """SELECT o.name, q.dtype, q.count, q.root, q.flags & 1 FROM operation q
               JOIN op_name o USING (op) WHERE member_id = ? ORDER BY seq""", (member,)).fetchall()

    def one(self, query):
        return self.db.execute(query).fetchone()[0]


def is_exchange(call):
    return call.op in ("sendrecv", "ncclAlltoAll")


def compare_exchanges(trace, member, expected, who, wrong):
    got = trace.exchanges(member)
    if len(got) != len(expected):
        wrong.append(f"trace: {who} has {len(got)} exchanges, expected {len(expected)}")
    for n, ((exchange, op, dtype, captured), call) in enumerate(zip(got, expected)):
        where = f"trace: {who}, exchange {n} ({call.role}, {call.where})"
        name = "alltoall" if call.op == "ncclAlltoAll" else "sendrecv"
        for what, value, want in (
                ("sends", trace.sent.get(exchange, []), call.sends),
                ("receives", trace.received.get(exchange, []), call.recvs),
                ("is an alltoall", op == "alltoall", name == "alltoall"),
                ("data type", dtype, call.datatype),
                ("captured", bool(captured), call.where["captured"])):
            if value != want:
                wrong.append(f"{where}: {what}: {value}, expected {want}")
        if len(wrong) > 5:
            return


def compare_operations(trace, member, expected, who, wrong):
    flat = []
    for call in expected:
        if call.op == "collectives":
            flat += [(c[0], c[2], c[1], c[3]) for c in call.calls]
        else:
            flat.append((call.op, call.datatype, call.count, 0))
    got = trace.operations(member)
    if len(got) != len(flat):
        wrong.append(f"trace: {who} has {len(got)} other operations, expected {len(flat)}")
    for n, ((op, dtype, count, root, _), want) in enumerate(zip(got, flat)):
        have = ("nccl" + op.lower(), dtype, count)
        if have != (want[0].lower(), want[1], want[2]):
            wrong.append(f"trace: {who}, operation {n}: {have}, expected {want}")
        elif want[0] in ("ncclBroadcast", "ncclReduce") and root != want[3]:
            wrong.append(f"trace: {who}, operation {n}: root {root}, expected {want[3]}")
        if len(wrong) > 5:
            return


def compare_views(trace, comm, expected, who, wrong):
    """The views that users ask, where all ranks make the same calls: exchange_matrix and rank_load.
    `expected` has a list of exchanges for each rank of the communicator."""
    if len({len(calls) for calls in expected}) != 1:
        return
    matrices, loads = trace.matrices(comm), trace.loads(comm)
    if sorted(matrices) != list(range(len(expected[0]))):
        wrong.append(f"trace: {who}: exchange_matrix has {len(matrices)} exchanges in a row, expected "
                     f"{len(expected[0])}")
    for seq in range(len(expected[0])):
        want = {}
        for src, calls in enumerate(expected):
            for dst, nbytes in calls[seq].sends:
                want[src, dst] = want.get((src, dst), 0) + nbytes
        if matrices.get(seq) != want:
            wrong.append(f"trace: {who}, exchange {seq}: exchange_matrix differs")
        for rank in range(len(expected)):
            load = tuple(sum(b for _, b in cells) for cells in
                         (expected[rank][seq].sends, expected[rank][seq].recvs))
            if loads.get((seq, rank)) != load:
                wrong.append(f"trace: {who}, exchange {seq}: rank_load of rank {rank}: "
                             f"{loads.get((seq, rank))}, expected {load}")
        if len(wrong) > 5:
            return


def compare_launches(trace, job, wrong):
    launches = trace.db.execute("SELECT launches, count(*) FROM capture_launches GROUP BY 1").fetchall()
    want = [(job.graph, job.ranks)] if job.graph else []
    if launches != want:
        wrong.append(f"trace: (launches, captures) are {launches}, expected {want}")


def check(job, expected, path, split=False):
    """Returns a list of differences, at most a few."""
    wrong = []
    trace = Trace(path)
    lost = trace.one("SELECT coalesce(sum(exchanges + operations), 0) FROM loss")
    missing = trace.one("SELECT coalesce(sum(missing_groups), 0) FROM coverage")
    if lost or missing:
        wrong.append(f"trace: {lost} lost, {missing} missing")
    members, names = trace.members(), comms_of(job, expected, split)
    if len(members) != job.ranks * len(names):
        wrong.append(f"trace: {len(members)} members of communicators, expected "
                     f"{job.ranks} ranks x {names}")
    for rank in range(job.ranks):
        for n, comm in enumerate(names):
            if (rank, n) not in members:
                wrong.append(f"trace: world rank {rank} has no communicator {comm}")
                continue
            member, _, ranks, _ = members[rank, n]
            who = f"rank {rank}, communicator {comm}"
            own = [c for c in expected[rank] if c.comm == comm and c.op != "empty"]
            if own and ranks != comm_size(job, comm):
                wrong.append(f"trace: {who} has {ranks} ranks, expected {comm_size(job, comm)}")
            compare_exchanges(trace, member, [c for c in own if is_exchange(c)], who, wrong)
            compare_operations(trace, member, [c for c in own if not is_exchange(c)], who, wrong)
            if len(wrong) > 5:
                return wrong
    if job.ep_groups == 1:
        for n, comm in enumerate(names):
            calls = [[c for c in rank if c.comm == comm and is_exchange(c)] for rank in expected]
            compare_views(trace, members[0, n][3], calls, f"communicator {comm}", wrong)
    compare_launches(trace, job, wrong)
    return wrong

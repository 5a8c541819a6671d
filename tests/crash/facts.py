# SPDX-License-Identifier: Apache-2.0
"""What traffic.c must have exchanged, and whether what was seen of it is that, exactly once.

`Seen` is one process as a spool or a trace shows it (spoolfile.py, tracefile.py fill it in). Nothing here
knows how either is laid out.
"""
import functools
from dataclasses import dataclass, field

PERIOD = 509 * 28  # of size() and sends() in the exchange's number


@dataclass
class Seen:
    """One process. Communicators are numbered as traffic.c does it: from 0, in order of creation."""
    pid: int = 0
    cmdline: list = field(default_factory=list)
    exchanges: dict = field(default_factory=dict)   # comm -> {seq: (sends, recvs)}, each ((peer, bytes), ...)
    loss_edges: dict = field(default_factory=dict)  # comm -> {before_seq: {peer: [sends, recvs]}}
    loss: dict = field(default_factory=dict)        # reason -> (groups, exchanges, operations, cells)
    returned_groups: int = 0
    stored_groups: int = 0
    ended: str = ""
    diagnostics: list = field(default_factory=list)  # (code, text)

    def option(self, name, default=None):
        for argument in self.cmdline:
            if argument.startswith(name + "="):
                return argument[len(name) + 1:]
        return default

    def lost(self, column=1):
        return sum(row[column] for row in self.loss.values())


def size(comm, i, src, dst):
    return (i * 7 + src * 3 + dst * 11 + comm * 13) % 509


def sends(sparse, i, src, dst):
    if not sparse:
        return 1
    key = i + src * 5 + dst * 3
    return 0 if key % 4 == 0 else 2 if key % 7 == 0 else 1


@functools.lru_cache(maxsize=200000)
def _content(comm, i, rank, ranks, sparse):
    out = tuple((p, 4 * size(comm, i, rank, p)) for p in range(ranks) for _ in range(sends(sparse, i, rank, p)))
    into = tuple((p, 4 * size(comm, i, p, rank)) for p in range(ranks) for _ in range(sends(sparse, i, p, rank)))
    return out, into


def content(comm, i, rank, ranks, sparse=False):
    """The sends and receives of one exchange: ((peer, bytes), ...) each, in the order of the calls."""
    return _content(comm, i % PERIOD, rank, ranks, sparse)


class Wrong(AssertionError):
    pass


def demand(condition, *words):
    if not condition:
        texts = [str(word) for word in words]
        raise Wrong(" ".join(text if len(text) < 3000 else text[:3000] + " …" for text in texts))


def _check_gaps(name, seen, comm, rank, ranks, sparse):
    """Every stored send must be known as the n-th of its pair, in spite of what was lost before it."""
    stored, edges = seen.exchanges.get(comm, {}), seen.loss_edges.get(comm, {})
    told = {p: [0, 0] for p in range(ranks)}
    truth = {p: [0, 0] for p in range(ranks)}
    for before in edges:
        demand(before in stored, name, "communicator", comm, "tells of losses before exchange", before,
               "which is not stored")
    for i in range(max(stored, default=-1) + 1):
        for p, (s, r) in edges.get(i, {}).items():
            told[p][0] += s
            told[p][1] += r
        if i in stored:
            demand(told == truth, name, "communicator", comm, "before exchange", i, "sends and receives by peer are",
                   told, "instead of", truth)
        both = content(comm, i, rank, ranks, sparse)
        for side in (0, 1):
            for p, _ in both[side]:
                truth[p][side] += 1
                if i in stored:
                    told[p][side] += 1


def check(seen, counters, exact):
    """Compares one process with its counters: [(begun, returned), ...] by communicator.

    exact: it was not killed, so begun and returned agree and nothing is in between. Else at most one exchange
    a thread may be there without its wrapper having returned.
    Returns (stored, lost) exchanges.
    """
    name = f"pid {seen.pid} ({' '.join(seen.cmdline[1:])}):"
    rank, ranks = int(seen.option("rank", 0)), int(seen.option("ranks", 2))
    sparse = seen.option("pattern") == "sparse"
    missing = between = stored_total = missing_cells = 0
    for comm, (begun, returned) in enumerate(counters):
        stored = seen.exchanges.get(comm, {})
        demand(begun - returned in (0, 1) and not (exact and begun != returned), name, "counters", begun, returned)
        for i, both in stored.items():
            demand(i < begun, name, "communicator", comm, "holds exchange", i, "but only", begun, "were begun")
            right = content(comm, i, rank, ranks, sparse)
            demand(both == right, name, "communicator", comm, "exchange", i, "is", both, "instead of", right)
        stored_total += len(stored)
        if len(stored) - (begun - 1 in stored and begun > returned) != returned:
            gone = [i for i in range(returned) if i not in stored]
            missing += len(gone)
            if exact:
                missing_cells += sum(len(side) for i in gone for side in content(comm, i, rank, ranks, sparse))
        between += begun - returned - (begun > returned and begun - 1 in stored)
        if seen.loss:
            _check_gaps(name, seen, comm, rank, ranks, sparse)
        else:
            demand(not seen.loss_edges.get(comm), name, "loss edges without a loss")
    demand(all(comm < len(counters) for comm in seen.exchanges), name, "communicators", list(seen.exchanges))
    lost = seen.lost()
    demand(missing <= lost <= missing + between, name, missing, "exchanges are not stored, and", lost,
           "are counted as lost:", seen.loss)
    # Four counters are moved one after the other: one a thread may be in between.
    demand(abs(seen.lost(0) - lost) <= (0 if exact else len(counters)), name, "groups and exchanges lost differ:", seen.loss)
    demand(seen.lost(2) == 0, name, "operations lost, of which there are none:", seen.loss)
    if exact:
        demand(seen.lost(3) == missing_cells, name, missing_cells, "calls are not stored, counted:", seen.loss)
    for reason, row in seen.loss.items():
        demand(row[0] > 0, name, "an empty loss row:", reason)
    demand(seen.stored_groups == stored_total, name, "stored groups", seen.stored_groups, "exchanges", stored_total)
    # The counter of returned groups moves after the record or the loss: one a thread may be in between.
    short = seen.stored_groups + seen.lost(0) - seen.returned_groups
    demand(0 <= short <= (0 if exact else len(counters)), name, "returned groups", seen.returned_groups, "stored",
           seen.stored_groups, "lost", seen.lost(0))
    return stored_total, lost


def check_pairs(processes, counters_of):
    """The n-th send i→j is the n-th receive j←i, over all processes of one job that all ran to the end.

    processes: {rank: Seen}; counters_of: {rank: [(begun, returned), ...]}.
    Every stored send is compared with the stored receive of the same ordinal, found only through what the
    trace says (sequence, loss edges), and with what traffic.c sent. Returns how many pairs were compared.
    """
    compared = 0
    for comm in range(len(next(iter(counters_of.values())))):
        lists = {rank: _numbered(seen, comm) for rank, seen in processes.items()}
        for src in processes:
            for dst in processes:
                out, into = lists[src][0].get(dst, {}), lists[dst][1].get(src, {})
                for n in out.keys() & into.keys():
                    demand(out[n] == into[n], f"communicator {comm}: send {n} of {src} to {dst} has {out[n]} bytes, "
                           f"its receive {into[n]}")
                    compared += 1
    return compared


def _numbered(seen, comm):
    """({peer: {n: bytes}} of sends, and of receives)."""
    at, lists = ({}, {}), ({}, {})
    stored, edges = seen.exchanges.get(comm, {}), seen.loss_edges.get(comm, {})
    for i in sorted(stored):
        for p, lost in edges.get(i, {}).items():
            for side in (0, 1):
                at[side][p] = at[side].get(p, 0) + lost[side]
        for side in (0, 1):
            for p, count in stored[i][side]:
                n = at[side].get(p, 0)
                lists[side].setdefault(p, {})[n] = count
                at[side][p] = n + 1
    return lists

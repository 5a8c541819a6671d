# SPDX-License-Identifier: Apache-2.0
"""From a database to all metrics with intervals, beside what people do without us: GROUP BY over a table of edges.

A synthetic job of 64 ranks × 58 layers × 200 steps, dispatch and combine, labels saved, no vector twice: 1.5 million
exchanges, 95 million edges. Issue 4 promises at most 6 s and 2 GiB on 2 cores. "All metrics" are those of ranks and of
experts, so both commands count, one after the other: skew (with the matrices, so that every edge is read) and router.
The rival computes the matrices alone, from a table that is already there; they are compared, so a fast wrong answer fails.

Then the same at 256, 1,024 and 4,096 ranks: the cost of an edge more, between a trace and one of more steps, so that what
is paid once (floors, placements, printing matrices of ranks × ranks) is apart from what is paid for each edge.

SKEWSCOPE_BENCH_STEPS sets the steps (200), SKEWSCOPE_BENCH_TURNS the turns (3), SKEWSCOPE_BENCH_CURVE=0 leaves the curve out.
Needs about 6 GB in the temporary directory at 200 steps.
"""
import itertools
import json
import os
import pathlib
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

import benchlib

TOOL = sys.argv[1]
RANKS, LAYERS = 64, 58
STEPS = int(os.environ.get("SKEWSCOPE_BENCH_STEPS", "200"))
TURNS = int(os.environ.get("SKEWSCOPE_BENCH_TURNS", "3"))
CURVE = os.environ.get("SKEWSCOPE_BENCH_CURVE", "1") != "0"
TARGET_S, TARGET_GIB = 6, 2
COMMANDS = {"skew": ["skew", "--json", "--matrices"], "router": ["router", "--json"]}


class Run:
    """One run of the tool: what it said (if kept), wall and processor seconds, the most memory in GiB."""
    def __init__(self, arguments, keep=False):
        start = time.monotonic()
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen([TOOL, *arguments], stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
            self.wall = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
            out.seek(0)
            # What this process holds would count as the next child's memory.
            self.answer = out.read() if keep else None
        self.cpu = usage.ru_utime + usage.ru_stime
        self.gib = usage.ru_maxrss / 2**20


def synthesise(path, ranks, layers, steps, experts):
    subprocess.run([TOOL, "synth", "-q", "-o", path, "--ranks", str(ranks), "--layers", str(layers), "--steps",
                    str(steps), "--experts", str(experts), "--topk", "8", "--tokens", "512", "--routing", "zipf",
                    "--no-device-time"], check=True)


def describe_trace(trace):
    with sqlite3.connect(trace) as db:
        exchanges, edges, repeated = db.execute(
            "SELECT count(*), sum(v.cells), count(*) - count(DISTINCT e.send_vector)"
            " FROM exchange e JOIN vector v ON v.vector_id = e.send_vector").fetchone()
        labels, = db.execute("SELECT count(*) FROM exchange_label").fetchone()
    print(f"{exchanges:,} exchanges, all labelled: {labels == exchanges}, {edges:,} edges, {repeated:,} vectors sent again,"
          f" {os.path.getsize(trace) / 2**20:.0f} MiB")


def rows_of(trace):
    """The edges of a trace, vector after vector; decoded without a step of Python for each, to be done today."""
    source = sqlite3.connect(trace)
    for role, layer, rank, unit, width, stride, cells, sizes, plain in source.execute(
            "SELECT b.role, b.layer, m.rank, e.send_unit, v.size_width, v.size_stride, v.cells, v.sizes, v.peers IS NULL"
            " FROM exchange e JOIN member m USING (member_id) JOIN exchange_label b USING (exchange_id)"
            " JOIN vector v ON v.vector_id = e.send_vector"):
        assert plain and stride == width and width <= 2
        values = sizes if width == 1 else struct.unpack(f">{cells}H", sizes)
        yield zip(itertools.repeat(role), itertools.repeat(layer), itertools.repeat(rank), itertools.count(),
                  map(unit.__mul__, values))


def plain_edges(trace, path):
    """A table with a row an edge, as one would make it without packed vectors."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("CREATE TABLE edge (role TEXT, layer INTEGER, src INTEGER, dst INTEGER, bytes INTEGER)")
    db.executemany("INSERT INTO edge VALUES (?, ?, ?, ?, ?)", itertools.chain.from_iterable(rows_of(trace)))
    db.commit()
    return db


def rival(trace, directory):
    """(matrices, wall, processor seconds)"""
    path = str(pathlib.Path(directory) / "plain.db")
    db = plain_edges(trace, path)
    print(f"the rival's table of edges: {os.path.getsize(path) / 2**20:.0f} MiB; load {benchlib.load()}")
    db.execute(f"PRAGMA threads = {os.cpu_count()}")
    db.execute("PRAGMA cache_size = -1000000")
    wall, processor = time.monotonic(), time.process_time()
    rows = db.execute("SELECT role, layer, src, dst, sum(bytes) FROM edge GROUP BY 1, 2, 3, 4").fetchall()
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    db.close()
    os.unlink(path)
    return rows, wall, processor


def compare(answer, theirs):
    ours = {(e["role"], e["layer"]): e["matrix"] for e in json.loads(answer)["exchanges"]}
    wrong = sum(ours[role, layer][src][dst] != value for role, layer, src, dst, value in theirs)
    if wrong or len(theirs) != sum(len(m) ** 2 for m in ours.values()):
        sys.exit(f"{wrong} cells of the matrices differ")


def show(name, runs):
    wall, cpu = [r.wall for r in runs], [r.cpu for r in runs]
    print(f"{name:30} wall {benchlib.median(wall):6.2f} s (least {min(wall):.2f})   processors {benchlib.median(cpu):6.2f} s"
          f" (least {min(cpu):.2f})   {max(r.gib for r in runs):.2f} GiB")


class Both:
    """Two commands of one turn, as one."""
    def __init__(self, runs):
        self.wall, self.cpu = sum(r.wall for r in runs), sum(r.cpu for r in runs)
        self.gib = max(r.gib for r in runs)


def promised(directory):
    trace = str(pathlib.Path(directory) / "big.db")
    synthesise(trace, RANKS, LAYERS, STEPS, 256)
    runs = {name: [] for name in COMMANDS}
    for turn in range(TURNS):
        for name in benchlib.turns(list(COMMANDS), turn):
            runs[name].append(Run([*COMMANDS[name], trace]))
    describe_trace(trace)
    for name, arguments in COMMANDS.items():
        show("skewscope " + " ".join(arguments), runs[name])
    both = [Both(pair) for pair in zip(*runs.values())]
    show("both, one after the other", both)
    print(f"promised at 200 steps on 2 quiet cores: {TARGET_S} s, {TARGET_GIB} GiB; load now {benchlib.load()}")
    theirs, wall, cpu = rival(trace, directory)
    print(f"sqlite3 {sqlite3.sqlite_version} GROUP BY, matrices alone: wall {wall:6.2f} s   processors {cpu:6.2f} s")
    print(f"ratio, theirs over both of ours: wall {wall / benchlib.median([b.wall for b in both]):.1f},"
          f" processors {cpu / benchlib.median([b.cpu for b in both]):.1f}")
    compare(Run([*COMMANDS["skew"], trace], keep=True).answer, theirs)
    print(f"the matrices agree in all {len(theirs):,} cells")
    os.unlink(trace)


def curve(directory):
    print("processor time of the same two commands by ranks: of one trace, and of an edge more")
    print(f"{'ranks':>6} {'edges':>12} {'skew':>8} {'router':>8} {'ns an edge':>12} {'of an edge more':>16}")
    for ranks, layers, few, many in ((64, 8, 16, 176), (256, 4, 8, 56), (1024, 2, 4, 14), (4096, 1, 2, 4)):
        edges, least = [], []
        for steps in few, many:
            trace = str(pathlib.Path(directory) / f"ranks{ranks}-steps{steps}.db")
            synthesise(trace, ranks, layers, steps, max(ranks, 256))
            edges.append(ranks * ranks * layers * steps * 2)
            least.append([min(Run([*arguments, trace]).cpu for _ in range(3)) for arguments in COMMANDS.values()])
            os.unlink(trace)
        more = (sum(least[1]) - sum(least[0])) / (edges[1] - edges[0])
        print(f"{ranks:6} {edges[1]:12,} {least[1][0]:7.2f}s {least[1][1]:7.2f}s {sum(least[1]) / edges[1] * 1e9:9.1f}"
              f" {more * 1e9:16.1f}")


def main():
    if subprocess.run([TOOL, "synth", "--help"], capture_output=True, check=False).returncode:
        print("skipped: this skewscope has no synth")
        return benchlib.SKIP
    benchlib.describe_machine()
    with tempfile.TemporaryDirectory() as directory:
        promised(directory)
        if CURVE:
            curve(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

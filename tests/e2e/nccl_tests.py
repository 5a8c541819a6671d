#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unmodified nccl-tests on the stand-ins, under the profiler: the trace holds exactly the calls and
bytes that the arguments imply.

usage: nccl_tests.py SKEWSCOPE [CASE...]

SKEWSCOPE_NCCL_TESTS names a directory with a built alltoall_perf, sendrecv_perf and alltoallv_perf;
without it the test is skipped. Runs with several processes need a build with MPI=1 (these programs,
or ones with the suffix _mpi) and mpirun. SKEWSCOPE_TEST_SEED repeats a random matrix.
"""
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile

from nccl_tests_calls import Run, expected

SEED = int(os.environ.get("SKEWSCOPE_TEST_SEED") or random.SystemRandom().randrange(1 << 30))


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def skewed_matrix(ranks, rng, idle=None):
    """Heavy-tailed, with zeros; rank `idle` neither sends nor receives. Bytes, not multiples of 16."""
    rows = [[0 if rng.random() < 0.2 else min(int(rng.paretovariate(0.6) * 100), 60000) for _ in range(ranks)]
            for _ in range(ranks)]
    for r in range(ranks):
        if idle is not None:
            rows[idle][r] = rows[r][idle] = 0
        elif sum(rows[r]) < 64:
            rows[r][(r + 1) % ranks] = 777
    return rows


def cases(rng):
    matrix = skewed_matrix(8, rng)
    return {
        "alltoall": [
            Run("alltoall", gpus=2), Run("alltoall", threads=4, gpus=2, low=4096),
            Run("alltoall", threads=2, graph=3), Run("alltoall", gpus=4, graph=2, iters=2),
            Run("alltoall", threads=2, gpus=2, agg=3), Run("alltoall", gpus=3, low=5000, high=50000, factor=3),
            Run("alltoall", gpus=2, low=16, high=1024), Run("alltoall"),
            Run("alltoall", threads=2, extra=["-R", "2", "-p", "1"]),
        ],
        "alltoall-old": [
            Run("alltoall", threads=2, gpus=2, old_nccl=True), Run("alltoall", threads=2, graph=2, old_nccl=True),
            Run("sendrecv", gpus=3, agg=2, old_nccl=True),
        ],
        "sendrecv": [
            Run("sendrecv", gpus=2), Run("sendrecv", threads=4, gpus=2, warmup=3), Run("sendrecv", threads=4, agg=2),
            Run("sendrecv", threads=2, gpus=2, graph=2), Run("sendrecv", gpus=2, low=4, high=4, dtype="double"),  # zero bytes
            Run("sendrecv", gpus=2, extra=["-R", "1", "-z", "1"]),
        ],
        "alltoallv": [
            Run("alltoallv", threads=2, gpus=4, low=1 << 20, high=1 << 20, matrix=matrix),
            Run("alltoallv", threads=8, low=1 << 20, high=1 << 20, matrix=matrix, graph=2),
            Run("alltoallv", gpus=4, low=1 << 20, high=1 << 20, matrix=skewed_matrix(4, rng, idle=2)),
            Run("alltoallv", gpus=4), Run("alltoallv", threads=3, graph=1),
        ],
        "types": [Run("alltoall", gpus=2, dtype="all", high=4096), Run("sendrecv", gpus=2, dtype="all", high=4096)],
        "mpi": [
            Run("alltoall", procs=4), Run("alltoall", procs=2, threads=2, gpus=2, low=4096, graph=2),
            Run("sendrecv", procs=8, agg=2),
            Run("alltoallv", procs=8, low=1 << 20, high=1 << 20, matrix=matrix),
            Run("alltoallv", procs=4, gpus=2, low=1 << 20, high=1 << 20, matrix=matrix, graph=2),
        ],
    }


class Programs:
    def __init__(self, directory):
        self.directory = directory
        for name in ("alltoall", "sendrecv", "alltoallv"):
            if not os.path.exists(self.path(name)):
                skip(f"{self.path(name)} is not there: build nccl-tests first")

    def path(self, name, suffix=""):
        return os.path.join(self.directory, f"{name}_perf{suffix}")

    def mpi(self, name):
        """The program with MPI support, or None."""
        for suffix in ("_mpi", ""):
            path = self.path(name, suffix)
            if os.path.exists(path):
                with open(path, "rb") as f:
                    if b"libmpi" in f.read():
                        return path
        return None


def command(programs, run):
    if run.procs == 1:
        return [programs.path(run.program), *run.arguments()]
    launch = ["mpirun", "--oversubscribe", "-np", str(run.procs)]
    if os.getuid() == 0:
        launch.insert(1, "--allow-run-as-root")
    return [*launch, programs.mpi(run.program), *run.arguments()]


def environment(run, directory):
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("SKEWSCOPE_", "NCCL_")) and k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if run.old_nccl:
        env["SKEWSCOPE_STANDIN_NCCL_VERSION"] = "22304"
    if run.matrix:
        path = os.path.join(directory, "matrix.txt")
        with open(path, "w", encoding="utf-8") as f:
            f.writelines(" ".join(map(str, row)) + "\n" for row in run.matrix)
        env["NCCL_TESTS_ALLTOALLV_MATRIX_FILE"] = path
    return env


def execute(skewscope, programs, run, directory):
    out = os.path.join(directory, "trace")
    result = subprocess.run([skewscope, "run", "--standin", "--out", out, "--", *command(programs, run)],
                            env=environment(run, directory), stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, check=False)
    if result.returncode != 0 or "# Out of bounds values : 0 OK" not in result.stdout:
        sys.exit(f"{describe(run)}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    if run.procs == 1:  # the lines of several processes come in any order
        compare_output(skewscope, programs, run, result.stdout, directory)
    return os.path.join(out, "trace.db")


def settled(text):
    """What must not change from run to run: everything but times, bandwidths and process ids."""
    out = []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("# Avg bus bandwidth"):
            continue
        if "Pid" in words:
            words[words.index("Pid") + 1] = "…"
        out.append(" ".join(words[:5] if words and words[0].isdigit() else words))
    return out


def compare_output(skewscope, programs, run, traced, directory):
    """The program prints the same without the profiler."""
    env = environment(run, directory)
    build = os.path.dirname(os.path.dirname(skewscope))
    env["LD_LIBRARY_PATH"] = os.path.join(build, "tests", "standin", "lib")
    plain = subprocess.run(command(programs, run), env=env, stdin=subprocess.DEVNULL, capture_output=True,
                           text=True, check=True)
    if settled(plain.stdout) != settled(traced):
        sys.exit(f"{describe(run)}: prints something else under the profiler:\n{plain.stdout}\n{traced}")


def describe(run):
    kind = "matrix" if run.matrix else ""
    return f"{run.program} -np {run.procs} {' '.join(run.arguments())} {kind}".strip()


# ---------------------------------------------------------------- the trace

def cells(db, view, peer):
    out = {}
    for exchange, other, nbytes in db.execute(
            f"SELECT exchange_id, {peer}, bytes FROM {view} ORDER BY exchange_id, ordinal"):
        out.setdefault(exchange, []).append((other, nbytes))
    return out


def members(db):
    return db.execute("""SELECT m.rank, m.member_id, m.process_id, m.device, m.ended, c.ranks, c.kind
                         FROM member m JOIN communicator c USING (comm_id) ORDER BY m.rank""").fetchall()


def check_members(db, run, wrong):
    rows = members(db)
    if [row[0] for row in rows] != list(range(run.ranks)):
        wrong.append(f"ranks in the trace: {[row[0] for row in rows]}, expected 0 to {run.ranks - 1}")
        return
    per_process = run.threads * run.gpus
    for rank, _, process, device, ended, ranks, kind in rows:
        want = (rank, "destroy", run.ranks, "init_rank")
        got = (device, ended, ranks, kind)
        if not expected(run, rank)[0]:  # the device is asked for at the first exchange
            want, got = (None, *want[1:]), (None, *got[1:])
        # with -p 1 nccl-tests never destroys what its threads made
        if "-p" in run.extra:
            want, got = (want[0], *want[2:]), (got[0], *got[2:])
        if got != want:
            wrong.append(f"rank {rank}: (device, ended, ranks, kind) is {got}, expected {want}")
        if process != rows[rank - rank % per_process][2]:
            wrong.append(f"rank {rank} is in another process than its neighbours")
    if len({row[2] for row in rows}) != run.procs:
        wrong.append(f"{len({row[2] for row in rows})} processes, expected {run.procs}")


def check_rank(db, run, rank, member, sent, received, wrong):
    """Every exchange of one rank, in order; returns its captures in order."""
    rows = db.execute(
        """SELECT e.exchange_id, e.seq, o.name, e.dtype, e.flags & 3, e.capture_id, e.group_seq, e.stream_id
           FROM exchange e JOIN op_name o USING (op) WHERE member_id = ? ORDER BY seq""", (member,)).fetchall()
    want, graphs = expected(run, rank)
    if len(rows) != len(want):
        wrong.append(f"rank {rank}: {len(rows)} exchanges, expected {len(want)}")
        return
    captures, groups = {}, {}
    for n, ((exchange, seq, op, dtype, flags, capture, group, _), e) in enumerate(zip(rows, want)):
        for what, got, should in (
                ("seq", seq, n), ("operation", op, e.op), ("data type", dtype, e.dtype),
                ("sends", sent.get(exchange, []), e.sends), ("receives", received.get(exchange, []), e.recvs),
                ("captured", flags, int(e.graph is not None))):
            if got != should:
                wrong.append(f"rank {rank}, exchange {n}: {what} {got}, expected {should}")
        if captures.setdefault(e.graph, capture) != capture:
            wrong.append(f"rank {rank}, exchange {n}: capture {capture}, expected {captures[e.graph]}")
        if groups.setdefault(e.group, group) != group:
            wrong.append(f"rank {rank}, exchange {n}: group {group}, expected {groups[e.group]}")
        if len(wrong) > 5:
            return
    if len(set(groups.values())) != len(groups) or len(set(captures.values())) != len(captures):
        wrong.append(f"rank {rank}: separate groups or captures have one number")
    captured = [c for g, c in captures.items() if g is not None]
    launches = [db.execute("SELECT launches FROM capture_launches WHERE capture_id = ?", (c,)).fetchone()
                for c in captured]
    if want and (len(captured) != graphs or launches != [(run.graph,)] * graphs):
        wrong.append(f"rank {rank}: launches of its captures are {launches}, expected {graphs} of {run.graph}")
    if want and len({row[7] for row in rows}) != 1:
        wrong.append(f"rank {rank}: several streams")


def check_totals(db, run, wrong):
    """What the views for users say, replays included."""
    got = {}
    for src, dst, nbytes in db.execute(
            """SELECT e.src_rank, e.dst_rank, sum(e.bytes * i.runs) FROM edges e JOIN exchange_info i
               USING (exchange_id) GROUP BY 1, 2"""):
        got[src, dst] = nbytes
    want = {}
    for rank in range(run.ranks):
        for e in expected(run, rank)[0]:
            for peer, nbytes in e.sends:
                times = run.graph if e.graph is not None else 1
                want[rank, peer] = want.get((rank, peer), 0) + nbytes * times
    if got != want:
        wrong.append("the sum of edges times runs differs from what was sent")


def check(path, run):
    wrong = []
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    for query in ("SELECT coalesce(sum(groups + exchanges + operations), 0) FROM loss",
                  "SELECT coalesce(sum(missing_groups), 0) FROM coverage", "SELECT count(*) FROM operation"):
        if db.execute(query).fetchone() != (0,):
            wrong.append(f"not zero: {query}")
    check_members(db, run, wrong)
    if not wrong:
        sent, received = cells(db, "edges", "dst_rank"), cells(db, "recv_edges", "src_rank")
        for rank, member, *_ in members(db):
            check_rank(db, run, rank, member, sent, received, wrong)
        check_totals(db, run, wrong)
    db.close()
    return wrong


def changed(run):
    """The same run with one cell, or one call, more: what must not pass."""
    other = Run(**vars(run))
    if run.matrix:
        other.matrix = [list(row) for row in run.matrix]
        other.matrix[0][run.ranks - 1] += 16
    else:
        other.iters += 1
    return other


def main():
    directory = os.environ.get("SKEWSCOPE_NCCL_TESTS")
    if not directory:
        skip("SKEWSCOPE_NCCL_TESTS does not name a directory with built nccl-tests")
    skewscope, programs = os.path.abspath(sys.argv[1]), Programs(directory)
    print(f"SKEWSCOPE_TEST_SEED={SEED}")
    table = cases(random.Random(SEED))
    for name in sys.argv[2:] or table:
        if name == "mpi" and not (programs.mpi("alltoall") and shutil.which("mpirun")):
            print("left out: several processes (this nccl-tests has no MPI support, or there is no mpirun)")
            continue
        for run in table[name]:
            with tempfile.TemporaryDirectory(prefix="skewscope-nccl-tests-") as scratch:
                path = execute(skewscope, programs, run, scratch)
                wrong = check(path, run)
                if wrong:
                    sys.exit("\n".join([describe(run), *wrong[:8]]))
                if not check(path, changed(run)):
                    sys.exit(f"{describe(run)}: a changed expectation passes as well")
                print(f"ok: {describe(run)}")


if __name__ == "__main__":
    main()

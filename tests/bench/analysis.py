# SPDX-License-Identifier: Apache-2.0
"""From a database to all metrics with intervals, beside what people do without us: GROUP BY over a table of edges.

A synthetic job of 64 ranks × 58 layers, dispatch and combine. SKEWSCOPE_BENCH_STEPS sets the steps (4; issue 4 asks
about 200: about 1.5 million exchanges and 95 million edges, at most 6 s and 2 GiB on 2 cores). The matrices of both
arms are compared: a fast wrong answer fails.
"""
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
import time

import benchlib

TOOL = sys.argv[1]
RANKS, LAYERS = 64, 58
STEPS = int(os.environ.get("SKEWSCOPE_BENCH_STEPS", "4"))
TARGET_S, TARGET_GIB = 6, 2


def run(*arguments):
    """(output, wall s, processor s, GiB)"""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([TOOL, *arguments], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
        out.seek(0)
        return out.read(), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def plain_edges(trace, path):
    """A table with a row an edge, as one would make it without packed vectors."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("CREATE TABLE edge (role TEXT, layer INTEGER, src INTEGER, dst INTEGER, bytes INTEGER)")
    source = sqlite3.connect(trace)
    rows = source.execute(
        "SELECT b.role, b.layer, m.rank, e.send_unit, v.cells, v.size_width, v.size_stride, v.sizes, v.peers IS NULL"
        " FROM exchange e JOIN member m USING (member_id) JOIN exchange_label b USING (exchange_id)"
        " JOIN vector v ON v.vector_id = e.send_vector")

    def edges():
        for role, layer, rank, unit, cells, width, stride, sizes, plain in rows:
            assert plain
            for peer in range(cells):
                at = peer * stride
                yield role, layer, rank, peer, unit * int.from_bytes(sizes[at:at + width], "big")
    db.executemany("INSERT INTO edge VALUES (?, ?, ?, ?, ?)", edges())
    db.commit()
    return db


def main():
    if subprocess.run([TOOL, "synth", "--help"], capture_output=True, check=False).returncode:
        print("skipped: this skewscope has no synth")
        return benchlib.SKIP
    with tempfile.TemporaryDirectory() as directory:
        trace = str(pathlib.Path(directory) / "big.db")
        subprocess.run([TOOL, "synth", "-q", "-o", trace, "--ranks", str(RANKS), "--layers", str(LAYERS), "--steps",
                        str(STEPS), "--experts", "256", "--topk", "8", "--tokens", "512", "--routing", "zipf",
                        "--no-device-time"], check=True)
        exchanges = RANKS * LAYERS * STEPS * 2
        print(f"{benchlib.cpu_model()}, {os.cpu_count()} processors; {exchanges:,} exchanges, {exchanges * RANKS:,} edges,"
              f" {os.path.getsize(trace) / 2**20:.0f} MiB")
        total_wall = total_cpu = most = 0
        for command in (["skew", "--json", "--matrices", trace], ["router", "--json", trace]):
            answer, wall, cpu, gib = run(*command)
            print(f"skewscope {' '.join(command[:-1]):26}  {wall:7.2f} s   {cpu:7.2f} s of processors   {gib:.2f} GiB")
            total_wall, total_cpu, most = total_wall + wall, total_cpu + cpu, max(most, gib)
            if command[0] == "skew":
                ours = {(e["role"], e["layer"]): e["matrix"] for e in json.loads(answer)["exchanges"]}
        print(f"both{'':34} {total_wall:7.2f} s   {total_cpu:7.2f} s of processors   {most:.2f} GiB"
              f"   (promised at 200 steps on 2 quiet cores: {TARGET_S} s, {TARGET_GIB} GiB)")
        db = plain_edges(trace, str(pathlib.Path(directory) / "plain.db"))
        start, processor = time.monotonic(), time.process_time()
        theirs = db.execute("SELECT role, layer, src, dst, sum(bytes) FROM edge GROUP BY 1, 2, 3, 4").fetchall()
        wall, processor = time.monotonic() - start, time.process_time() - processor
        print(f"sqlite3 {sqlite3.sqlite_version} GROUP BY, the matrices alone {wall:7.2f} s   {processor:7.2f} s of one, the table at hand:"
              f" {os.path.getsize(str(pathlib.Path(directory) / 'plain.db')) / 2**20:.0f} MiB")
        wrong = sum(ours[role, layer][src][dst] != value for role, layer, src, dst, value in theirs)
        if wrong or len(theirs) != sum(len(m) ** 2 for m in ours.values()):
            sys.exit(f"{wrong} cells of the matrices differ")
    return 0


if __name__ == "__main__":
    sys.exit(main())

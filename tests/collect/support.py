# SPDX-License-Identifier: Apache-2.0
"""What the collector's tests share: a place of their own, spools from scripts, the trace.

Run by meson, which sets SKEWSCOPE_TOOL and SPOOL_SCRIPT to the built programs.
"""
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

TOOL = os.path.abspath(os.environ.get("SKEWSCOPE_TOOL", "build/tools/skewscope"))
SCRIPT = os.path.abspath(os.environ.get("SPOOL_SCRIPT", "build/tests/collect/spool_script"))


def read(path, mode="r"):
    with open(path, mode) as f:
        return f.read()


BOOT = read("/proc/sys/kernel/random/boot_id").strip().replace("-", "")
# enum skew_op
(SEND, RECV, ALLTOALL, A2AV_SEND, A2AV_RECV, ALLGATHER, REDUCESCATTER, ALLREDUCE, BROADCAST, REDUCE,
 GATHER, SCATTER, PUT, SIGNAL, WAITSIGNAL) = range(15)
INT8, UINT8, INT32, UINT32, INT64, UINT64, HALF, FLOAT, DOUBLE, BF16, E4M3, E5M2 = range(12)
PATIENCE = 60  # seconds to wait for what must happen, on the slowest machine


def fnv(text):
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{value:016x}"


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE} s in vain for {what}")
        time.sleep(0.02)


class Writer:
    """A live process that writes a spool as it is told."""

    def __init__(self, directory, prefix=()):
        self.process = subprocess.Popen([*prefix, SCRIPT, directory], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def tell(self, script):
        self.process.stdin.write(script.strip() + "\n")
        self.process.stdin.flush()
        return self

    def sync(self):
        self.tell("sync")
        assert self.process.stdout.readline() == "ok\n"

    def path(self):
        self.tell("path")
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Place(unittest.TestCase):
    """An output directory and a spool root that nobody else uses."""

    def setUp(self):
        self.top = tempfile.mkdtemp(prefix="skew-collect-")
        self.addCleanup(shutil.rmtree, self.top, ignore_errors=True)
        self.out = os.path.join(self.top, "out")
        self.root = os.path.join(self.top, "root")
        self.state = os.path.join(self.out, ".skewscope")
        self.env = dict(os.environ, SKEWSCOPE_SPOOL=self.root)
        self.env.pop("SKEWSCOPE_OUT", None)
        self.spools = self.spool_dir()
        self.children = []

    def tearDown(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()

    def spool_dir(self, out=None):
        path = os.path.join(self.root, f"skewscope-{os.geteuid()}", fnv(out or self.out))
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def write(self, script, directory=None):
        """A spool of a process that is gone. Returns its path."""
        script = "\n".join(line.strip() for line in script.strip().splitlines())
        done = subprocess.run([SCRIPT, directory or self.spools], input=script + "\npath\n", text=True,
                              stdout=subprocess.PIPE, check=True)
        return done.stdout.splitlines()[-1]

    def collect(self, *args, status=0):
        done = subprocess.run([TOOL, "collect", *args, self.out], env=self.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE * 4)
        if status is not None:
            self.assertEqual(done.returncode, status, done.stderr + done.stdout)
        return done

    def follow(self, *args, env=None):
        child = subprocess.Popen([TOOL, "collect", "--follow", *args, self.out], env=env or self.env,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                 start_new_session=True, text=True)
        self.children.append(child)
        self.addCleanup(child.stderr.close)

        def catches_signals():
            if child.poll() is not None:
                return True
            caught = [line for line in read(f"/proc/{child.pid}/status").splitlines() if line.startswith("SigCgt")]
            return int(caught[0].split()[1], 16) >> (signal.SIGTERM - 1) & 1

        wait_for(catches_signals, "the collector to begin")
        return child

    def stop(self, child, status=0):
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=PATIENCE * 2)
        self.assertEqual(child.returncode, status, child.stderr.read())

    def db(self, name="trace.db"):
        db = sqlite3.connect(f"file:{self.out}/{name}?mode=ro", uri=True)
        self.addCleanup(db.close)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        return db

    def rows(self, sql, *args, name="trace.db"):
        return self.db(name).execute(sql, args).fetchall()

    def row(self, sql, *args):
        rows = self.rows(sql, *args)
        self.assertEqual(len(rows), 1, rows)
        return rows[0]

    def collected(self, script):
        """Writes, collects, and says what must be true of every trace."""
        self.write(script)
        self.collect()
        self.assertEqual(os.listdir(self.out), ["trace.db"])
        self.assertFalse(os.path.exists(self.spools))


def cells(op, counts, dtype=INT8, lane=0, peers=None):
    peers = range(len(counts)) if peers is None else peers
    return [f"{op}:{p}:{n}:{dtype}:{lane}" for p, n in zip(peers, counts)]


def exchange(seq, send, recv, comm=1, stream=1, group=None, dtype=INT8, cuda=7, **more):
    """One group with sends and receives to and from the peers 0, 1, 2, …"""
    words = " ".join(f"{key}={value}" for key, value in more.items())
    group = seq if group is None else group
    both = ",".join(cells(SEND, send, dtype) + cells(RECV, recv, dtype))
    return f"group stream={stream} group={group} lanes={comm}:{cuda}:{seq}:0 cells={both} {words}"


def main():
    unittest.main(verbosity=1, argv=[sys.argv[0], *sys.argv[1:]])


__all__ = [name for name in globals() if not name.startswith("_")]

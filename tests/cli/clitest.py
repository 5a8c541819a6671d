# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share: where things are, a clean environment, waiting.

Nothing here waits for a time to pass: `until` waits for something to become true, with a deadline
that only a hang reaches.
"""
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

BUILD = pathlib.Path(os.environ["SKEW_BUILD"])
SKEWSCOPE = str(BUILD / "tools" / "skewscope")
LIBRARY = str(BUILD / "interpose" / "libskewscope.so")
EXCHANGES = str(BUILD / "tests" / "preload" / "exchanges")
NULL_NCCL = str(BUILD / "tests" / "preload")
HERE = pathlib.Path(__file__).resolve().parent
PYTHON = sys.executable
FOREIGN = ("SKEWSCOPE_", "SLURM_", "OMPI_", "PMI_", "RANK", "NO_COLOR", "COLUMNS", "LD_PRELOAD", "LD_LIBRARY_PATH")


def clean_environment(**extra):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    return {**kept, **extra}


def until(condition, what, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def children(pid):
    """pid → arguments of the children of a process."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
            arguments = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            continue
        if int(stat.rsplit(")", 1)[1].split()[1]) == pid:
            found[int(entry)] = arguments
    return found


class CliTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="skew-cli-"))
        self.out = str(self.dir / "out")
        self.addCleanup(self.clean_up)

    def clean_up(self):
        """Also what a test that failed half way has left in spools."""
        for pointer in self.dir.glob("**/.skewscope/spool-*"):
            shutil.rmtree(pointer.read_text(encoding="utf-8").strip(), ignore_errors=True)
        shutil.rmtree(self.dir, ignore_errors=True)

    def skewscope(self, *arguments, env=None, **kwargs):
        """Runs skewscope to its end; text in and out."""
        kwargs.setdefault("stdin", subprocess.DEVNULL if "input" not in kwargs else None)
        if "input" in kwargs:
            del kwargs["stdin"]
        return subprocess.run([SKEWSCOPE, *map(str, arguments)], env=env or clean_environment(),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300,
                              cwd=kwargs.pop("cwd", self.dir), check=False, **kwargs)

    def run_command(self, *command, options=(), **kwargs):
        """skewscope run -o OUT options -- command"""
        return self.skewscope("run", "-o", self.out, *options, "--", *command, **kwargs)

    def start(self, *arguments, env=None, **kwargs):
        process = subprocess.Popen([SKEWSCOPE, *map(str, arguments)], env=env or clean_environment(),
                                   cwd=self.dir, **kwargs)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process

    def query(self, sql, *values, out=None):
        traces = sorted(pathlib.Path(out or self.out).glob("trace*.db"))
        self.assertTrue(traces, f"no trace in {out or self.out}")
        rows = []
        for trace in traces:
            db = sqlite3.connect(f"file:{trace}?mode=ro", uri=True)
            rows += db.execute(sql, values).fetchall()
            db.close()
        return rows

    def nccl_env(self, **extra):
        """An environment in which EXCHANGES finds its NCCL, which does nothing."""
        return clean_environment(LD_LIBRARY_PATH=NULL_NCCL, **extra)

    def write(self, name, text, mode=0o644):
        path = self.dir / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return str(path)


__all__ = ["BUILD", "SKEWSCOPE", "LIBRARY", "EXCHANGES", "NULL_NCCL", "HERE", "PYTHON", "CliTest",
           "clean_environment", "until", "alive", "children", "json", "os", "pathlib", "shutil", "signal",
           "sqlite3", "subprocess", "sys", "unittest"]

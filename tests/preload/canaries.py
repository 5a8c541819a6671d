#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that never call NCCL: preloaded, nothing about them may change, and nothing may be left behind.

usage: canaries.py LIBRARY
"""
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from harness import UNDER_VALGRIND, Bench, arguments, run_cases, skip

LIBRARY, = arguments()
bench = Bench(LIBRARY).__enter__()
if UNDER_VALGRIND:
    skip("valgrind on other people's programs says nothing about us")

SOURCE = "#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 3; }\n"


def spool_directory(out):
    """Where a spool of this output directory would lie (schema/layout.h)."""
    value = 0xcbf29ce484222325
    for byte in str(out).encode():
        value = (value ^ byte) * 0x100000001b3 % (1 << 64)
    return Path(f"/dev/shm/skewscope-{os.geteuid()}/{value:016x}")


def snapshot(directory):
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None for p in directory.rglob("*")}


def run(command, preload):
    directory = bench.directory()
    shutil.rmtree(directory / "spool")
    (directory / "cwd").mkdir()
    (directory / "tmp").mkdir()
    (directory / "cwd" / "hello.c").write_text(SOURCE)
    env = bench.environment(directory, preload, TMPDIR=directory / "tmp", SKEWSCOPE_SPOOL=None,
                            SKEWSCOPE_COLLECTOR=None)
    done = subprocess.run(command, env=env, cwd=directory / "cwd", input=b"one\ntwo\n", capture_output=True,
                          timeout=300, check=False)
    left = snapshot(directory)
    assert not spool_directory(directory / "out").exists(), f"{command}: a spool was made"
    return done.returncode, done.stdout, done.stderr, left


def same_with_and_without(*command):
    if not shutil.which(command[0]):
        return f"there is no {command[0]} here"
    # With a sanitizer its run-time library is in both runs.
    plain, ours = run(command, bench.preload(library="")), run(command, bench.preload())
    if bench.runtime == "tsan" and plain[0] == -signal.SIGSEGV:
        return f"{command[0]} crashes with TSan's run-time library alone"
    for what, a, b in zip(("exit status", "standard output", "standard error", "files"), plain, ours):
        assert a == b, f"{' '.join(command)}: {what} differs: {a!r} without us, {b!r} with us"
    return None


def case_true():
    return same_with_and_without("true")


def case_false():
    return same_with_and_without("false")


def case_ls():
    return same_with_and_without("ls", "-la", "/usr/lib")


def case_cat():
    return same_with_and_without("cat", "-", "hello.c")


def case_bash():
    return same_with_and_without("bash", "-c", "x=$(ls | cat); echo $x; (exit 5) || echo $?; sleep 0 & wait; exit 7")


def case_python():
    return same_with_and_without(sys.executable, "-c", "import ctypes, json, socket, subprocess, threading\n"
                                 "print(subprocess.run(['echo', 'child'], capture_output=True).stdout)\n"
                                 "print(hasattr(ctypes.CDLL(None), 'ncclSend'), hasattr(ctypes.CDLL(None), 'puts'))")


def case_python_multiprocessing():
    return same_with_and_without(sys.executable, "-c", "import multiprocessing as m\n"
                                 "if __name__ == '__main__':\n  print(m.get_context('fork').Pool(2).map(abs, [-1, -2]))")


def case_node():
    if bench.runtime in ("asan", "tsan"):
        return "node's own memory layout and sanitizers do not go together"
    return same_with_and_without("node", "-e", "console.log([1, 2].map(x => x + 1)); process.exit(4)")


def case_gcc():
    return same_with_and_without("gcc", "-O2", "-c", "hello.c", "-o", "hello.o")


def case_gcc_and_run():
    return same_with_and_without("sh", "-c", "gcc hello.c -o hello && ./hello; echo $?; rm -f hello")


def case_perl():
    return same_with_and_without("perl", "-e", "print reverse <STDIN>; die 'gone'")


def case_static_program():
    """A program without a dynamic loader is not reached at all."""
    return same_with_and_without("sh", "-c", "gcc -static hello.c -o hello && ./hello; echo $?; rm -f hello")


def case_abort():
    return same_with_and_without("bash", "-c", "kill -ABRT $$")


def case_environment_of_children():
    """What the collector or a child sees of us is what was there before."""
    return same_with_and_without("bash", "-c", "env | grep SKEWSCOPE | grep -v -e OUT= | sort; ls -l /proc/self/fd | wc -l")


if __name__ == "__main__":
    with bench:
        run_cases([f for n, f in list(globals().items()) if n.startswith("case_")])

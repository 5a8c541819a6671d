# SPDX-License-Identifier: Apache-2.0
"""What the drivers of the preload tests share: running a program with the library in front, and reading what
it recorded. Each run gets a directory of its own, which goes away afterwards."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import spool

SKIP = 77  # what Meson takes for "skipped"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TIMEOUT = 300  # only so that a hang is seen at all; nothing depends on it


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def arguments():
    """The command line, its paths made absolute: programs run in directories of their own."""
    return [os.path.abspath(a) if os.path.exists(a) else a for a in sys.argv[1:]]


def needed_by(library):
    return subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout


def sanitizer_of(library):
    """asan, tsan, ubsan or "": what the library is instrumented with."""
    needed = needed_by(library)
    return next((name for name in ("asan", "tsan", "ubsan") if f"lib{name}.so" in needed), "")


def sanitizer_runtime(name):
    """What has to be loaded before an instrumented library; UBSan needs nothing."""
    if name not in ("asan", "tsan"):
        return []
    path = subprocess.run(["gcc", f"-print-file-name=lib{name}.so"], capture_output=True, text=True,
                          check=True).stdout.strip()
    return [os.path.realpath(path)]


# Instrumented code is loaded into programs that are not. A report ends the program: its status says so.
# use_sigaltstack=0: a cancelled thread leaves the stack of the frames that it was in poisoned, and ASan's own taking
# down of its signal stack runs there. Leaks: the hosts here leave theirs to the kernel.
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0:exitcode=98:handle_segv=1:use_sigaltstack=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=98",
    "TSAN_OPTIONS": "die_after_fork=0:halt_on_error=1:exitcode=98:report_signal_unsafe=0",
}
# libunwind locks a mutex when a thread ends, after TSan has given up what it knows of that thread: a crash in TSan.
# Only the stacks of call sites come from there.
SANITIZER_OUR_OPTIONS = {"tsan": {"SKEWSCOPE_STACKS": "off"}}
VALGRIND = ["valgrind", "--quiet", "--error-exitcode=98", "--leak-check=no", "--trace-children=no",
            f"--suppressions={HERE / 'valgrind.supp'}"]
UNDER_VALGRIND = bool(os.environ.get("SKEWSCOPE_TEST_VALGRIND"))
NOT_INSTRUMENTED_MALLOC = "not with a sanitizer or valgrind, which replace malloc themselves"
# valgrind 3.19 loses count of the names of mapped files after some tens of mapped segments, and ends by itself (aspacem,
# is_freeslot): so few and large ones, and where that is not enough, the case goes on without it.
VALGRIND_SEGMENT_KB = 256
VALGRIND_GAVE_UP = "Valgrind: FATAL: aspacem assertion failed"


class Result:
    """One finished run."""

    def __init__(self, done, directory):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.directory = directory
        self.spools = spool.read_all(directory / "spool")

    @property
    def spool(self):
        assert len(self.spools) == 1, f"{len(self.spools)} spool files, expected one; stderr: {self.err}"
        return self.spools[0]


class Bench:
    """Runs programs under the library; use as a context manager."""

    def __init__(self, library):
        self.library = str(library)
        self.build = str(Path(library).resolve().parents[1])  # our programs: those run under valgrind
        self.runtime = sanitizer_of(library)
        self.top = None

    def __enter__(self):
        self.top = Path(tempfile.mkdtemp(prefix="skewscope-test-"))
        return self

    def __exit__(self, *exc):
        if exc[0] is not None and os.environ.get("SKEWSCOPE_TEST_KEEP"):
            print(f"kept: {self.top}")
        else:
            shutil.rmtree(self.top, ignore_errors=True)

    def preload(self, before=(), after=(), library=None):
        runtime = sanitizer_runtime(self.runtime)
        mine = [self.library] if library is None else [library] if library else []
        return " ".join(runtime + [str(b) for b in before] + mine + [str(a) for a in after])

    def environment(self, directory, preload=None, **more):
        # Meson sets LD_LIBRARY_PATH for tests: which NCCL is found is for each case to say.
        env = {k: v for k, v in os.environ.items()
               if not k.startswith(("SKEWSCOPE_", "LD_PRELOAD", "LD_LIBRARY_PATH", "MALLOC_"))}
        env.update(SKEWSCOPE_OUT=str(directory / "out"), SKEWSCOPE_SPOOL=str(directory / "spool"),
                   SKEWSCOPE_COLLECTOR="off")
        preload = self.preload() if preload is None else preload
        if preload:
            env["LD_PRELOAD"] = preload
        env.update(SANITIZER_OPTIONS)
        env.update(SANITIZER_OUR_OPTIONS.get(self.runtime, {}))
        env.update({k: str(v) for k, v in more.items() if v is not None})
        if UNDER_VALGRIND and int(more.get("SKEWSCOPE_SEGMENT_KB", VALGRIND_SEGMENT_KB)) < VALGRIND_SEGMENT_KB:
            env["SKEWSCOPE_SEGMENT_KB"] = str(VALGRIND_SEGMENT_KB)
        return {k: v for k, v in env.items() if more.get(k, v) is not None}

    def directory(self):
        directory = Path(tempfile.mkdtemp(dir=self.top))
        (directory / "spool").mkdir(mode=0o700)
        return directory

    def run(self, command, preload=None, stdin=subprocess.DEVNULL, cwd=None, directory=None, code=0, valgrind=True,
            **env):
        """Runs a command; a failure shows its output. `code`: the exit status to expect, None: any."""
        own = directory is None
        directory = directory or self.directory()
        native = command = [str(c) for c in command]
        if UNDER_VALGRIND and valgrind and command[0].startswith(self.build):
            command = VALGRIND + command
        process = subprocess.Popen(command, env=self.environment(directory, preload, **env), stdin=stdin, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd or directory,
                                   start_new_session=True)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired as e:
            os.killpg(process.pid, signal.SIGKILL)  # its children too: they hold the pipes
            out, err = process.communicate()
            raise AssertionError(f"{' '.join(command)}: did not end within {TIMEOUT} s\n{out[-2000:]}\n{err}") from e
        if VALGRIND_GAVE_UP in err and own:
            print(f"      {' '.join(native[:2])}: valgrind has failed by itself; again without it", flush=True)
            return self.run(native, preload, stdin, cwd, None, code, False, **env)
        done = subprocess.CompletedProcess(command, process.returncode, out, err)
        if code is not None and done.returncode != code:
            raise AssertionError(f"{' '.join(command)}: exit status {done.returncode}, expected {code}\n"
                                 f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return Result(done, directory)


def same(got, expected, what):
    """Compares two lists of lines and shows the first difference."""
    for i, (g, e) in enumerate(zip(got, expected)):
        assert g == e, f"{what}, line {i + 1}:\n  recorded: {g[:600]}\n  expected: {e[:600]}"
    assert len(got) == len(expected), (f"{what}: {len(got)} lines, expected {len(expected)}; "
                                       f"first surplus: {(got + expected)[min(len(got), len(expected))][:600]}")


def run_cases(cases):
    """Runs the functions in turn, or those that are named on the command line; prints each name before."""
    failed = 0
    for case in cases:
        name = case.__name__.removeprefix("case_").replace("_", " ")
        try:
            note = case()
            print(f"ok    {name}" + (f" ({note})" if note else ""), flush=True)
        except AssertionError as e:
            failed += 1
            print(f"FAIL  {name}: {e}", flush=True)
    sys.exit(1 if failed else 0)

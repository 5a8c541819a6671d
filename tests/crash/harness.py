# SPDX-License-Identifier: Apache-2.0
"""Jobs of traffic.c under skewscope, with their counters in memory of their own; a runner for test files.

A test file defines functions test_…() and ends with harness.main(globals()). A function that cannot run here
raises Skip. Nothing waits for a fixed time: wait_for() polls a condition under a generous limit.
"""
import ctypes
import fcntl
import glob
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import facts
import spoolfile
import tracefile
from facts import demand

BUILD = os.environ.get("SKEWSCOPE_BUILD") or os.path.join(os.path.dirname(__file__), "../../build")
LIBRARY = os.path.abspath(os.path.join(BUILD, "interpose/libskewscope.so"))
TOOL = os.path.abspath(os.path.join(BUILD, "tools/skewscope"))
TRAFFIC = os.path.abspath(os.path.join(BUILD, "tests/crash/traffic"))
PATIENCE = 120.0  # seconds until a condition counts as never coming true
BASES = "skew-crash-job-"  # how the directories of jobs are called
OPEN = 2**64 - 1
WORDS, SHARED_BYTES = ("phase", "pid", "failed", "signals", "gate", "limit", "relief", "errno_changed"), 1536


class Skip(Exception):
    pass


def ends_with_us(then=None):
    """For preexec_fn: what we start ends when we are killed."""
    libc, test = ctypes.CDLL(None), os.getpid()

    def setup():
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != test:
            os._exit(1)
        if then:
            then()
    return setup


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    pause = 0.0005
    while True:
        value = condition()
        if value:
            return value
        demand(time.monotonic() < end, "waited in vain for", what)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


class Counters:
    """The file that traffic.c counts in (its struct shared)."""

    def __init__(self, path, threads, gate=OPEN, limit=OPEN):
        self.path, self.threads = path, threads
        with open(path, "wb") as file:
            file.truncate(SHARED_BYTES)
        self.held = open(path, "r+b")  # pylint: disable=consider-using-with
        fcntl.flock(self.held, fcntl.LOCK_EX)  # as long as this process lives: traffic.c looks at it
        with open(path, "r+b") as file:
            # Whole words are read and written at once; struct would go byte by byte, through zero.
            self.memory = memoryview(mmap.mmap(file.fileno(), SHARED_BYTES)).cast("Q")
        self.set("gate", gate)
        self.set("limit", limit)

    def get(self, word):
        return self.memory[WORDS.index(word)]

    def set(self, word, value):
        self.memory[WORDS.index(word)] = value

    def pairs(self):
        """[(begun, returned), ...] by thread."""
        return [(self.memory[64 + 8 * t], self.memory[65 + 8 * t]) for t in range(self.threads)]

    def returned(self):
        return sum(pair[1] for pair in self.pairs())


class Rank:
    """One traffic process: how it was started and what it counted."""

    def __init__(self, job, tag, counters, process):
        self.job, self.tag, self.counters, self.process = job, tag, counters, process

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait()

    def wait_phase(self, phase):
        wait_for(lambda: self.counters.get("phase") >= phase or self.process.poll() is not None,
                 f"phase {phase} of {self.tag}")
        demand(self.counters.get("phase") >= phase, self.tag, "ended with", self.process.poll(), "before phase", phase)

    def wait_returned(self, each):
        """Until every thread has returned from `each` exchanges."""
        wait_for(lambda: all(pair[1] >= each for pair in self.counters.pairs()) or self.process.poll() is not None,
                 f"{each} exchanges of {self.tag}")
        demand(all(pair[1] >= each for pair in self.counters.pairs()), self.tag, "ended with", self.process.poll(),
               "after", self.counters.pairs())

    def relieve(self):
        """Ends the shortage. The rank's thread 0 must be at its gate."""
        self.counters.set("relief", 1)
        wait_for(lambda: self.counters.get("relief") == 2, f"relief of {self.tag}")

    def go(self, gate=OPEN):
        self.counters.set("gate", gate)

    def finish(self, limit=None):
        """Lets it run to the end. Returns its standard output."""
        if limit is not None:
            self.counters.set("limit", limit)
        self.go()
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise facts.Wrong(f"{self.tag} hangs at {self.counters.pairs()}") from None
        self.err = err
        demand(self.process.returncode == 0, self.tag, "ended with", self.process.returncode, err)
        demand(self.counters.get("failed") == 0 and self.counters.get("errno_changed") == 0, self.tag, out)
        return out


class Job:
    """A directory of its own with OUT in it, and the ranks that were started for it."""

    def __init__(self, base=None, out=None, root="/dev/shm", **environment):
        # Not below /tmp: some tests take /tmp away.
        self.base = base or tempfile.mkdtemp(prefix=BASES, dir="/var/tmp")
        self.held = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self.held, fcntl.LOCK_SH)  # for as long as this process lives: see sweep()
        self.out = out or os.path.join(self.base, "out")
        self.root = root
        self.environment = {"SKEWSCOPE_OUT": self.out, **environment}
        self.ranks, self.helpers = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for helper in self.helpers + [rank.process for rank in self.ranks]:
            if helper.poll() is None:
                helper.kill()
                helper.wait()
        end_collectors(self.out)
        shutil.rmtree(self.spool(), ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)
        os.close(self.held)

    def spool(self):
        return spoolfile.directory_of(self.root, self.out)

    def env(self, preload=True, **more):
        env = {name: value for name, value in os.environ.items()
               if not name.startswith("SKEWSCOPE_") and name not in ("LD_PRELOAD", "TMPDIR", "RANK", "LOCAL_RANK")}
        if preload:
            env["LD_PRELOAD"] = LIBRARY
        return {**env, **self.environment, **{name: str(value) for name, value in more.items()}}

    def counters(self, tag, threads=1, gate=OPEN, limit=OPEN):
        return Counters(os.path.join(self.base, f"{tag}.counters"), threads, gate, limit)

    def start(self, tag=None, rank=0, ranks=2, threads=1, gate=OPEN, limit=OPEN, before=(), env=None, setup=None,
              preload=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options):
        """Starts one rank. `before`: words that stand before the command (unshare, skewscope run)."""
        tag = tag or f"job-{len(self.ranks)}"
        counters = self.counters(tag, threads, gate, limit)
        words = [TRAFFIC, f"file={counters.path}", f"tag={tag}", f"rank={rank}", f"ranks={ranks}",
                 f"threads={threads}", *(f"{name}={value}" for name, value in options.items())]
        process = subprocess.Popen([*before, *words], env=self.env(preload, **(env or {})), preexec_fn=ends_with_us(setup),
                                   stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True)
        self.ranks.append(Rank(self, tag, counters, process))
        return self.ranks[-1]

    def collect(self, *options, check=True, env=None, before=()):
        """skewscope collect, once. Returns (status, standard error)."""
        done = subprocess.run([*before, TOOL, "collect", "--out", self.out, *options], env=self.env(False, **(env or {})),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        if check:
            demand(done.returncode == 0, "collect ended with", done.returncode, done.stdout, done.stderr)
        return done.returncode, done.stderr

    def follow(self, *options):
        """A collector beside the job, as `run` starts it."""
        process = subprocess.Popen([TOOL, "collect", "--follow", "--out", self.out, *options], env=self.env(False),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=ends_with_us())
        self.helpers.append(process)
        return process

    def trace(self):
        return tracefile.read(os.path.join(self.out, "trace.db"))

    def check(self, seen=None, exact=False):
        """Each rank's counters against what was seen of it. Returns (stored, lost) over all ranks.

        A rank that was killed before it had a spool is nowhere, and must not have returned from anything."""
        by_tag, by_pid = {}, {rank.process.pid: rank.tag for rank in self.ranks}
        for one in self.trace() if seen is None else seen:
            tag = one.option("tag")
            if not one.cmdline:  # killed before its spool said who it is
                demand(not one.exchanges, "exchanges of nobody: pid", one.pid)
                tag = by_pid.get(one.pid)
            demand(tag not in by_tag, "two processes say that they are", tag)
            by_tag[tag] = one
        stored = lost = 0
        for rank in self.ranks:
            one = by_tag.pop(rank.tag, None)
            if one is None:
                demand(rank.counters.returned() == 0, rank.tag, "returned from exchanges", rank.counters.pairs(),
                       "and is nowhere")
                continue
            s, l = facts.check(one, rank.counters.pairs(), exact)
            stored, lost = stored + s, lost + l
        demand(not by_tag, "processes that nobody started:", list(by_tag))
        return stored, lost

    def check_clean(self, runs=False):
        """Nothing is left of the spool once all is collected, but `runs`: the file of a run that never ended."""
        demand(not os.path.exists(self.spool()), "left behind:", self.spool(),
               os.listdir(self.spool()) if os.path.exists(self.spool()) else "")
        state = os.path.join(self.out, ".skewscope")
        left = os.listdir(state) if os.path.exists(state) else []
        left = [name for name in left if not (runs and name.startswith("run-"))]
        demand(not left, "left behind in", state, left)


def processes():
    """(pid, command line) of all processes that can be seen."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    yield int(name), file.read().rstrip(b"\0").decode("utf-8", "replace").split("\0")
            except OSError:
                pass


def collectors(out):
    """Process ids of the collectors of an output directory."""
    return [pid for pid, words in processes() if "collect" in words and out in words]


def links(pid):
    """Where the descriptors of a process lead."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass  # it, or one of them, has gone
    return found


def end_collectors(out):
    for pid in collectors(out):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def unshare_works(*flags):
    return subprocess.run(["unshare", *flags, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          check=False).returncode == 0 if shutil.which("unshare") else False


class Mount:
    """A small file system at a directory of its own, or in the place of another, seen only by this process and its
    children."""
    entered = False

    @classmethod
    def enter(cls):
        """Moves this process into a mount namespace, once."""
        if cls.entered:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x00020000) != 0 or libc.mount(b"none", b"/", None, 0x44000, None) != 0:
            raise Skip("mount namespaces are not permitted here")
        cls.entered = True

    def __init__(self, size, kind="tmpfs", at=None, mode="1777"):
        self.enter()
        if at and os.path.realpath(BUILD).startswith(at + "/"):
            raise Skip(f"the build lies below {at}, which this test covers with a file system of its own")
        self.made = at is None
        self.path = at or tempfile.mkdtemp(prefix="skew-crash-", dir="/var/tmp")
        self.image = None
        if kind == "tmpfs":
            words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "skew-test", self.path]
        else:
            self.image = tempfile.NamedTemporaryFile(prefix="skew-crash-", suffix=".img", dir="/var/tmp")
            self.image.truncate(size)
            subprocess.run(["mkfs." + kind, "-q", "-F", self.image.name], check=True)
            words = ["mount", "-o", "loop", self.image.name, self.path]
        if subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            self.close(mounted=False)
            raise Skip(f"a {kind} file system cannot be mounted here")

    def free(self):
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def fill(self):
        """Takes all space there is."""
        block = bytes(1 << 16)
        with open(os.path.join(self.path, "filler"), "ab", buffering=0) as file:
            while len(block) >= 512:
                try:
                    if file.write(block) < len(block):
                        raise OSError
                except OSError:
                    block = block[:len(block) // 2]

    def unfill(self):
        os.unlink(os.path.join(self.path, "filler"))

    def read_only(self, on=True):
        subprocess.run(["mount", "-o", "remount," + ("ro" if on else "rw"), self.path], check=True)

    def close(self, mounted=True):
        if mounted:
            subprocess.run(["umount", "-l", self.path], check=False)
        if self.image:
            self.image.close()
        if self.made:
            shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def random_source():
    """Seeded, and the seed is printed: a failure's moments can be asked for again (not reproduced exactly)."""
    seed = int(os.environ.get("SKEWSCOPE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"SKEWSCOPE_TEST_SEED={seed}", flush=True)
    return random.Random(seed)


def sweep():
    """Removes what tests that were killed have left: their directories are nobody's any more."""
    for base in glob.glob(f"/var/tmp/{BASES}*"):
        try:
            held = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.listdir(base):  # else perhaps just made
                shutil.rmtree(spoolfile.directory_of("/dev/shm", os.path.join(base, "out")), ignore_errors=True)
                shutil.rmtree(base, ignore_errors=True)
        except OSError:
            pass  # in use
        finally:
            os.close(held)


def interrupted(number, _frame):
    sys.exit(128 + number)  # by way of every Job.__exit__


def main(names):
    """Runs the tests of a file, or those named on the command line. Exit status 77: all were skipped."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    sweep()
    wanted = sys.argv[1:] or [name for name in names if name.startswith("test_")]
    failed = passed = 0
    for name in wanted:
        begin = time.monotonic()
        try:
            names[name]()
            passed += 1
            print(f"ok   {name} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Skip as why:
            print(f"SKIP {name}: {why}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
    sys.exit(1 if failed else 0 if passed else 77)

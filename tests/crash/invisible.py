# SPDX-License-Identifier: Apache-2.0
"""The application never meets the collector: no child, no signal, no descriptor, nothing on its streams, also as
PID 1 and as a subreaper. traffic.c says what it sees of itself, with and without skewscope.
"""
import os
import re
import signal
import subprocess
import sys

import harness
from facts import demand

# Call stacks aside: libunwind keeps two descriptors of its own (test_what_libunwind_keeps).
QUIET_STACKS = dict(SKEWSCOPE_STACKS="off")
LIMIT = 3000


def same(plain, traced):
    """Standard output without what differs between any two runs."""
    a, b = (re.sub(r"pipe:\[\d+\]", "pipe", text) for text in (plain, traced))
    demand(a == b, "the application sees a difference:\n" + a + "---\n" + b)


def check_trace(job, started, limit=LIMIT):
    """A collector came by itself, or none did and the spool waits. Either way all is there afterwards."""
    if started:
        harness.wait_for(lambda: os.path.exists(os.path.join(job.out, "trace.db")), "a trace by the library's collector")
        harness.wait_for(lambda: not harness.collectors(job.out), "the end of the collector")
    else:
        demand(not os.path.exists(os.path.join(job.out, "trace.db")), "a trace, but no collector should have run")
        job.collect()
    codes = [code for one in job.trace() for code, _ in one.diagnostics]
    demand(("no_collector" in codes) == (not started), "diagnostics:", codes)
    stored, lost = job.check(exact=True)
    demand(stored == limit * sum(rank.counters.threads for rank in job.ranks) and lost == 0, "stored", stored, "lost", lost)
    job.check_clean()


def compare(before=(), started=True, **options):
    """The same program in the same place, without and with LD_PRELOAD."""
    with harness.Job(**QUIET_STACKS) as job:
        plain = job.start(tag="plain-0", before=before, preload=False, limit=LIMIT, **options)
        plain_out = plain.finish()
        job.ranks.clear()
        rank = job.start(tag="trace-0", before=before, limit=LIMIT, **options)
        out = rank.finish()
        demand(rank.err == plain.err == "", "standard error:", rank.err)
        same(plain_out, out)
        demand("No child processes" in out and "children ''" in out and "signals 0 " in out, out)
        check_trace(job, started)


def test_as_usual():
    compare(threads=3)


def test_as_a_subreaper():
    compare(started=False, subreaper=1)


def test_as_pid_1():
    if not harness.unshare_works("-p", "-f", "--mount-proc"):
        raise harness.Skip("pid namespaces are not permitted here")
    compare(before=["unshare", "-p", "-f", "--mount-proc"], started=False)


LAUNCHER = """
import os, sys
commands = [words.split(chr(1)) for words in sys.argv[1:]]
ranks = [os.posix_spawn(words[0], words, os.environ) for words in commands]
seen = []
while True:
    try:
        seen.append(os.waitpid(-1, 0))
    except ChildProcessError:
        break
print("strangers", [pid for pid, _ in seen if pid not in ranks], "status", [status for _, status in seen])
"""


def launch(job, before, preload):
    """Two ranks below a launcher that waits for any child."""
    words, ranks = [], []
    for r in range(2):
        tag = f"{'trace' if preload else 'plain'}-{r}"
        counters = job.counters(tag, limit=LIMIT)
        words.append("\1".join([harness.TRAFFIC, f"file={counters.path}", f"tag={tag}", f"rank={r}", "ranks=2"]))
        ranks.append(counters)
    done = subprocess.run([*before, sys.executable, "-c", LAUNCHER, *words], env=job.env(preload), capture_output=True,
                          text=True, timeout=harness.PATIENCE, check=False)
    demand(done.returncode == 0 and done.stderr == "", "the launcher:", done.returncode, done.stderr)
    demand("strangers [] status [0, 0]" in done.stdout, done.stdout)
    return ranks


class Ended:
    """A rank that somebody else started and waited for."""

    def __init__(self, tag, counters):
        self.tag, self.counters, self.process = tag, counters, self
        self.pid = counters.get("pid")

    def poll(self):
        return 0


def test_below_pid_1():
    """The job's launcher is PID 1 and would inherit an orphan of a rank."""
    if not harness.unshare_works("-p", "-f", "--mount-proc"):
        raise harness.Skip("pid namespaces are not permitted here")
    with harness.Job(**QUIET_STACKS) as job:
        before = ["unshare", "-p", "-f", "--mount-proc"]
        launch(job, before, preload=False)
        counters = launch(job, before, preload=True)
        job.ranks = [Ended(f"trace-{r}", counters[r]) for r in range(2)]
        check_trace(job, started=False)


def test_below_a_launcher():
    """An ordinary launcher waits for its ranks and for nothing else."""
    with harness.Job(**QUIET_STACKS) as job:
        launch(job, [], preload=False)
        counters = launch(job, [], preload=True)
        job.ranks = [Ended(f"trace-{r}", counters[r]) for r in range(2)]
        check_trace(job, started=True)


def test_under_run():
    """`run` adds nothing to what its command sees, either; its own one line goes to standard error."""
    with harness.Job(**QUIET_STACKS) as job:
        plain = job.start(tag="plain-0", preload=False, limit=LIMIT)
        plain_out = plain.finish()
        job.ranks.clear()
        rank = job.start(tag="trace-0", preload=False, limit=LIMIT, before=[harness.TOOL, "run", "-o", job.out, "--"])
        same(plain_out, rank.finish())
        demand(len(rank.err.splitlines()) == 1 and "3000 of 3000" in re.sub(r"(?<=\d)\D(?=\d{3})", "", rank.err), rank.err)
        demand(job.check(exact=True) == (LIMIT, 0), job.check(exact=True))
        job.check_clean()


def test_the_collector_holds_nothing_of_the_application():
    """Its parent, session, descriptors, environment, directory and signal handling are its own. In particular
    a reader of the application's pipe sees its end when the application ends, not when the collector does."""
    with harness.Job(**QUIET_STACKS) as job:
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)

        def setup():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        counters = job.counters("held-0", gate=500)
        process = subprocess.Popen([harness.TRAFFIC, f"file={counters.path}", "tag=held-0"], env=job.env(), cwd=job.base,
                                   pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, preexec_fn=setup)
        rank = harness.Rank(job, "held-0", counters, process)
        job.ranks.append(rank)
        os.close(writing)
        rank.wait_returned(500)
        pid = harness.wait_for(lambda: harness.collectors(job.out), "a collector")[0]
        # Between its start and its first steps it may still be as the library left it: that must do, too.
        stat = open(f"/proc/{pid}/stat", encoding="utf-8").read().rpartition(")")[2].split()
        demand(int(stat[1]) != process.pid and int(stat[3]) == pid, "parent and session", stat[1], stat[3])
        shared = [link for link in harness.links(pid) if link.startswith("pipe:")]
        demand(not shared, "the collector holds", shared)
        environment = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
        demand(not [one for one in environment if one.startswith(b"LD_PRELOAD=")], "it is preloaded itself")
        harness.wait_for(lambda: os.readlink(f"/proc/{pid}/cwd") == "/", "a directory of its own")
        status = dict(line.split(":\t") for line in open(f"/proc/{pid}/status", encoding="utf-8").read().splitlines()
                      if ":\t" in line)
        demand(int(status["SigIgn"], 16) & 1 << (signal.SIGTERM - 1) == 0, "it ignores SIGTERM")
        demand(int(status["SigBlk"], 16) & 1 << (signal.SIGUSR1 - 1) == 0, "it has the application's signal mask")
        # Stopped, it cannot close anything later: the pipe must end with the application alone.
        os.kill(pid, signal.SIGSTOP)
        try:
            rank.finish(limit=1000)
            demand(os.read(reading, 1) == b"", "the pipe is still open")
        finally:
            os.close(reading)
            os.kill(pid, signal.SIGCONT)
        check_trace(job, started=True, limit=1000)


def test_what_libunwind_keeps():
    """With call stacks on, the pipe that libunwind keeps is the only difference, and no child inherits it."""
    with harness.Job() as job:
        plain = job.start(tag="plain-0", preload=False, limit=LIMIT).finish()
        job.ranks.clear()
        traced = job.start(tag="trace-0", limit=LIMIT).finish()

        def descriptors(text):
            return int(re.search(r"^descriptors (\d+)$", text, re.M).group(1))
        extra = descriptors(traced) - descriptors(plain)
        demand(extra in (0, 2), extra, "more descriptors:\n" + traced)
        traced = re.sub(r"^descriptors \d+$", f"descriptors {descriptors(plain)}", traced, flags=re.M)
        lines = traced.splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if line.startswith("threads"))
        same(plain, "".join(lines[:at - extra] + lines[at:]))
        check_trace(job, started=True)


def test_ends():
    """Threads that go on while the main thread exits, and exchanges after the library has said goodbye: all there,
    with a collector that watches and with one that comes afterwards."""
    for live in (True, False):
        with harness.Job(SKEWSCOPE_COLLECTOR="off") as job:
            collector = job.follow() if live else None
            for turn in range(4):
                late = job.start(tag=f"late{turn}-0", late=20000, limit=100)
                early = job.start(tag=f"early{turn}-0", threads=3, gate=1000, end="exit")
                harness.wait_for(lambda: all(p[1] >= 1000 for p in early.counters.pairs()[1:]), "the threads")
                early.go()
                demand(early.process.wait(harness.PATIENCE) == 0, "exit status", early.process.returncode)
                late.finish()
                demand(late.counters.pairs() == [(20100, 20100)], late.counters.pairs())
            if live:
                collector.terminate()
                demand(collector.wait(harness.PATIENCE) == 0, "the collector:", collector.stderr.read())
            job.collect()
            stored, lost = job.check()
            late = [one for one in job.trace() if one.option("late")]
            demand(all(one.stored_groups + one.lost() == 20100 for one in late),
                   [(one.stored_groups, one.lost()) for one in late])
            demand(all(one.ended == "exited" for one in late), [one.ended for one in late])
            job.check_clean()
            print(f"  {'watched' if live else 'afterwards'}: {stored} stored, {lost} lost")


def test_main_thread_ends_first():
    """The process looks like a zombie then, but it is not over."""
    with harness.Job(SKEWSCOPE_COLLECTOR="off") as job:
        collector = job.follow()
        rank = job.start(tag="leader-0", threads=3, gate=1000, end="thread")
        harness.wait_for(lambda: all(p[1] >= 1000 for p in rank.counters.pairs()[1:]), "the threads")
        harness.wait_for(lambda: open(f"/proc/{rank.process.pid}/stat", encoding="utf-8").read().rpartition(")")[2]
                         .split()[0] == "Z", "the end of the main thread")
        job.collect()  # asks the other collector, which has looked at the process by now
        job.collect()
        for turn in range(2, 40):
            rank.go(1000 * turn)
            harness.wait_for(lambda: all(p[1] >= 1000 * turn for p in rank.counters.pairs()[1:]), "the threads")
        demand(rank.process.poll() is None, "the process is over")
        rank.counters.set("limit", 40000)
        rank.go()
        demand(rank.process.wait(harness.PATIENCE) == 0, "exit status", rank.process.returncode)
        collector.terminate()
        demand(collector.wait(harness.PATIENCE) == 0, "the collector:", collector.stderr.read())
        job.collect()
        stored, lost = job.check(exact=True)
        demand(stored + lost == 80000, "stored", stored, "lost", lost)
        demand([one.ended for one in job.trace()] == ["exited"], [one.ended for one in job.trace()])
        job.check_clean()


if __name__ == "__main__":
    harness.main(globals())

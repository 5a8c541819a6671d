# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the application at random moments, several processes and threads at a time. Every exchange whose
wrapper returned is there afterwards, with the right content, or counted as lost; at most one more a thread.

SKEWSCOPE_TEST_KILLS=N kills N times in all (default 200).
"""
import os
import signal
import time

import harness
import spoolfile
from facts import demand

KILLS = int(os.environ.get("SKEWSCOPE_TEST_KILLS") or 200)
SHAPES = [dict(threads=1, ranks=2), dict(threads=3, ranks=3), dict(threads=2, ranks=8, pattern="sparse"),
          dict(threads=3, ranks=1)]
AT_ONCE = 4
STALL = 2500  # exchanges a thread: a kill that comes late finds the threads waiting, and the check stays affordable


def _plan(rng):
    """When to kill: after a time that may fall into the start, or once so many exchanges have returned."""
    if rng.random() < 0.3:
        return time.monotonic() + rng.uniform(0, 0.03), None
    return None, rng.randrange(1, STALL // 2)


def kill_many(job, kills, rng, **environment):
    alive, started = [], 0
    while started < kills or alive:
        while started < kills and len(alive) < AT_ONCE:
            shape = rng.choice(SHAPES)
            rank = job.start(tag=f"kill-{started}", rank=rng.randrange(shape["ranks"]), gate=STALL, env=environment,
                             stdout=harness.subprocess.DEVNULL, stderr=harness.subprocess.DEVNULL, **shape)
            alive.append((rank, *_plan(rng)))
            started += 1
        for one in list(alive):
            rank, moment, count = one
            due = time.monotonic() >= moment if count is None else max(p[1] for p in rank.counters.pairs()) >= count
            if not due:
                demand(rank.process.poll() is None, rank.tag, "ended by itself:", rank.process.poll())
                continue
            demand(rank.kill() == -signal.SIGKILL, rank.tag, "ended by itself:", rank.process.returncode)
            alive.remove(one)
        time.sleep(0.0001)


def check_ended(job):
    how = {one.ended for one in job.trace()}
    demand(how == {"killed"}, "the trace says of killed processes:", how)


def say(job, stored, lost):
    nowhere = sum(rank.counters.get("phase") < 2 for rank in job.ranks)
    between = sum(b - r for rank in job.ranks for b, r in rank.counters.pairs())
    print(f"  {len(job.ranks)} kills ({nowhere} before the communicators, {between} threads inside an exchange): "
          f"{stored} exchanges stored, {lost} lost", flush=True)


def test_what_the_spool_holds():
    rng = harness.random_source()
    with harness.Job(SKEWSCOPE_COLLECTOR="off") as job:
        kill_many(job, max(KILLS // 10, 1), rng)
        say(job, *job.check(spoolfile.read_all(job.spool())))


def test_collected_afterwards():
    rng = harness.random_source()
    left = KILLS * 4 // 10
    while left > 0:
        with harness.Job(SKEWSCOPE_COLLECTOR="off") as job:
            kill_many(job, min(left, 50), rng)
            job.collect()
            say(job, *job.check())
            check_ended(job)
            job.check_clean()
        left -= 50


def test_collected_meanwhile():
    rng = harness.random_source()
    left = KILLS - KILLS // 10 - KILLS * 4 // 10
    while left > 0:
        # A small spool, so that segments come round again and again.
        with harness.Job(SKEWSCOPE_COLLECTOR="off", SKEWSCOPE_SEGMENT_KB="16", SKEWSCOPE_SPOOL_MB="1") as job:
            collector = job.follow()
            kill_many(job, min(left, 50), rng)
            collector.send_signal(signal.SIGTERM)
            demand(collector.wait(harness.PATIENCE) == 0, "the collector ended with", collector.returncode,
                   collector.stderr.read())
            job.collect()
            say(job, *job.check())
            check_ended(job)
            job.check_clean()
        left -= 50


if __name__ == "__main__":
    harness.main(globals())

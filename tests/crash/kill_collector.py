# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the collector, of `skewscope run`, of both together with the application: what was stored before is
there once, what was not is found by the next one.

SKEWSCOPE_TEST_COLLECTOR_KILLS=N kills the collector N times in all (default 60).
"""
import os
import signal
import subprocess
import time

import facts
import harness
import tracefile
from facts import demand

KILLS = int(os.environ.get("SKEWSCOPE_TEST_COLLECTOR_KILLS") or 60)
SMALL = dict(SKEWSCOPE_COLLECTOR="off", SKEWSCOPE_SPOOL_MB="4", SKEWSCOPE_SEGMENT_KB="16")


def test_collector_killed_at_random():
    """Killed and replaced all the time, while two ranks exchange: in the middle of starting, of a transaction, of
    giving segments back, of publishing."""
    rng = harness.random_source()
    with harness.Job(**SMALL) as job:
        ranks = [job.start(tag=f"rank-{r}", rank=r, ranks=2, threads=2, gate=500) for r in range(2)]
        for turn in range(1, KILLS + 1):
            collector = job.follow()
            if turn % 3 == 0:  # asks it to publish
                asking = subprocess.Popen([harness.TOOL, "collect", "--out", job.out], env=job.env(False),
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                          preexec_fn=harness.ends_with_us())
                job.helpers.append(asking)
            for rank in ranks:
                rank.go(500 * turn)
            time.sleep(rng.uniform(0, 0.25))  # only the moment of the kill
            collector.kill()
            collector.wait()
            if turn % 3 == 0:
                asking.kill()
                asking.wait()
        for rank in ranks:
            rank.finish(limit=500 * KILLS)
        job.collect()
        stored, lost = job.check(exact=True)
        demand(stored + lost == 4 * 500 * KILLS, "stored", stored, "lost", lost)
        facts.check_pairs({int(one.option("rank")): one for one in job.trace()},
                          {r: ranks[r].counters.pairs() for r in range(2)})
        job.check_clean()
        print(f"  {KILLS} kills: {stored} stored, {lost} lost")


def test_both_killed():
    """The application and its collector, again and again in one directory."""
    rng = harness.random_source()
    with harness.Job(**SMALL) as job:
        for turn in range(10):
            collector = job.follow()
            ranks = [job.start(tag=f"turn{turn}-{r}", rank=r, ranks=2, threads=2, gate=3000) for r in range(2)]
            victims = [rank.process for rank in ranks] + [collector]
            rng.shuffle(victims)
            at = rng.randrange(1, 3000)
            harness.wait_for(lambda: max(p[1] for p in ranks[0].counters.pairs()) >= at, f"{at} exchanges")
            for victim in victims:
                victim.kill()
            for victim in victims:
                victim.wait()
        job.collect()
        stored, lost = job.check()
        demand(stored > 1000, "stored", stored)
        job.check_clean()
        print(f"  10 times: {stored} stored, {lost} lost")


def start_under_run(job, tag, **options):
    return job.start(tag=tag, before=[harness.TOOL, "run", "-o", job.out, "--"], preload=False, **options)


def kill_and_wait(rank):
    """`run` alone is killed: what it started goes on."""
    rank.process.send_signal(signal.SIGKILL)
    rank.process.wait()


def application(rank):
    """The pid of the rank itself, which is not the process that we started."""
    return rank.counters.get("pid")


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_run_killed():
    """The application goes on and is recorded to its end; the orphaned collector ends by itself."""
    with harness.Job() as job:
        rank = start_under_run(job, "orphan-0", threads=2, gate=2000)
        rank.wait_returned(2000)
        pid = application(rank)
        kill_and_wait(rank)
        rank.counters.set("limit", 50000)
        rank.go()
        harness.wait_for(lambda: not is_running(pid), "the end of the application")
        demand(rank.counters.get("phase") == 3 and rank.counters.get("failed") == 0, "phase", rank.counters.get("phase"))
        harness.wait_for(lambda: not harness.collectors(job.out), "the end of the orphaned collector")
        job.collect()
        stored, lost = job.check(exact=True)
        demand(stored + lost == 100000, "stored", stored, "lost", lost)
        rows = tracefile.query(os.path.join(job.out, "trace.db"), "SELECT key, ended_real_ns, exit_status FROM run")
        demand(len(rows) == 1 and rows[0][0] and rows[0][1] is None and rows[0][2] is None, "runs:", rows)


def test_run_and_application_killed():
    with harness.Job() as job:
        for turn in range(5):
            rank = start_under_run(job, f"both{turn}-0", threads=2, gate=500 * turn + 100)
            rank.wait_returned(500 * turn + 100)
            pid = application(rank)
            kill_and_wait(rank)
            os.kill(pid, signal.SIGKILL)
            harness.wait_for(lambda: not is_running(pid), "the end of the application")
        harness.end_collectors(job.out)
        harness.wait_for(lambda: not harness.collectors(job.out), "the end of the collectors")
        job.collect()
        stored, lost = job.check()
        demand(stored + lost == 2 * sum(500 * turn + 100 for turn in range(5)), "stored", stored, "lost", lost)


def test_process_group_killed_at_once():
    """What a terminal or a scheduler does: `run` and the command at once. The collector has a session of its own."""
    with harness.Job() as job:
        rank = start_under_run(job, "group-0", threads=3, gate=5000, setup=os.setsid)
        rank.wait_returned(2000)
        os.killpg(rank.process.pid, signal.SIGKILL)
        rank.process.wait()
        harness.wait_for(lambda: not is_running(application(rank)), "the end of the application")
        harness.wait_for(lambda: not harness.collectors(job.out), "the end of the collector")
        job.collect()
        stored, lost = job.check()
        demand(stored + lost >= 6000, "stored", stored, "lost", lost)
        job.check_clean(runs=True)


def test_everything_killed_at_once():
    """A pid namespace dies with its first process, all in it at the same moment, as a cgroup does."""
    if not harness.unshare_works("-p", "-f", "--mount-proc", "--kill-child"):
        raise harness.Skip("pid namespaces are not permitted here")
    for before in ([], [harness.TOOL, "run", "-o", "OUT", "--"]):
        with harness.Job() as job:
            words = [job.out if word == "OUT" else word for word in before]
            rank = job.start(tag="world-0", before=["unshare", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c",
                                                    '"$@" & wait', "sh", *words],
                             preload=not before, threads=3, ranks=3, gate=40000)
            rank.wait_returned(3000)
            rank.process.kill()
            rank.process.wait()
            harness.wait_for(lambda: not harness.collectors(job.out), "the end of the collector")
            job.collect()
            stored, lost = job.check()
            demand(stored + lost >= 9000, "stored", stored, "lost", lost)
            demand([one.ended for one in job.trace()] in (["killed"], ["unknown"]), [one.ended for one in job.trace()])
            print(f"  {'under run' if before else 'with LD_PRELOAD only'}: {stored} stored, {lost} lost")


def test_exactly_once_from_copies_of_a_spool():
    """A spool that was stored, but not removed before a crash, comes back: nothing is stored twice."""
    import shutil
    with harness.Job(**SMALL) as job:
        job.start(tag="again-0", limit=3000).finish()
        kept = job.spool() + ".kept"
        shutil.copytree(job.spool(), kept)
        job.collect()
        first = job.check(exact=True)
        os.makedirs(os.path.dirname(job.spool()), mode=0o700, exist_ok=True)
        os.rename(kept, job.spool())
        os.chmod(job.spool(), 0o700)
        job.collect()
        demand(job.check(exact=True) == first, "now", job.check(exact=True), "before", first)
        job.check_clean()


if __name__ == "__main__":
    harness.main(globals())

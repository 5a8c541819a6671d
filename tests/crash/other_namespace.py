# SPDX-License-Identifier: Apache-2.0
"""Spools in another mount namespace, as a container has it: with its own /dev/shm, and often its own processes.
The collector outside goes there through a process that lives in it; where none does, it says exactly what it
cannot reach, and everything else is in the trace.
"""
import os
import signal
import subprocess

import harness
import tracefile
from facts import demand

INSIDE = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m,mode=1777 own /dev/shm && exec "$@"', "sh"]
CONTAINER = ["unshare", "-m", "-p", "-f", "--mount-proc", "sh", "-c",
             'mount -t tmpfs -o size=64m,mode=1777 own /dev/shm && "$@"; true', "sh"]
OFF = dict(SKEWSCOPE_COLLECTOR="off")


def need():
    if not harness.unshare_works("-m", "mount", "-t", "tmpfs", "own", "/mnt") and \
            not harness.unshare_works("-m", "-p", "-f", "--mount-proc"):
        raise harness.Skip("mount namespaces are not permitted here")


def trace_path(job):
    return os.path.join(job.out, "trace.db")


def unreachable(job):
    return tracefile.query(trace_path(job), "SELECT severity, text FROM diagnostic WHERE code = 'spool_unreachable'")


def pointers(job):
    state = os.path.join(job.out, ".skewscope")
    return [name for name in os.listdir(state) if name.startswith("spool-")] if os.path.isdir(state) else []


def holds_spool(job):
    """Whether a collector has the spool directory open."""
    name = os.path.basename(job.spool())
    for pid in harness.collectors(job.out):
        if any(link.endswith("/" + name) for link in harness.links(pid)):
            return True
    return False


def guest_in(job, rank):
    """Another process of the rank's mount namespace, which keeps it alive."""
    pid = rank.counters.get("pid")
    guest = subprocess.Popen(["nsenter", f"--mount=/proc/{pid}/ns/mnt", "sh", "-c", "echo ready; exec sleep 1000"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    demand(guest.stdout.readline() == "ready\n", "no guest")
    job.helpers.append(guest)
    return guest


def test_collected_while_it_lives():
    """`collect` outside, several times beside the living process; the rest through a process that stays."""
    need()
    with harness.Job(**OFF) as job:
        rank = job.start(tag="inside-0", before=INSIDE, threads=2, gate=2000)
        rank.wait_returned(2000)
        demand(not os.path.exists(job.spool()), "the namespace is not its own")
        job.collect()
        demand(job.check() == (4000, 0) and not unreachable(job), "stored", job.check(), unreachable(job))
        rank.go(3000)
        rank.wait_returned(3000)
        guest = guest_in(job, rank)
        rank.kill()
        job.collect()
        stored, lost = job.check()
        demand(6000 <= stored <= 6002 and lost == 0 and not unreachable(job), "stored", stored, unreachable(job))
        demand([one.ended for one in job.trace()] == ["killed"], [one.ended for one in job.trace()])
        job.check_clean()
        guest.kill()


def test_killed_under_run_outside():
    """The collector of `run` has been there before the kill: what came after is reached all the same, since it holds
    the directory."""
    need()
    for words in (INSIDE, CONTAINER):
        with harness.Job() as job:
            rank = job.start(tag="inside-0", before=[harness.TOOL, "run", "-o", job.out, "--", *words], preload=False,
                             threads=2, gate=1000)
            rank.wait_returned(1000)
            harness.wait_for(lambda: holds_spool(job), "the collector's first look")
            rank.go(20000)
            rank.wait_returned(20000)
            kill_rank(rank)
            rank.process.communicate(timeout=harness.PATIENCE)
            stored, lost = job.check()
            demand(stored + lost >= 40000 and not unreachable(job), "stored", stored, "lost", lost, unreachable(job))
            demand([one.ended for one in job.trace()] == ["killed"], [one.ended for one in job.trace()])
            demand(not pointers(job), "pointers are left:", pointers(job))
            print(f"  {stored} stored, {lost} lost")


def kill_rank(rank):
    """By its counters' file, since its pid is known inside only."""
    for pid, words in harness.processes():
        if words[0] == harness.TRAFFIC and f"file={rank.counters.path}" in words:
            os.kill(pid, signal.SIGKILL)


def test_nobody_is_left():
    """The namespace has gone, and the spool with it: said precisely, and the other process is complete."""
    need()
    with harness.Job(**OFF) as job:
        lost_rank = job.start(tag="gone-0", before=INSIDE, gate=2000)
        lost_rank.wait_returned(2000)
        other = job.start(tag="here-0", limit=3000)
        other.finish()
        lost_rank.kill()
        status, err = job.collect(check=False)
        job.ranks.remove(lost_rank)
        demand(job.check(exact=True) == (3000, 0), "the other process:", job.check(exact=True))
        said = unreachable(job)
        demand(len(said) == 1 and said[0][0] == "error", "said", said)
        for word in ("/dev/shm/skewscope-", "mount namespace", "skewscope collect", job.out if job.out in err else "host"):
            demand(word in said[0][1] and (word == "host" or word in err), repr(word), "is not in", said[0][1], "and", err)
        demand(len(pointers(job)) == 1, "pointers:", pointers(job))
        print("  " + err.strip())
        # Once more: nothing new is said, and nothing is harmed.
        job.collect(check=False)
        demand(unreachable(job) == said and job.check(exact=True) == (3000, 0), "said", unreachable(job))


def test_partly_collected_before_it_went():
    """What was collected in time stays; the trace does not claim to be complete."""
    need()
    with harness.Job(**OFF) as job:
        rank = job.start(tag="gone-0", before=INSIDE, gate=2000)
        rank.wait_returned(2000)
        job.collect()
        rank.go(5000)
        rank.wait_returned(5000)
        rank.kill()
        job.collect(check=False)
        seen = job.trace()
        demand(len(seen) == 1 and seen[0].stored_groups == 2000, [one.stored_groups for one in seen])
        demand(sorted(seen[0].exchanges[0]) == list(range(2000)), "not the first 2000 exchanges")
        demand(len(unreachable(job)) == 1, "said", unreachable(job))
        demand(seen[0].ended in ("running", "unknown"), seen[0].ended)


def test_library_collector_inside():
    """With LD_PRELOAD alone the collector is started inside and sees everything."""
    need()
    with harness.Job() as job:
        rank = job.start(tag="own-0", before=INSIDE, gate=4000)
        rank.wait_returned(4000)
        demand(harness.collectors(job.out), "no collector")
        rank.kill()
        harness.wait_for(lambda: not harness.collectors(job.out), "the end of the collector")
        stored, lost = job.check()
        demand(stored + lost >= 4000 and not unreachable(job), "stored", stored, unreachable(job))
        job.check_clean()


def test_a_collector_on_each_side():
    """Processes inside and outside write to one output directory: one database, all of both."""
    need()
    with harness.Job() as job:
        ranks = [job.start(tag=f"rank-{r}", rank=r, ranks=2, before=INSIDE if r else [], gate=3000) for r in range(2)]
        for rank in ranks:
            rank.wait_returned(3000)
        for rank in ranks:
            rank.finish(limit=6000)
        harness.wait_for(lambda: not harness.collectors(job.out), "the end of the collectors")
        job.collect(check=False)
        said = unreachable(job)
        demand(not said, "said", said)
        stored, lost = job.check(exact=True)
        demand(stored + lost == 12000, "stored", stored, "lost", lost)


if __name__ == "__main__":
    harness.main(globals())

# SPDX-License-Identifier: Apache-2.0
"""A spool of one segment, with a collector, with none, and with one that comes late: what finds no room is counted
by reason and by peer, so that the n-th send still meets the n-th receive.
"""
import re
import signal

import facts
import harness
import spoolfile
from facts import demand

ONE_SEGMENT = dict(SKEWSCOPE_COLLECTOR="off", SKEWSCOPE_SPOOL_MB="1", SKEWSCOPE_SEGMENT_KB="1024")
SMALL = dict(SKEWSCOPE_COLLECTOR="off", SKEWSCOPE_SPOOL_MB="1", SKEWSCOPE_SEGMENT_KB="16")


def reasons(seen):
    return sorted({reason for one in seen for reason in one.loss})


def start_all(job, ranks, **options):
    return [job.start(tag=f"rank-{r}", rank=r, ranks=ranks, **options) for r in range(ranks)]


def check_matching(job, ranks):
    """All ranks ran to the end: every pair's numbering must fit, and many pairs must be comparable."""
    seen = {int(one.option("rank")): one for one in job.trace()}
    compared = facts.check_pairs(seen, {r: job.ranks[r].counters.pairs() for r in range(ranks)})
    demand(compared > 100, "only", compared, "pairs of a send and its receive are stored")
    return compared


def test_without_a_collector():
    for pattern in ("dense", "sparse"):
        with harness.Job(**ONE_SEGMENT) as job:
            rank = job.start(tag="alone-0", rank=1, ranks=3, limit=20000, pattern=pattern)
            rank.finish()
            stored, lost = job.check(spoolfile.read_all(job.spool()), exact=True)
            demand(stored > 1000 and lost > 1000, "stored", stored, "lost", lost)
            job.collect()
            demand(job.check(exact=True) == (stored, lost), "the collector found", job.check(exact=True))
            demand(reasons(job.trace()) == ["spool_full"], reasons(job.trace()))
            job.check_clean()
            print(f"  {pattern}: {stored} stored, {lost} lost")


def test_two_threads_share_one_segment():
    """The second thread gets none at all: every one of its exchanges is lost, and counted."""
    with harness.Job(**ONE_SEGMENT) as job:
        rank = job.start(tag="pair-0", threads=2, limit=5000)
        rank.finish()
        job.collect()
        stored, lost = job.check(exact=True)
        demand(stored + lost == 10000 and lost >= 5000, "stored", stored, "lost", lost)


def test_the_collector_comes_late():
    """Full; then drained by a collector, several times over: losses stand where they happened."""
    for pattern in ("dense", "sparse"):
        with harness.Job(**SMALL) as job:
            ranks = start_all(job, 3, pattern=pattern, gate=12000)
            for turn in range(1, 5):
                for rank in ranks:
                    rank.wait_returned(12000 * turn)
                job.collect()
                for rank in ranks:
                    rank.go(12000 * (turn + 1))
            for rank in ranks:
                rank.finish(limit=60000)
            job.collect()
            stored, lost = job.check(exact=True)
            demand(stored + lost == 180000 and lost > 10000, "stored", stored, "lost", lost)
            edges = sum(len(at) for one in job.trace() for at in one.loss_edges.values())
            demand(edges >= 3 * 3, "losses are located at", edges, "places only")
            compared = check_matching(job, 3)
            job.check_clean()
            print(f"  {pattern}: {stored} stored, {lost} lost, before {edges} exchanges; {compared} pairs compared")


def test_with_a_live_collector():
    """One data segment and a collector that works all the time: more comes through than the segment holds."""
    with harness.Job(**ONE_SEGMENT) as job:
        collector = job.follow()
        ranks = start_all(job, 2, threads=2, gate=0)
        for turn in range(1, 41):
            for rank in ranks:
                rank.go(1000 * turn)
            for rank in ranks:
                rank.wait_returned(1000 * turn)
        for rank in ranks:
            rank.finish(limit=40000)
        collector.send_signal(signal.SIGTERM)
        demand(collector.wait(harness.PATIENCE) == 0, "the collector:", collector.stderr.read())
        job.collect()
        stored, lost = job.check(exact=True)
        demand(stored + lost == 160000 and stored > 5000, "stored", stored, "lost", lost)
        check_matching(job, 2)
        job.check_clean()
        print(f"  {stored} stored, {lost} lost ({', '.join(reasons(job.trace()))})")


def test_a_group_larger_than_a_segment():
    """900 peers: each exchange fills two segments of 16 KiB. Its parts are lost or stored together."""
    with harness.Job(**SMALL) as job:
        rank = job.start(tag="large-0", rank=5, ranks=900, gate=60)
        for turn in range(1, 4):
            rank.wait_returned(60 * turn)
            job.collect()
            rank.go(60 * (turn + 1))
        rank.finish(limit=240)
        job.collect()
        stored, lost = job.check(exact=True)
        demand(stored + lost == 240 and stored > 30 and lost > 30, "stored", stored, "lost", lost)
        job.check_clean()
        print(f"  {stored} stored, {lost} lost")


def test_killed_while_losing():
    """Kills between a loss and its record: what is stored can still be numbered."""
    rng = harness.random_source()
    for turn in range(3):
        with harness.Job(**SMALL) as job:
            collector = job.follow()
            ranks = [job.start(tag=f"k{turn}-{r}", rank=r, ranks=4, threads=2, gate=60000) for r in range(4)]
            for rank in ranks:
                at = rng.randrange(8000, 40000)
                harness.wait_for(lambda: max(p[1] for p in rank.counters.pairs()) >= at, f"{at} exchanges")
                rank.kill()
            collector.send_signal(signal.SIGTERM)
            demand(collector.wait(harness.PATIENCE) == 0, "the collector:", collector.stderr.read())
            job.collect()
            stored, lost = job.check()
            job.check_clean()
            print(f"  {stored} stored, {lost} lost")


def test_losses_are_shown():
    """What a person sees says how many of how many."""
    with harness.Job(**ONE_SEGMENT) as job:
        job.start(tag="alone-0", limit=20000).finish()
        job.collect()
        _, lost = job.check(exact=True)
        shown = harness.subprocess.run([harness.TOOL, "info", job.out], capture_output=True, text=True, check=True,
                                       env=job.env(False)).stdout
        demand(str(lost) in re.sub(r"(?<=\d)\D(?=\d{3})", "", shown), "info does not show", lost, "lost exchanges:", shown)
        demand("spool_full" in shown, "info does not name the reason:", shown)


if __name__ == "__main__":
    harness.main(globals())

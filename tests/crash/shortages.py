# SPDX-License-Identifier: Apache-2.0
"""No space, no descriptors, no address space, file size limits, nothing writable: the application does not notice,
what could not be stored is counted with its reason, and where not even that can be written, one line says so.
"""
import fcntl
import glob
import os
import re
import resource
import subprocess

import harness
import spoolfile
from facts import demand

OFF = dict(SKEWSCOPE_COLLECTOR="off")
LINE = re.compile(r"skewscope: [^\n]+\n")
NOBODY = 65534


def stored_and_lost(job, total, *reasons):
    """After everything was collected: the sum is right and only these reasons occur. Returns both."""
    stored, lost = job.check(exact=True)
    demand(stored + lost == total, "stored", stored, "lost", lost, "of", total)
    seen = {reason for one in job.trace() for reason in one.loss}
    demand(seen <= set(reasons) and (lost > 0) == bool(seen), "reasons are", seen)
    return stored, lost


def codes(job):
    return [code for one in job.trace() for code, _ in one.diagnostics]


def spools(job):
    return spoolfile.read_all(job.spool()) if os.path.exists(job.spool()) else []


def trickle(rank, condition, what, step=1):
    """A few exchanges after the other until the condition holds. Returns how many there were."""
    gate = [rank.counters.pairs()[0][1]]

    def once():
        gate[0] += step
        rank.go(gate[0])
        rank.wait_returned(gate[0])
        return condition()
    harness.wait_for(once, what)
    return gate[0]


def unlike_the_host(plain, traced):
    """What a rank says about itself must not depend on skewscope."""
    a, b = (re.sub(r"pipe:\[\d+\]|/\S*counters|cwd \S+", "…", text) for text in (plain, traced))
    demand(a == b, "the application sees a difference:\n" + a + "---\n" + b)


# ---------------------------------------------------------------------------------------------- space

def test_full_from_the_start():
    """No candidate for the spool has room when the job starts; later one has."""
    with harness.Mount("16m", at="/dev/shm") as shm, harness.Mount("1m", at="/tmp") as tmp, \
            harness.Mount("8m") as disk, harness.Job(out=os.path.join(disk.path, "out"), **OFF) as job:
        for mount in (shm, tmp, disk):
            mount.fill()
        rank = job.start(tag="full-0", gate=2000)
        rank.wait_returned(2000)
        demand(not spools(job), "a spool on a full file system")
        shm.unfill()
        disk.unfill()
        limit = trickle(rank, lambda: spools(job), "a spool") + 1000
        rank.finish(limit=limit)
        demand(LINE.fullmatch(rank.err) and "no space left" in rank.err, "standard error:", rank.err)
        job.collect()
        stored, lost = stored_and_lost(job, limit, "no_space")
        demand(lost >= 2000 and stored >= 1000, "stored", stored, "lost", lost)
        demand(not job.check_clean(), "")


def test_shared_memory_of_64_mb_and_8_processes():
    """Docker's default /dev/shm: all together leave room for NCCL's own segments; what is lost is counted."""
    with harness.Mount("64m", at="/dev/shm") as shm, harness.Job(**OFF) as job:
        ranks = [job.start(tag=f"rank-{r}", rank=r, ranks=8, gate=30000) for r in range(8)]
        for rank in ranks:
            rank.wait_returned(30000)
        # Each leaves three times its own spool free when it grows: 3/11 of all when eight grow side by side, and (3/4)^8
        # when each takes all it may before the next one begins.
        demand(shm.free() >= 0.75**8 * (64 << 20), "only", shm.free() >> 20, "MiB are left for others")
        job.collect()
        demand(job.check()[1] > 0, "nothing was lost, so nothing was tested")
        for rank in ranks:
            rank.go(40000)
        for rank in ranks:
            rank.finish(limit=40000)
        job.collect()
        stored, lost = stored_and_lost(job, 8 * 40000, "no_space")
        job.check_clean()
        print(f"  {stored} stored, {lost} lost, {shm.free() >> 20} MiB free")


def test_full_later():
    with harness.Mount("64m", at="/dev/shm") as shm, harness.Job(**OFF) as job:
        rank = job.start(tag="later-0", ranks=8, gate=1000)
        rank.wait_returned(1000)
        shm.fill()
        rank.go(20000)
        rank.wait_returned(20000)
        shm.unfill()
        size = sum(one.stored_groups for one in spools(job))
        demand(size < 20000, "the file system was not full")
        trickle(rank, lambda: sum(one.stored_groups for one in spools(job)) > size, "growth after there is room again", 50)
        rank.finish(limit=60000)
        job.collect()
        stored, lost = stored_and_lost(job, 60000, "no_space")
        demand(stored > size, "stored", stored)
        job.check_clean()


def test_the_disk_instead():
    """/dev/shm has no room at all: the spool lies in /tmp, and the trace says so."""
    with harness.Mount("1m", at="/dev/shm") as shm, harness.Job(root="/tmp", **OFF) as job:
        shm.fill()
        rank = job.start(tag="disk-0", limit=5000)
        rank.finish()
        demand(rank.err == "", "standard error:", rank.err)
        job.collect()
        stored_and_lost(job, 5000)
        demand("spool_disk" in codes(job), "diagnostics are", codes(job))
        job.check_clean()


def test_hardly_any_room():
    """Room for a few segments only: recorded, with a warning."""
    with harness.Mount("4m", at="/dev/shm"), harness.Mount("1m", at="/tmp") as tmp, harness.Job(**OFF) as job:
        tmp.fill()
        rank = job.start(tag="small-0", limit=20000)
        rank.finish()
        demand(rank.err == "", "standard error:", rank.err)
        job.collect()
        stored_and_lost(job, 20000, "no_space")
        demand("spool_small" in codes(job), "diagnostics are", codes(job))
        job.check_clean()


def _full_output(kind, size):
    with harness.Mount(size, kind=kind) as disk, harness.Job(out=os.path.join(disk.path, "out"), **OFF) as job:
        os.mkdir(job.out)
        rank = job.start(tag="out-0", ranks=3, gate=5000)
        rank.wait_returned(5000)
        disk.fill()
        status, err = job.collect(check=False)
        demand(status == 1 and LINE.search(err) and job.out in err, "collect on a full disk:", status, err)
        rank.finish(limit=9000)
        demand(rank.err == "", "standard error:", rank.err)
        status, err = job.collect(check=False)
        demand(status == 1, "collect on a full disk:", status, err)
        disk.unfill()
        job.collect()
        stored_and_lost(job, 9000)
        job.check_clean()


def test_output_on_a_full_tmpfs():
    _full_output("tmpfs", "16m")


def test_output_on_a_full_ext4():
    _full_output("ext4", 32 << 20)


def test_output_full_beside_a_live_collector():
    """The collector that meets a full disk neither loses nor doubles anything, and goes on when there is room."""
    with harness.Mount("16m") as disk, harness.Job(out=os.path.join(disk.path, "out"), **OFF) as job:
        os.mkdir(job.out)
        collector = job.follow()
        rank = job.start(tag="out-0", ranks=3, gate=1000)
        rank.wait_returned(1000)
        disk.fill()
        rank.go(60000)
        rank.wait_returned(60000)
        disk.unfill()
        rank.finish(limit=90000)
        collector.terminate()
        demand(collector.wait(harness.PATIENCE) == 0, "the collector:", collector.returncode, collector.stderr.read())
        job.collect()
        stored, lost = stored_and_lost(job, 90000, "spool_full")
        job.check_clean()
        print(f"  {stored} stored, {lost} lost")


# ---------------------------------------------------------------------------------------- permissions

def test_output_cannot_be_written():
    """Only LD_PRELOAD is set and the output directory is read-only: one line, and nothing is lost."""
    with harness.Mount("16m") as disk:
        cases = ((dict(), 1), (dict(LOCAL_RANK=0), 1), (dict(LOCAL_RANK=3), 0), (dict(SLURM_LOCALID=0), 1),
                 (dict(SKEWSCOPE_QUIET="on"), 0), (dict(SKEWSCOPE_RUN_ID="some-run"), 0))
        for number, (environment, lines) in enumerate(cases):
            with harness.Job(out=os.path.join(disk.path, f"out{number}"), **OFF) as job:
                disk.read_only()
                rank = job.start(tag="ro-0", limit=3000, env=environment)
                rank.finish()
                demand(len(rank.err.splitlines()) == lines, environment, "standard error:", rank.err)
                demand(not lines or (LINE.fullmatch(rank.err) and job.out in rank.err and
                                     "read-only file system" in rank.err), "standard error:", rank.err)
                status, err = job.collect(check=False)
                demand(status == 1 and LINE.search(err), "collect:", status, err)
                disk.read_only(False)
                job.collect()
                stored_and_lost(job, 3000)
                job.check_clean()


def test_output_cannot_be_written_under_a_collector_of_our_own():
    """As before, with the collector that the library starts: it gives up in peace and leaves everything."""
    with harness.Mount("16m") as disk, harness.Job(out=os.path.join(disk.path, "out")) as job:
        disk.read_only()
        rank = job.start(tag="ro-0", limit=3000)
        rank.finish()
        demand(LINE.fullmatch(rank.err), "standard error:", rank.err)
        harness.wait_for(lambda: not harness.collectors(job.out), "the end of the collector")
        disk.read_only(False)
        job.collect()
        stored_and_lost(job, 3000)
        job.check_clean()


def test_nothing_can_be_written():
    """Another user, and no directory is his: the one line, and no harm."""
    with harness.Mount("1m", at="/dev/shm", mode="755"), harness.Mount("1m", at="/tmp", mode="755"), \
            harness.Job(out="/nowhere/out", **OFF) as job:
        os.chmod(job.base, 0o755)

        def as_nobody():
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        for environment, lines in ((dict(LOCAL_RANK=0), 1), (dict(LOCAL_RANK=1), 0), (dict(SKEWSCOPE_QUIET="on"), 0)):
            tag = f"nobody-{len(job.ranks)}"
            job.counters(tag)
            os.chmod(os.path.join(job.base, f"{tag}.counters"), 0o666)
            try:
                rank = job.start(tag=tag, limit=3000, env=environment, setup=as_nobody)
                rank.finish()
            except PermissionError:
                raise harness.Skip("another user cannot reach the build directory") from None
            demand(len(rank.err.splitlines()) == lines, environment, "standard error:", rank.err)
            demand(not lines or (LINE.fullmatch(rank.err) and "permission denied" in rank.err), rank.err)
            demand(rank.counters.pairs() == [(3000, 3000)], rank.counters.pairs())


def test_run_says_it():
    with harness.Mount("1m") as disk, harness.Job(out=os.path.join(disk.path, "out")) as job:
        disk.read_only()
        done = subprocess.run([harness.TOOL, "run", "-o", job.out, "--", "echo", "it ran"], env=job.env(False),
                              capture_output=True, text=True, timeout=harness.PATIENCE, check=False)
        demand(done.returncode == 1 and done.stdout == "", "run:", done.returncode, done.stdout)
        demand(LINE.fullmatch(done.stderr) and job.out in done.stderr and "ead-only" in done.stderr, done.stderr)


# --------------------------------------------------------------------------------------- descriptors

def test_no_descriptors_at_the_start():
    with harness.Job(**OFF) as job:
        rank = job.start(tag="fds-0", gate=2000, fds="early")
        rank.wait_returned(2000)
        demand(not spools(job), "a spool without a descriptor")
        rank.relieve()
        limit = trickle(rank, lambda: spools(job), "a spool") + 1000
        rank.finish(limit=limit)
        demand(LINE.fullmatch(rank.err) and "too many open files" in rank.err, "standard error:", rank.err)
        job.collect()
        stored, lost = stored_and_lost(job, limit, "io_error")
        demand(lost >= 2000 and stored >= 1000, "stored", stored, "lost", lost)
        job.check_clean()


def test_no_descriptors_later():
    """The spool cannot grow: its segments come round where they are collected, and it grows again afterwards."""
    with harness.Job(SKEWSCOPE_SEGMENT_KB="16", **OFF) as job:
        rank = job.start(tag="fds-0", gate=5000, fds="late")
        rank.wait_returned(5000)
        job.collect()
        stored, lost = job.check()
        demand(lost > 0 and stored > 100, "stored", stored, "lost", lost)
        rank.relieve()
        path, = glob.glob(os.path.join(job.spool(), "*.spool"))
        size = os.path.getsize(path)
        limit = trickle(rank, lambda: os.path.getsize(path) > size, "growth", 50) + 10000
        rank.finish(limit=limit)
        demand(rank.err == "", "standard error:", rank.err)
        job.collect()
        again, lost = stored_and_lost(job, limit, "io_error")
        demand(again >= stored + 10000, "stored", again)
        job.check_clean()


def test_no_descriptors_and_a_collector_of_our_own():
    """It needs descriptors itself, and must not keep the application's."""
    with harness.Job() as job:
        rank = job.start(tag="fds-0", limit=3000, fds="late")
        rank.finish()
        harness.wait_for(lambda: os.path.exists(os.path.join(job.out, "trace.db")) and
                         not harness.collectors(job.out), "the collector")
        job.collect()
        stored_and_lost(job, 3000, "io_error")


# -------------------------------------------------------------------------------------------- limits

def fsize(limit):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def test_file_size_limit():
    """`ulimit -f`: no signal, no failure, and what the limit forbids is counted."""
    # Without call stacks: libunwind keeps a pipe of its own.
    with harness.Job(SKEWSCOPE_STACKS="off", **OFF) as job:
        plain = job.start(tag="plain-0", limit=1000, preload=False, setup=fsize(0))
        plain_out = plain.finish()
        job.ranks.remove(plain)
        for limit in (0, 1, 4096, 65536, 1 << 20, 4 << 20):
            rank = job.start(tag=f"fsize{limit}-0", ranks=4, limit=20000, setup=fsize(limit))
            unlike_the_host(plain_out, rank.finish())
            demand((LINE.fullmatch(rank.err) is not None) == (limit < 1 << 20), limit, "standard error:", rank.err)
        counted = [one for one in job.ranks if one.err]
        for rank in counted:
            job.ranks.remove(rank)
        job.collect()
        stored, lost = stored_and_lost(job, 2 * 20000, "no_space")
        demand(stored > 5000 and lost > 5000, "stored", stored, "lost", lost)
        job.check_clean()


def test_file_size_limit_and_a_collector_of_our_own():
    with harness.Job() as job:
        rank = job.start(tag="fsize-0", limit=20000, ranks=4, setup=fsize(1 << 20))
        rank.finish()
        demand(rank.err == "", "standard error:", rank.err)
        harness.wait_for(lambda: not harness.collectors(job.out), "the end of the collector")
        job.collect()
        stored_and_lost(job, 20000, "no_space")


def test_standard_error_is_of_no_use():
    """The one line must not end the application: a file at its limit, a pipe without a reader, a full pipe."""
    with harness.Mount("1m", at="/dev/shm") as shm, harness.Mount("1m", at="/tmp") as tmp, \
            harness.Mount("1m") as disk, harness.Job(out=os.path.join(disk.path, "out"), **OFF) as job:
        for mount in (shm, tmp, disk):
            mount.fill()
        with open(os.path.join(job.base, "stderr"), "wb") as file:
            rank = job.start(tag="file-0", limit=100, stderr=file, setup=fsize(0))
            demand("signals 0 " in rank.finish(), "a signal reached the application")
        reading, writing = os.pipe()
        os.close(reading)
        rank = job.start(tag="closed-0", limit=100, stderr=writing)
        demand("signals 0 " in rank.finish(), "a signal reached the application")
        os.close(writing)
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)
        try:
            while True:
                os.write(writing, bytes(4096))
        except BlockingIOError:
            fcntl.fcntl(writing, fcntl.F_SETFL, 0)
        rank = job.start(tag="blocked-0", limit=100, stderr=writing)
        rank.finish()
        os.close(writing)
        os.close(reading)
        rank = job.start(tag="none-0", limit=100, setup=lambda: os.close(2), stderr=None)
        rank.finish()
        for rank in job.ranks:
            demand(rank.counters.pairs() == [(100, 100)], rank.tag, rank.counters.pairs())


def test_address_space():
    """`ulimit -v`: from nothing at all to nearly enough."""
    for left in (16, 64, 256, 2048, 4096, 8192, 32768):
        with harness.Job(**OFF) as job:
            rank = job.start(tag=f"as{left}-0", gate=3000, as_kb=left)
            rank.wait_returned(3000)
            early = bool(spools(job))
            rank.relieve()
            if early:
                limit = 6000
            else:
                limit = trickle(rank, lambda: spools(job), "a spool") + 1000
            rank.finish(limit=limit)
            job.collect()
            seen = job.trace()
            if any("unidentified_comm" in [code for code, _ in one.diagnostics] for one in seen):
                # Not even the state of the process fitted: the line said so, and the trace calls itself partial.
                demand(LINE.fullmatch(rank.err) and "out of memory" in rank.err, rank.err)
                demand(seen[0].stored_groups >= 1000, "stored", seen[0].stored_groups)
                print(f"  {left} KiB: not recorded before the relief, and said so")
                continue
            stored, lost = stored_and_lost(job, limit, "io_error", "no_memory")
            demand((lost == 0) == early and bool(rank.err) != early, "lost", lost, "standard error:", rank.err)
            print(f"  {left} KiB: {stored} stored, {lost} lost")


if __name__ == "__main__":
    harness.main(globals())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever is killed, and whenever: every exchange is stored exactly once, and the rest is said."""
import random

from support import *

COMM = "comm id=1 key=1 ranks=4 rank=0\n"


class Killed(Place):
    def check_stream(self, total, name="trace.db"):
        self.assertEqual(self.rows("SELECT count(*), count(DISTINCT seq), min(seq), max(seq) FROM exchange", name=name),
                         [(total, total, 0, total - 1)])
        self.assertEqual(self.rows("SELECT count(*) FROM edges WHERE bytes <> (seq * 7 + dst_rank + 1) % 1000", name=name),
                         [(0,)])
        self.assertEqual(self.rows("SELECT returned_groups, stored_groups, missing_groups FROM coverage", name=name),
                         [(total, total, 0)])

    def test_collector_killed_at_any_moment(self):
        """The spool has 12 small segments that go round and round; a collector lives some milliseconds."""
        rng = random.Random(os.environ.get("SKEW_TEST_SEED", "7"))
        writer = Writer(self.spools)
        writer.tell("head seg_bytes=16384 cap=12\n" + COMM)
        at = 0
        for turn in range(40):
            child = self.follow()
            count = rng.randrange(1, 400)
            writer.tell(f"many from={at} to={at + count} peers=4 group={at} stream={1 + turn % 3}")
            at += count
            time.sleep(rng.random() * 0.3)
            child.kill()
            child.wait()
        child = self.follow()
        writer.sync()
        writer.kill()
        self.stop(child)
        self.collect()
        self.check_stream(at)
        self.assertEqual(self.rows("SELECT ended FROM process"), [("killed",)])
        self.assertEqual(self.rows("SELECT code FROM diagnostic"), [("collector_restart",)])
        self.assertEqual(os.listdir(self.out), ["trace.db"])

    def test_one_shot_killed_at_any_moment(self):
        """Also in the middle of publishing and of tidying up."""
        rng = random.Random(11)
        for script in (COMM + "many to=3000 peers=4 stream=1", ):
            self.write("head seg_bytes=65536 cap=64\n" + script)
        for _ in range(25):
            child = subprocess.Popen([TOOL, "collect", self.out], env=self.env, stdout=subprocess.DEVNULL)
            time.sleep(rng.random() * 0.06)
            child.kill()
            child.wait()
        self.collect()
        self.check_stream(3000)
        self.assertEqual(os.listdir(self.out), ["trace.db"])

    def test_killed_while_tidying_up(self):
        """All is published and removed but the lock, or but the directory that it was in: nothing to collect, and
        nothing may stay."""
        self.write(COMM + exchange(0, [1], [1]))
        self.collect()
        state = os.path.join(self.out, ".skewscope")
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            lock = os.path.join(state, f"collector-{file.read(8)}.lock")
        for left in (False, True):
            os.mkdir(state, 0o700)
            if left:
                open(lock, "x", encoding="ascii").close()
            self.collect()
            self.assertEqual(os.listdir(self.out), ["trace.db"])

    def test_writer_killed(self):
        writer = Writer(self.spools)
        child = self.follow()
        writer.tell("head seg_bytes=16384 cap=8\n" + COMM + "many to=1000 peers=4")
        writer.sync()
        writer.kill()
        self.stop(child)
        self.check_stream(1000)
        self.assertEqual(self.rows("SELECT ended, ended_ns FROM process"), [("killed", None)])
        self.assertFalse(os.path.exists(self.spools))

    def entry(self, number):
        """Where the state of a segment stands: the table is the end of struct skew_spool_head."""
        return 80 + 40 + 16 + 8 + 16 + 16 * 32 + 1024 + 8 * number

    def test_writer_killed_between_segments(self):
        """It takes the next segment before it seals the one before: both are ACTIVE then."""
        for empty in (False, True):
            with self.subTest(next_is_empty=empty):
                shutil.rmtree(self.out, ignore_errors=True)
                self.spool_dir()
                last = f"poke {(64 << 10) + 2 * 16384 + 24} 30" if empty else "returned 2"
                self.write("head seg_bytes=16384 cap=4\n" + COMM + exchange(0, [5], []) + "\nseal 1\n" + exchange(1, [6], [])
                           + f"\npoke {self.entry(1)} 02\n{last}")
                self.collect()
                self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,)] if empty else [(5,), (6,)])
                self.assertEqual(self.rows("SELECT text FROM diagnostic"), [])
                self.assertEqual(os.listdir(self.out), ["trace.db"])
                self.assertFalse(os.path.exists(self.spools))

    def test_writer_seen_between_segments(self):
        """The segment that it has still to seal is not given back."""
        writer = Writer(self.spools)
        writer.tell("head seg_bytes=16384 cap=4\n" + COMM + exchange(0, [5], []) + "\nseal 1\n" + exchange(1, [6], [])
                    + f"\npoke {self.entry(1)} 02")
        writer.sync()
        path = writer.path()
        for poke, state in (None, 2), (f"poke {self.entry(1)} 03", 1):
            if poke:
                writer.tell(poke).sync()
            self.collect()
            self.assertEqual(read(path, "rb")[self.entry(1)], state)
            self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,), (6,)])
            self.assertEqual(self.rows("SELECT text FROM diagnostic"), [])
        writer.end()

    def test_segment_that_comes_late(self):
        """The table is not read at one moment: of a live process a segment may be seen later than the next one."""
        writer = Writer(self.spools)
        writer.tell("head seg_bytes=16384 cap=8\n" + COMM + exchange(0, [5], []) + "\nseal 1\n" + exchange(1, [6], [])
                    + "\nseal 1\n" + exchange(2, [7], []) + f"\npoke {self.entry(2)} 04")
        writer.sync()
        self.collect()
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,)])
        writer.tell(f"poke {self.entry(2)} 03")
        writer.end()
        self.collect()
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,), (6,), (7,)])
        self.assertEqual(self.rows("SELECT text FROM diagnostic"), [])
        self.assertFalse(os.path.exists(self.spools))

    def test_end_of_a_process(self):
        self.write(COMM + "exited 777\ncounters reason=0 groups=3 exchanges=2 ops=1 cells=9\n" + exchange(0, [1], [1]))
        self.collect()
        self.assertEqual(self.rows("SELECT ended, ended_ns FROM process"), [("exited", 777)])
        self.assertEqual(self.rows("SELECT reason, groups, exchanges, operations, cells FROM loss"),
                         [("spool_full", 3, 2, 1, 9)])
        self.assertEqual(self.rows("SELECT returned_groups, stored_groups, lost_groups, missing_groups FROM coverage"),
                         [(4, 1, 3, 0)])

    def test_replaced_image(self):
        """After exec() the pid lives on, but nobody has the spool mapped: what it holds is final."""
        start = read("/proc/self/stat").rsplit(")", 1)[1].split()[19]
        self.write(f"head pid={os.getpid()} start={start}\n" + COMM + exchange(0, [1], [1]))
        self.collect()
        self.assertEqual(self.rows("SELECT ended FROM process"), [("killed",)])
        self.assertFalse(os.path.exists(self.spools))

    def test_live_process_stays(self):
        writer = Writer(self.spools)
        writer.tell(COMM + exchange(0, [1], [1]))
        writer.sync()
        self.assertIn("1 still running", self.collect().stdout)
        self.assertEqual(self.rows("SELECT ended, (SELECT count(*) FROM exchange) FROM process"), [("running", 1)])
        writer.tell(exchange(1, [1], [1]))
        writer.sync()
        self.collect()
        self.assertEqual(self.rows("SELECT count(*) FROM exchange"), [(2,)])
        writer.tell(exchange(2, [1], [1]))
        writer.end()
        self.collect()
        self.assertEqual(self.rows("SELECT ended, (SELECT count(*) FROM exchange) FROM process"), [("killed", 3)])
        self.assertEqual(self.rows("SELECT count(*) FROM diagnostic"), [(0,)])
        self.assertFalse(os.path.exists(self.state))


class Following(Place):
    def test_one_collector_a_node(self):
        """The others stand by; when the first is killed, one of them goes on."""
        first = self.follow()
        wait_for(lambda: os.path.exists(self.state + f"/collector-{BOOT[:8]}.lock"), "the lock")
        writer = Writer(self.spools)
        writer.tell(COMM + exchange(0, [1], [1]))
        second, third = self.follow(), self.follow()
        writer.sync()
        time.sleep(0.3)
        first.kill()
        first.wait()
        writer.tell(exchange(1, [1], [1]))
        writer.end()
        # Whichever of the two stands by makes the other one publish before it ends.
        self.stop(second)
        self.assertEqual(self.rows("SELECT count(*) FROM exchange"), [(2,)])
        self.stop(third)
        self.assertEqual(self.rows("SELECT count(*) FROM exchange"), [(2,)])
        self.assertEqual(os.listdir(self.out), ["trace.db"])

    def test_publishes_when_asked(self):
        child = self.follow()
        writer = Writer(self.spools)
        writer.tell(COMM + exchange(0, [5], [1]))
        writer.sync()
        self.collect()
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,)])
        self.assertIsNone(child.poll())
        writer.tell(exchange(1, [6], [1]))
        writer.sync()
        self.collect()
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,), (6,)])
        writer.end()
        self.stop(child)

    def test_readers_see_whole_databases(self):
        """An open reader keeps its version while a newer one takes the name."""
        child = self.follow()
        writer = Writer(self.spools)
        writer.tell(COMM + exchange(0, [5], [1]))
        writer.sync()
        self.collect()
        old = self.db()
        self.assertEqual(old.execute("SELECT count(*) FROM exchange").fetchall(), [(1,)])
        writer.tell(exchange(1, [6], [1]))
        writer.end()
        self.stop(child)
        self.assertEqual(old.execute("SELECT count(*) FROM exchange").fetchall(), [(1,)])
        self.assertEqual(self.rows("SELECT count(*) FROM exchange"), [(2,)])

    def test_ends_when_idle(self):
        writer = Writer(self.spools)
        writer.tell(COMM + exchange(0, [5], [1]))
        writer.sync()
        child = self.follow("--exit-when-idle")
        time.sleep(1)
        self.assertIsNone(child.poll())
        writer.end()
        self.assertEqual(child.wait(timeout=PATIENCE), 0)
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,)])
        self.assertEqual(os.listdir(self.out), ["trace.db"])

    def test_nothing_is_held_open(self):
        """No descriptor, terminal or directory of whoever started it."""
        held = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(held, True)
        child = subprocess.Popen([TOOL, "collect", "--follow", "--exit-when-idle", self.out], env=self.env,
                                 close_fds=False, cwd=self.top, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        self.children.append(child)
        os.close(held)
        lock = self.state + f"/collector-{BOOT[:8]}.lock"
        wait_for(lambda: os.path.exists(lock), "the lock")
        links = {fd: os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")}
        self.assertEqual([links[fd] for fd in "012"], ["/dev/null"] * 3)
        for fd, target in links.items():
            self.assertTrue(fd in "012" or target.startswith(self.top), f"{fd} is {target}")
        self.assertEqual(os.readlink(f"/proc/{child.pid}/cwd"), "/")
        child.kill()
        child.communicate()

    def test_loss_is_kept_up_to_date(self):
        writer = Writer(self.spools)
        child = self.follow()
        writer.tell(COMM + "counters reason=1 groups=3 exchanges=2 ops=1 cells=9")
        writer.sync()
        self.collect()
        self.assertEqual(self.rows("SELECT reason, groups FROM loss"), [("no_space", 3)])
        writer.tell("counters reason=1 groups=4 exchanges=2 ops=1 cells=9")
        writer.sync()
        self.collect()
        self.assertEqual(self.rows("SELECT reason, groups FROM loss"), [("no_space", 4)])
        writer.end()
        self.stop(child)


if __name__ == "__main__":
    main()

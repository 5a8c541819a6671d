#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever is killed, full or in the way: every exchange is stored exactly once, and the rest is said."""
import random
import resource

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


class Places(Place):
    def test_no_spool_at_all(self):
        self.assertIn("nothing is left", self.collect().stdout)
        self.assertFalse(os.path.exists(self.out))

    def test_usage(self):
        for args in (["--bogus"], ["a", "b"], ["--exit-when-idle"]):
            self.assertEqual(self.collect(*args, status=None).returncode, 2, args)
        open(self.out, "w").close()
        self.assertIn("not a directory", self.collect(status=2).stderr)

    def test_run_without_process(self):
        """`run` writes a trace even if no communicator was ever made."""
        os.makedirs(self.state, mode=0o700)
        run = {"id": "r1", "command": ["sh", "-c", "x"], "cwd": "/w", "version": "0.1", "incarnation": 2,
               "started_real_ns": 5, "ended_real_ns": 9, "exit_status": 3, "exit_signal": None,
               "labels": {"model": "a", "ep": "8"}, "env": {"RANK": "1"},
               "packages": [{"name": "nccl", "version": "2.28", "path": "/n"}, {"name": "x", "path": "/x"}],
               "notes": [{"code": "no_nccl_call", "severity": "error", "text": "nothing"}],
               "boot_id": BOOT}
        other = dict(run, id="r2", boot_id="0" * 32)
        going = dict(run, id="r3", ended_real_ns=None, exit_status=None)
        for r in (run, other, going):
            with open(f"{self.state}/run-{r['id']}.json", "w") as f:
                json.dump(r, f)
        with open(f"{self.state}/run-bad.json", "w") as f:
            f.write("{")
        self.assertIn("run-bad.json", self.collect().stderr)
        self.assertEqual(self.rows("SELECT key, command, cwd, version, incarnation, started_real_ns, ended_real_ns, "
                                   "exit_status, exit_signal FROM run WHERE key = 'r1'"),
                         [("r1", '["sh","-c","x"]', "/w", "0.1", 2, 5, 9, 3, None)])
        self.assertEqual(self.rows("SELECT key FROM run ORDER BY key"), [("r1",), ("r3",)])
        self.assertEqual(self.rows("SELECT key, value FROM run_label WHERE run_id = 1 OR 1 ORDER BY 1, 2 LIMIT 2"),
                         [("ep", "8"), ("ep", "8")])
        self.assertEqual(self.rows("SELECT DISTINCT name, version, path FROM run_package ORDER BY name"),
                         [("nccl", "2.28", "/n"), ("x", None, "/x")])
        self.assertEqual(self.rows("SELECT DISTINCT severity, code, text FROM diagnostic"), [("error", "no_nccl_call", "nothing")])
        self.assertEqual(sorted(os.listdir(self.state)), ["run-bad.json", "run-r2.json", "run-r3.json"])
        with open(f"{self.state}/run-r3.json", "w") as f:
            json.dump(dict(going, ended_real_ns=10, exit_signal=9), f)
        self.collect()
        self.assertEqual(self.rows("SELECT ended_real_ns, exit_status, exit_signal FROM run WHERE key = 'r3'"), [(10, None, 9)])
        self.assertEqual(self.rows("SELECT count(*) FROM diagnostic"), [(2,)])

    def test_process_of_a_run(self):
        self.write("head run=abc\n" + COMM)
        self.collect()
        self.assertEqual(self.rows("SELECT run.key FROM run JOIN process USING (run_id)"), [("abc",)])

    def test_second_run_goes_on(self):
        """Also what an analysis has added in between stays."""
        self.write(COMM + exchange(0, [5], [1]))
        self.collect()
        db = sqlite3.connect(self.out + "/trace.db")
        db.execute("INSERT INTO exchange_label (exchange_id, role, step, layer, microbatch, confidence, source) VALUES(1, 'dispatch', 0, 0, 0, 0.9, 'test')")
        db.commit()
        db.close()
        self.spool_dir()
        self.write(COMM + exchange(0, [6], [1]))
        self.collect()
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,), (6,)])
        self.assertEqual(self.rows("SELECT role FROM exchange_label"), [("dispatch",)])
        self.assertEqual(self.rows("SELECT count(*) FROM process"), [(2,)])
        self.assertEqual(self.rows("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL ORDER BY 1"),
                         [("exchange_by_member",), ("operation_by_member",)])

    def test_unfinished_writer_of_the_trace(self):
        """A journal left behind belongs to the old file and must not be played into the new one."""
        self.write(COMM + exchange(0, [5], [1]))
        self.collect()
        code = ("import os, signal, sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
                "db.execute('PRAGMA cache_size = 1')\ndb.execute('BEGIN')\n"
                "for i in range(20000): db.execute('INSERT INTO exchange_label (exchange_id, role, step, layer, microbatch, confidence, source) VALUES(?, 1, 1, 1, 1, 1.0, ?)', (i, 'x' * 50))\n"
                "os.kill(os.getpid(), signal.SIGKILL)\n")
        subprocess.run([sys.executable, "-c", code, self.out + "/trace.db"])
        self.assertTrue(os.path.exists(self.out + "/trace.db-journal"))
        self.spool_dir()
        self.write(COMM + exchange(1, [6], [1]))
        self.collect()
        self.assertEqual(os.listdir(self.out), ["trace.db"])
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,), (6,)])
        self.assertEqual(self.rows("SELECT count(*) FROM exchange_label"), [(0,)])

    def test_what_is_there_and_not_ours(self):
        """Another node's, newer, damaged, another program's, a link: none is touched."""
        self.write(COMM + exchange(0, [5], [1]))
        self.collect()
        trace = read(self.out + "/trace.db", "rb")

        def change(*statements):
            db = sqlite3.connect(self.out + "/trace.db", isolation_level=None)
            for statement in statements:
                db.execute(statement)
            db.close()

        def use(data):
            with open(self.out + "/trace.db", "wb") as f:
                f.write(data)

        def text():
            use(b"my notes\n" * 1000)

        def damaged():
            half = bytearray(trace)
            half[8192 * 3:8192 * 5] = os.urandom(8192 * 2)
            use(bytes(half))

        def link():
            os.rename(self.out + "/trace.db", self.out + "/elsewhere")
            os.symlink("elsewhere", self.out + "/trace.db")

        cases = {"another node": lambda: change("UPDATE meta SET value = 'f' WHERE key = 'node'"),
                 "newer": lambda: change("PRAGMA user_version = 2"),
                 "other program": lambda: change("PRAGMA application_id = 5"),
                 "trigger": lambda: change("CREATE TRIGGER t AFTER INSERT ON exchange BEGIN DELETE FROM exchange; END"),
                 "no column": lambda: change("PRAGMA legacy_alter_table = ON", "ALTER TABLE thread RENAME COLUMN tid TO thing"),
                 "truncated": lambda: use(trace[:20000]), "empty": lambda: use(b""), "text": text,
                 "damaged": damaged, "link": link}
        host = os.uname().nodename
        for name, make in cases.items():
            with self.subTest(name):
                shutil.rmtree(self.out)
                os.makedirs(self.out)
                use(trace)
                make()
                before = read(self.out + "/trace.db", "rb")
                self.spool_dir()
                self.write(COMM + exchange(0, [6], [1]))
                said = self.collect().stderr
                self.assertEqual(read(self.out + "/trace.db", "rb"), before)
                self.assertEqual(os.path.islink(self.out + "/trace.db"), name == "link")
                self.assertIn("trace.db is left as it is", said)
                beside = f"trace-{host}.db"
                self.assertEqual(sorted(set(os.listdir(self.out)) - {"elsewhere"}), [beside, "trace.db"])
                self.assertEqual(self.rows("SELECT bytes FROM edges", name=beside), [(6,)])
                self.assertEqual(self.rows("SELECT code FROM diagnostic", name=beside), [("output_taken",)])
                # And the next run goes on there.
                self.spool_dir()
                self.write(COMM + exchange(1, [7], [1]))
                self.collect()
                self.assertEqual(self.rows("SELECT bytes FROM edges", name=beside), [(6,), (7,)])
                self.assertEqual(sorted(set(os.listdir(self.out)) - {"elsewhere"}), [beside, "trace.db"])

    def test_leftovers_of_another_node(self):
        os.makedirs(self.state, mode=0o700)
        self.write("head boot=" + "ab" * 16 + "\n" + COMM, self.spools)
        with open(self.state + "/spool-abababab-1-0123", "w") as f:
            f.write(self.spools + "\n")
        said = self.collect().stderr
        self.assertIn("another node", said)
        self.assertEqual(len(os.listdir(self.spools)), 1)
        self.assertTrue(os.path.exists(self.state + "/spool-abababab-1-0123"))

    def test_unfinished_spool(self):
        """A process that was killed while it made its spool."""
        open(f"{self.spools}/.tmp-{BOOT[:8]}-{os.stat('/proc/self/ns/pid').st_ino}-999999999-5-6.spool", "w").close()
        self.write(COMM)
        self.collect()
        self.assertFalse(os.path.exists(self.spools))

    def test_output_through_a_link(self):
        os.makedirs(self.out)
        os.symlink("out", self.top + "/link")
        self.write(COMM + exchange(0, [6], [1]))
        subprocess.run([TOOL, "collect", self.top + "/link"], env=self.env, check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(6,)])

    def test_relative_output(self):
        self.write(COMM + exchange(0, [6], [1]))
        subprocess.run([TOOL, "collect", "./out//"], cwd=self.top, env=self.env, check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(6,)])

    def test_private_files(self):
        self.write(COMM + exchange(0, [6], [1]))
        self.collect()
        self.assertEqual(os.stat(self.out + "/trace.db").st_mode & 0o777, 0o600)
        os.chmod(self.out + "/trace.db", 0o640)
        self.spool_dir()
        self.write(COMM + exchange(0, [6], [1]))
        self.collect()
        self.assertEqual(os.stat(self.out + "/trace.db").st_mode & 0o777, 0o640)

    def test_file_size_limit(self):
        """`ulimit -f`: said, nothing lost, and done when it is lifted."""
        self.write("head seg_bytes=65536 cap=64\n" + COMM + "many to=5000 peers=4")
        done = subprocess.run([TOOL, "collect", self.out], env=self.env, text=True, stderr=subprocess.PIPE,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000)))
        self.assertEqual(done.returncode, 1)
        self.assertIn("kept", done.stderr)
        self.collect()
        self.assertEqual(self.rows("SELECT count(*), count(DISTINCT seq) FROM exchange"), [(5000, 5000)])


def can(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


UNSHARE = ["unshare"] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
NAMESPACES = shutil.which("unshare") and can(*UNSHARE, "--mount", "mount", "-t", "tmpfs", "none", "/mnt")


@unittest.skipUnless(NAMESPACES, "mount namespaces cannot be made here")
class Namespaces(Place):
    def shell(self, script, *options, **more):
        return subprocess.run([*UNSHARE, "--mount", *options, "sh", "-ec", script], env=self.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE * 4, **more)

    def test_full_disk(self):
        """The disk of the output directory and the database is full; later it is not."""
        self.write("head seg_bytes=65536 cap=256\n" + COMM + "many to=5000 peers=64")
        os.makedirs(self.out)
        done = self.shell(f"""
            mount -t tmpfs -o size=300k none {self.out}
            set +e; {TOOL} collect {self.out}; echo "status $?"; set -e
            mount -o remount,size=100m {self.out}
            {TOOL} collect {self.out}; cp {self.out}/trace.db {self.top}/saved.db""")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("status 1", done.stdout)
        self.assertIn("full", done.stderr)
        os.rename(self.top + "/saved.db", self.out + "/trace.db")
        self.assertEqual(self.rows("SELECT count(*), count(DISTINCT seq) FROM exchange"), [(5000, 5000)])
        self.assertFalse(os.path.exists(self.spools))

    def test_full_disk_while_following(self):
        writer = Writer(self.spools)
        writer.tell("head seg_bytes=16384 cap=8\n" + COMM)
        os.makedirs(self.out)
        go = self.top + "/go"
        script = f"""
            mount -t tmpfs -o size=200k none {self.out}
            {TOOL} collect --follow {self.out} & pid=$!
            while ! test -e {go}; do sleep 0.1; done
            mount -o remount,size=100m {self.out}
            while ! test -e {go}2; do sleep 0.1; done
            kill $pid; wait $pid; cp {self.out}/trace.db {self.top}/saved.db"""
        shell = subprocess.Popen([*UNSHARE, "--mount", "sh", "-ec", script], env=self.env, stdin=subprocess.DEVNULL)
        self.children.append(shell)
        writer.tell("many to=4000 peers=64")  # blocks when the spool is full, until the disk has room
        time.sleep(1.5)
        open(go, "w").close()
        writer.sync()
        writer.end()
        open(go + "2", "w").close()
        self.assertEqual(shell.wait(timeout=PATIENCE * 2), 0)
        os.rename(self.top + "/saved.db", self.out + "/trace.db")
        self.assertEqual(self.rows("SELECT count(*), count(DISTINCT seq) FROM exchange"), [(4000, 4000)])

    def test_output_that_cannot_be_written(self):
        """The database stays where it can, is said, and is published once there is a way."""
        self.write(COMM + exchange(0, [6], [1]))
        os.makedirs(self.out)
        done = self.shell(f"""
            mount -t tmpfs none {self.out}; mount -o remount,ro {self.out}
            set +e; {TOOL} collect {self.out}; echo "status $?" """)
        self.assertIn("status 1", done.stdout)
        self.assertIn("could not be published", done.stderr)
        self.assertIn(self.root, done.stderr)
        self.collect()
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(6,)])
        self.assertFalse(os.path.exists(self.spools))

    def container(self, hold):
        """A live process whose spool lies in a tmpfs that only its namespace has."""
        os.makedirs(self.state, mode=0o700)
        os.makedirs(self.root, exist_ok=True)
        script = f"""
            mount -t tmpfs none {self.root}; mkdir -p -m 700 {self.spools}
            stat -L -c %i /proc/self/ns/mnt > {self.top}/ns
            exec {SCRIPT} {self.spools}"""
        child = subprocess.Popen([*UNSHARE, "--mount", "sh", "-ec", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 text=True)
        self.children.append(child)
        self.addCleanup(child.stdout.close)
        child.stdin.write(COMM + exchange(0, [6], [1]) + "\nsync\n")
        child.stdin.flush()
        self.assertEqual(child.stdout.readline(), "ok\n")
        ns = read(self.top + "/ns").strip()
        self.pointer = f"{self.state}/spool-{BOOT[:8]}-{ns}-{fnv(self.spools)}"
        with open(self.pointer, "w") as f:
            f.write(self.spools + "\n")
        return child

    def test_other_mount_namespace(self):
        child = self.container(True)
        collector = self.follow()
        wait_for(lambda: self.collect() and os.path.exists(self.out + "/trace.db")
                 and self.rows("SELECT count(*) FROM exchange") == [(1,)], "the exchange")
        child.stdin.write(exchange(1, [7], [1]) + "\nsync\n")
        child.stdin.close()  # it ends, and its namespace with it; the collector has the directory open
        child.wait()
        self.stop(collector)
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(6,), (7,)])
        self.assertEqual(os.listdir(self.out), ["trace.db"])

    def test_mount_namespace_that_is_gone(self):
        child = self.container(True)
        child.kill()
        child.wait()
        child.stdin.close()
        with open(self.state + "/run-x.json", "w") as f:
            json.dump({"id": "x", "ended_real_ns": 1}, f)
        said = self.collect().stderr
        self.assertIn(self.spools, said)
        self.assertIn(os.uname().nodename, said)
        self.assertEqual(self.rows("SELECT code, severity FROM diagnostic"), [("spool_unreachable", "error")])
        self.assertTrue(os.path.exists(self.pointer))

    def test_other_pid_namespace(self):
        """Pid 1 of a container is not our pid 1."""
        if not can(*UNSHARE, "--pid", "--fork", "true"):
            self.skipTest("pid namespaces cannot be made here")
        writer = Writer(self.spools, (*UNSHARE, "--pid", "--fork", "--kill-child", "--mount-proc"))
        writer.tell(COMM + exchange(0, [6], [1]))
        writer.sync()
        self.assertIn("1 still running", self.collect().stdout)
        self.assertEqual(self.rows("SELECT pid, ended FROM process"), [(1, "running")])
        writer.tell(exchange(1, [7], [1]))
        writer.end()
        self.collect()
        self.assertEqual(self.rows("SELECT ended, count(*) FROM process, exchange"), [("killed", 2)])
        self.assertFalse(os.path.exists(self.spools))

    def test_collector_in_another_pid_namespace(self):
        """Nothing in /proc tells whether the process lives; whether its spool is mapped does."""
        if not can(*UNSHARE, "--pid", "--fork", "true"):
            self.skipTest("pid namespaces cannot be made here")
        writer = Writer(self.spools)
        writer.tell(COMM + exchange(0, [6], [1]))
        writer.sync()
        inside = [*UNSHARE, "--pid", "--fork", "--mount-proc", TOOL, "collect", self.out]
        subprocess.run(inside, env=self.env, check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(self.rows("SELECT ended FROM process"), [("running",)])
        writer.end()
        subprocess.run(inside, env=self.env, check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(self.rows("SELECT ended FROM process"), [("killed",)])
        self.assertFalse(os.path.exists(self.spools))


if __name__ == "__main__":
    main()

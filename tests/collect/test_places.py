#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where the collector works: spools and outputs that are not there, are not ours, are full, or lie in another namespace."""
import resource

from support import *

COMM = "comm id=1 key=1 ranks=4 rank=0\n"


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
               "gpus": [{"bus": "0000:1b:00.0", "model": "NVIDIA H200", "driver": "580.65.06"}, {"bus": "0000:1c:00.0"},
                        {"bus": "0000:1d:00.0", "model": "NVIDIA H200", "driver": None}],
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
        self.assertEqual(self.rows("SELECT bus, model, driver FROM run_gpu JOIN run USING (run_id) WHERE key = 'r1' ORDER BY bus"),
                         [("0000:1b:00.0", "NVIDIA H200", "580.65.06"), ("0000:1d:00.0", "NVIDIA H200", None)])
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


def in_namespace(pid, inode):
    """Whether a process is in the mount namespace of this number, which another one gets once it is free."""
    try:
        return str(os.stat(f"/proc/{pid}/ns/mnt").st_ino) == inode
    except OSError:
        return False


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
        ns = read(self.top + "/ns").strip()
        wait_for(lambda: not any(in_namespace(pid, ns) for pid in os.listdir("/proc")), "the namespace's end")
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

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A trace of every released schema version must still open, say the same, and be continued.

golden/trace-vN.db    the database          golden/trace-vN.sql    the same as text, for people
golden/trace-vN.json  what its views said when it was made

`test_golden.py --make` makes them anew: only while a version is not released yet.
"""
from support import *

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
NODE = "0123456789abcdef0123456789abcdef"


def script(rank):
    """A bit of everything."""
    send, recv = ([3, 1, 4, 1], [5, 9, 2, 6]) if rank == 0 else ([9, 2, 6, 5], [1, 4, 1, 3])
    lines = [
        f"head run=golden pid={100 + rank} start={50 + rank} created={1000 + rank} pid_ns=4026531836",
        "text 1 /usr/bin/python3", rf"text 2 python3\0train.py\0--rank={rank}", "text 3 node0", f"text 4 RANK={rank}",
        f"text 4 LOCAL_RANK={rank}", "text 4 WORLD_SIZE=4", "text 6 22809 /opt/nccl/libnccl.so.2 next", "text 7 0.1.0",
        "text 8 /home/user", "diag 10 the driver cannot say whether a stream is being captured",
        "thread stream=1 tid=100 name=python3", "thread stream=2 tid=101 name=autograd",
        "module base=0x400000 start=0x400000 end=0x500000 build=00112233 path=/usr/bin/python3",
        "module base=0x7f0000000000 start=0x7f0000000000 end=0x7f0000900000 path=/opt/nccl/libnccl.so.2",
        "module base=0x7e0000000000 start=0x7e0000000000 end=0x7e0000900000 path=/opt/deep_ep_cpp.so",
        "site id=1 frames=0x401234,0x402345", "site id=2 frames=0x403456",
        f"comm id=1 key=0xfeedface ranks=4 rank={rank} device={rank} handle=0x1000 ns=900",
        f"comm id=2 key=0xdeadbeef ranks=2 rank={rank} parent=1 kind=4 color=1 flags=1 handle=0x2000 ns=950",
    ]
    seq = 0
    for unit, swap, dtype, stream, site in ((2880, 0, BF16, 1, 1), (1, 0, FLOAT, 1, 1), (2880, 1, BF16, 1, 2), (2880, 0, BF16, 2, 2)):
        a, b = (recv, send) if swap else (send, recv)
        lines.append(exchange(seq, [n * unit for n in a], [n * unit for n in b], stream=stream, dtype=dtype, group=seq, site=site,
                              call=2000 + 100 * seq, **{"return": 2040 + 100 * seq}))
        seq += 1
    lines += [
        f"group group=9 lanes=1:7:{seq}:0,2:8:0:0 call=3000 return=3010 cells=2:0:128:7:0,5:0:64:4:1,0:1:700:0:1,1:1:70000:0:1",
        f"loss comm=1 reason=0 before={seq} exchanges=1 peers=1:1:1",
        f"group group=10 lanes=1:7:{seq + 1}:0:1:50 call=3100 return=3110 cells=0:1:5:7,0:1:6:7,0:0:0:7,1:3:8:7",
        "graph event=1 ns=3200 capture=50 graph=1", "graph event=2 ns=3210 graph=1 exec=9", "launch call=3220 exec=9 cuda=7",
        "launch call=3230 exec=9 cuda=7", "comm_end id=1 how=2 ns=4000",
        "counters reason=0 groups=1 exchanges=1 ops=0 cells=2", "exited 5000",
    ]
    return "\n".join(lines)


def views(db):
    said = {}
    for name, in db.execute("SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name").fetchall():
        columns = len(db.execute(f"SELECT * FROM {name} LIMIT 0").description)
        order = "1" if name == "callsite_text" else ", ".join(map(str, range(1, min(columns, 3) + 1)))
        said[name] = [list(row) for row in db.execute(f"SELECT * FROM {name} ORDER BY {order}")]
    return said


class Golden(Place):
    def versions(self):
        return sorted(name for name in os.listdir(GOLDEN) if name.endswith(".db"))

    def test_there_is_one(self):
        self.assertIn("trace-v1.db", self.versions())

    def test_opens_and_says_the_same(self):
        for name in self.versions():
            with self.subTest(name):
                before = read(f"{GOLDEN}/{name}", "rb")
                db = sqlite3.connect(f"file:{GOLDEN}/{name}?mode=ro&immutable=1", uri=True)
                self.addCleanup(db.close)
                self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                self.assertEqual(views(db), json.loads(read(f"{GOLDEN}/{name[:-3]}.json")))
                self.assertEqual(read(f"{GOLDEN}/{name}", "rb"), before)

    def test_schema_only_grows(self):
        """What a reader of that version knows is still there."""
        new = sqlite3.connect(":memory:")
        self.addCleanup(new.close)
        new.executescript(read(os.path.join(GOLDEN, "../../../schema/trace.sql")))
        version = new.execute("PRAGMA user_version").fetchone()[0]
        name = f"trace-v{version}.db"
        self.assertIn(name, self.versions(), "no golden database of the current version")
        old = sqlite3.connect(f"file:{GOLDEN}/{name}?mode=ro&immutable=1", uri=True)
        self.addCleanup(old.close)
        columns = ("SELECT s.name, c.name FROM sqlite_schema s JOIN pragma_table_xinfo(s.name) c "
                   "WHERE s.type IN ('table', 'view') AND s.name NOT LIKE 'sqlite_%'")
        self.assertEqual(set(old.execute(columns)) - set(new.execute(columns)), set())

    def test_is_continued(self):
        """The collector of this version adds to it."""
        for name in self.versions():
            with self.subTest(name):
                shutil.rmtree(self.out, ignore_errors=True)
                os.makedirs(self.out)
                shutil.copy(f"{GOLDEN}/{name}", self.out + "/trace.db")
                os.chmod(self.out + "/trace.db", 0o600)
                db = sqlite3.connect(self.out + "/trace.db")
                db.execute("UPDATE meta SET value = ? WHERE key = 'node'", (BOOT,))
                db.commit()
                count = db.execute("SELECT count(*) FROM exchange").fetchone()[0]
                db.close()
                self.spool_dir()
                self.write("comm id=1 key=0xfeedface ranks=4 rank=2\n" + exchange(0, [2880, 5760], [1]))
                self.collect()
                self.assertEqual(os.listdir(self.out), ["trace.db"])
                self.assertEqual(self.rows("SELECT count(*) FROM exchange"), [(count + 1,)])
                self.assertEqual(self.rows("SELECT count(*) FROM communicator WHERE key = '00000000feedface'"), [(1,)])
                self.assertEqual(self.rows("SELECT count(DISTINCT src_rank) FROM edges WHERE comm_id = 1"), [(3,)])

    def test_commands_open_it(self):
        for name in self.versions():
            with self.subTest(name):
                os.makedirs(self.out, exist_ok=True)
                shutil.copy(f"{GOLDEN}/{name}", self.out + "/trace.db")
                done = subprocess.run([TOOL, "info", self.out], env=self.env, text=True, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE)
                self.assertEqual(done.returncode, 0, done.stderr)


class Make(Place):
    """Not a test: writes the files."""

    def make(self):
        os.makedirs(self.state, mode=0o700)
        with open(self.state + "/run-golden.json", "w") as f:
            json.dump({"id": "golden", "command": ["python3", "train.py"], "cwd": "/home/user", "version": "0.1.0", "incarnation": 0,
                       "started_real_ns": 1000, "ended_real_ns": 9000, "exit_status": 0, "labels": {"model": "toy", "ep": "4"},
                       "env": {"WORLD_SIZE": "4"}, "packages": [{"name": "nccl", "version": "2.28.9", "path": "/opt/nccl"}],
                       "notes": [{"code": "run_note", "severity": "info", "text": "a note"}]}, f)
        for rank in range(2):
            self.write(script(rank))
        self.collect()
        db = sqlite3.connect(self.out + "/trace.db")
        db.execute("UPDATE meta SET value = ? WHERE key = 'node'", (NODE,))
        db.execute("UPDATE meta SET value = 'node0' WHERE key = 'host'")
        db.execute("UPDATE meta SET value = '0123456789abcdef' WHERE key = 'trace_id'")
        db.execute("UPDATE meta SET value = '1000' WHERE key LIKE '%real_ns'")
        db.execute("UPDATE process SET key = replace(key, ?, ?), started_real_ns = 1000", (BOOT, NODE))
        db.execute("UPDATE clock_anchor SET monotonic_ns = 1000, real_ns = 2000")
        db.commit()
        db.execute("PRAGMA page_size = 1024")
        db.execute("VACUUM")
        base = f"{GOLDEN}/trace-v{db.execute('PRAGMA user_version').fetchone()[0]}"
        with open(base + ".json", "w") as f:
            f.write("{\n" + ",\n".join(f' "{name}": [\n  ' + ",\n  ".join(json.dumps(row) for row in rows) + "\n ]"
                                        for name, rows in views(db).items()) + "\n}\n")
        with open(base + ".sql", "w") as f:
            f.writelines(line + "\n" for line in db.iterdump())
        db.close()
        shutil.copy(self.out + "/trace.db", base + ".db")
        os.chmod(base + ".db", 0o644)


if __name__ == "__main__":
    if sys.argv[1:] == ["--make"]:
        maker = Make("make")
        result = maker.run()
        sys.exit(0 if result.wasSuccessful() else str(result.errors + result.failures))
    main()

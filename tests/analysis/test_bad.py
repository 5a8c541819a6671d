# SPDX-License-Identifier: Apache-2.0
"""Bad traces: one clear sentence, exit status 1, no crash, and the file is as it was."""
import hashlib
import os
import pathlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import tracegen # noqa: E402

SKEWSCOPE = os.environ["SKEWSCOPE_TOOL"]
DUMP = os.environ["SKEW_DUMP"]
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("SKEWSCOPE_", "LD_PRELOAD"))}


class Bad(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="skew-analysis-")
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "trace.db")

    def make(self, path=None, change=()):
        path = path or self.path
        tracegen.simple(path, [[[i * 7 + j * 3 + k for j in range(4)] for i in range(4)] for k in range(50)])
        if change:
            db = sqlite3.connect(path)
            for statement in change:
                db.execute(statement)
            db.commit()
            db.close()
        return path

    def refused(self, *texts, path=None, commands=("info", "matrix")):
        path = path or self.path
        before = self.state(path)
        for command in commands:
            done = subprocess.run([SKEWSCOPE, command, path], capture_output=True, text=True, env=ENV, check=False)
            self.assertEqual(done.returncode, 1, (command, done.stdout, done.stderr))
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertTrue(done.stderr.startswith("skewscope: "), done.stderr)
            self.assertIn(path, done.stderr)
            for text in texts:
                self.assertIn(text, done.stderr)
        self.assertEqual(self.state(path), before)

    def state(self, path):
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as f:
            return hashlib.sha256(f.read()).hexdigest(), os.stat(path).st_mtime_ns, sorted(os.listdir(self.dir.name))

    def write(self, data):
        with open(self.path, "wb") as f:
            f.write(data)

    def test_missing(self):
        self.refused("No such file")

    def test_directory_without_trace(self):
        self.refused("holds no trace", path=self.dir.name)

    def test_empty(self):
        self.write(b"")
        self.refused("is empty")

    def test_foreign(self):
        for data in (b"x", b"hello\n" * 100, b"\x7fELF" + bytes(4000), bytes(4096)):
            self.write(data)
            self.refused("not an SQLite database")

    def test_foreign_database(self):
        db = sqlite3.connect(self.path)
        db.execute("CREATE TABLE exchange (a)")
        db.commit()
        db.close()
        self.refused("an SQLite database, but not a skewscope trace")

    def test_not_a_file(self):
        os.mkfifo(self.path)
        self.refused("is not a file")

    def test_truncated(self):
        self.make()
        with open(self.path, "rb") as f:
            whole = f.read()
        for length in (16, 50, 99, 100, 4096, len(whole) // 2, len(whole) - 1):
            self.write(whole[:length])
            self.refused("is truncated", "copy it again")

    def test_unfinished(self):
        self.make(change=["PRAGMA user_version = 0"])
        self.refused("never finished")

    def test_newer(self):
        self.make(change=["PRAGMA user_version = 9", "UPDATE meta SET value = '7' WHERE key = 'min_reader_version'",
                          "UPDATE meta SET value = '5.1.0' WHERE key = 'version'"])
        self.refused("newer skewscope (5.1.0)")
        os.unlink(self.path)
        self.make(change=["PRAGMA user_version = 9", "DELETE FROM meta"])
        self.refused("newer skewscope (unknown version)")

    def test_newer_but_readable(self):
        self.make(change=["PRAGMA user_version = 2", "ALTER TABLE exchange ADD COLUMN later INTEGER"])
        for command in ("info", "matrix"):
            done = subprocess.run([SKEWSCOPE, command, self.path], capture_output=True, text=True, env=ENV, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_half_written(self):
        self.make()
        for suffix in ("-wal", "-journal"):
            with open(self.path + suffix, "wb") as f:
                f.write(b"something")
            self.refused(f"trace.db{suffix} is beside it")
            os.unlink(self.path + suffix)

    def test_missing_table(self):
        self.make(change=["DROP TABLE vector"])
        self.refused("is damaged", "no such table: vector")

    def test_damaged_rows(self):
        for statement, text in (
                ("UPDATE vector SET sizes = x'01' WHERE vector_id = 3", "vector 3 is shorter than it says"),
                ("UPDATE vector SET total = total + 1 WHERE vector_id = 2", "vector 2 does not add up"),
                ("UPDATE vector SET size_width = 9 WHERE vector_id = 2", "vector 2 has numbers out of range"),
                ("UPDATE vector SET size_stride = 2, size_width = 1 WHERE vector_id = 2", "vector 2 is shorter"),
                ("UPDATE vector SET cells = 1 << 40 WHERE vector_id = 2", "vector 2 has numbers out of range"),
                ("UPDATE vector SET cells = 'many' WHERE vector_id = 2", "vector 2 has numbers out of range"),
                ("UPDATE vector SET peers = x'', peer_width = 3, peer_stride = 3 WHERE vector_id = 4", "vector 4"),
                ("DELETE FROM vector WHERE vector_id = 5", "vector 5 is missing"),
                ("UPDATE exchange SET member_id = 77 WHERE exchange_id = 9", "exchange 9 makes no sense"),
                ("UPDATE exchange SET seq = -1 WHERE exchange_id = 9", "exchange 9 makes no sense"),
                ("UPDATE exchange SET send_unit = 9000000000000000000 WHERE exchange_id = 9", "exchange 9"),
                ("UPDATE communicator SET ranks = 1 << 40", "communicator 1 makes no sense"),
                ("UPDATE member SET rank = 4 WHERE member_id = 2", "member 2 makes no sense"),
                ("UPDATE member SET comm_id = 5 WHERE member_id = 2", "member 2 makes no sense")):
            if os.path.exists(self.path):
                os.unlink(self.path)
            self.make(change=[statement])
            done = subprocess.run([DUMP, self.path, "stored"], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 1, statement)
            self.assertIn("is damaged", done.stderr)
            self.assertIn(text, done.stderr)

    def test_flipped_bytes(self):
        """Any damage is survived: an answer or a sentence, never a signal, never a change."""
        self.make()
        with open(self.path, "rb") as f:
            whole = f.read()
        random_ = random.Random(5)
        for round_ in range(120):
            data = bytearray(whole)
            for _ in range(random_.choice([1, 4, 40])):
                data[random_.randrange(0 if round_ % 3 == 0 else 100, len(data))] = random_.randrange(256)
            self.write(bytes(data))
            before = self.state(self.path)
            for arguments in ([SKEWSCOPE, "info", self.path], [SKEWSCOPE, "matrix", self.path],
                              [DUMP, self.path, "seq"]):
                done = subprocess.run(arguments, capture_output=True, env=ENV, check=False, timeout=120)
                self.assertIn(done.returncode, (0, 1), (round_, arguments, done.stderr))
            self.assertEqual(self.state(self.path), before)

    def test_strange_names(self):
        for name in ("a b?c#d%41&e.db", "tr\u00e4ce;=+.db", "-db"):
            path = os.path.join(self.dir.name, name)
            self.make(path)
            done = subprocess.run([SKEWSCOPE, "matrix", path], capture_output=True, text=True, env=ENV, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()

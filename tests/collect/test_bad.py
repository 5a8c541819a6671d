#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Foreign, truncated, newer and damaged spools: one clear sentence, never modified, the rest collected."""
from support import *

HEAD = 64 << 10
SEG = 16384
SEG_HEAD = 48
COMM = f"head seg_bytes={SEG} cap=16\ncomm id=1 key=1 ranks=4 rank=0\n"


def little(value, size):
    return value.to_bytes(size, "little").hex()


class Files(Place):
    """Files that are no spools of ours at all."""

    def refused(self, make, *words):
        path = make()
        before = None if not os.path.isfile(path) else read(path, "rb")
        self.write(COMM + exchange(0, [6], [1]))
        said = self.collect().stderr
        for word in words:
            self.assertIn(word, said)
        self.assertEqual(len(said.splitlines()), 1, said)
        if before is not None:
            self.assertEqual(read(path, "rb"), before)
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(6,)])
        self.assertEqual(self.rows("SELECT severity, code FROM diagnostic"), [("error", "corrupt_spool")])
        self.assertIn(os.path.basename(path), self.row("SELECT text FROM diagnostic")[0])
        self.assertTrue(os.path.lexists(path))
        self.collect()  # said again, stored once
        self.assertEqual(self.rows("SELECT count(*) FROM diagnostic"), [(1,)])

    def file(self, data):
        path = self.spools + "/bad.spool"
        with open(path, "wb") as f:
            f.write(data)
        return path

    def poked(self, *pokes):
        return lambda: self.write(COMM + exchange(0, [9], [9]) + "".join(f"\npoke {at} {what}" for at, what in pokes))

    def test_empty(self):
        self.refused(lambda: self.file(b""), "too short")

    def test_text(self):
        self.refused(lambda: self.file(b"hello world\n" * 9999), "not a spool file")

    def test_magic_only(self):
        self.refused(lambda: self.file(b"SKWSPOOL"), "cannot be read")

    def test_newer_version(self):
        self.refused(self.poked((8, little(2, 4))), "format version 2", "reads 1")

    def test_byte_order(self):
        self.refused(self.poked((12, "01020304")), "byte order")

    def test_head_size(self):
        self.refused(self.poked((16, little(0, 4))), "impossible sizes")

    def test_segment_size(self):
        self.refused(self.poked((20, little(0xfffffff8, 4))), "impossible sizes")

    def test_segment_cap(self):
        self.refused(self.poked((24, little(1 << 30, 4))), "impossible sizes")

    def test_cut_off_head(self):
        self.refused(lambda: self.write(COMM + "truncate 40000"), "truncated")

    def test_directory(self):
        def make():
            os.mkdir(self.spools + "/bad.spool")
            return self.spools + "/bad.spool"
        self.refused(make, "not a regular file")

    def test_pipe(self):
        def make():
            os.mkfifo(self.spools + "/bad.spool")
            return self.spools + "/bad.spool"
        self.refused(make, "not a regular file")

    def test_link(self):
        def make():
            os.symlink("/etc/passwd", self.spools + "/bad.spool")
            return self.spools + "/bad.spool"
        self.refused(make, "symbolic link")

    @unittest.skipUnless(os.geteuid() == 0, "only root can give a file away")
    def test_owner(self):
        def make():
            path = self.write(COMM + exchange(0, [9], [9]))
            os.chown(path, 12345, -1)
            return path
        self.refused(make, "belongs to user 12345")


class Damage(Place):
    """Spools whose head is right and whose content is not."""

    def damaged(self, script, *words, edges=((5,), (6,))):
        """What is in the way costs itself only; the file is kept and does not change."""
        path = self.write(script)
        before = read(path, "rb")
        self.collect()
        self.assertEqual(read(path, "rb"), before)
        self.assertEqual(self.rows("SELECT bytes FROM edges ORDER BY seq"), list(edges))
        (text,) = self.row("SELECT text FROM diagnostic WHERE code = 'corrupt_spool' AND process_id = 1")
        for word in words:
            self.assertIn(word, text)
        self.collect()
        self.assertEqual(read(path, "rb"), before)
        self.assertEqual(self.rows("SELECT bytes FROM edges ORDER BY seq"), list(edges))
        self.assertEqual(self.rows("SELECT count(*) FROM process"), [(1,)])

    def data_segment(self, number):
        """Definitions take the first segment, stream 1 the next ones."""
        return HEAD + SEG * number

    def test_record_length(self):
        """The rest of that segment is lost, the next one is read."""
        record = 48 + 16 + 40
        for length in (0, 4, 8 + 1, 1 << 31, SEG):
            with self.subTest(length):
                self.spool_dir()
                shutil.rmtree(self.out, ignore_errors=True)
                shutil.rmtree(self.spools, ignore_errors=True)
                self.spool_dir()
                self.damaged(COMM + exchange(0, [5], []) + "\n" + exchange(1, [7], []) + "\nseal 1\n" + exchange(2, [6], [])
                             + f"\npoke {self.data_segment(1) + SEG_HEAD + record} {little(length, 4)}",
                             "impossible length")

    def test_record_content(self):
        """More cells than the record has; a lane that is not there: only that record is lost."""
        record = 48 + 16 + 40
        for at, value, size in ((32, 1000, 4), (32, 0xffffffff, 4), (48 + 14, 3, 2), (16, 0, 8)):
            with self.subTest(at=at, value=value):
                shutil.rmtree(self.out, ignore_errors=True)
                shutil.rmtree(self.spools, ignore_errors=True)
                self.spool_dir()
                script = COMM + exchange(0, [5], []) + "\n" + exchange(1, [7], []) + "\n" + exchange(2, [6], [])
                start = self.data_segment(1) + SEG_HEAD + record
                self.damaged(script + f"\npoke {start + at} {little(value, size)}", "impossible content")

    def test_segment_head(self):
        for at, value in ((0, little(0, 4)), (4, little(9, 4)), (24, little(1 << 40, 8)), (24, little(8, 8)), (24, little(49, 8))):
            with self.subTest(at=at, value=value):
                shutil.rmtree(self.out, ignore_errors=True)
                shutil.rmtree(self.spools, ignore_errors=True)
                self.spool_dir()
                script = (COMM + exchange(0, [5], []) + "\n" + exchange(1, [6], []) + "\n" + exchange(2, [6], [], stream=2)
                          + f"\npoke {self.data_segment(2) + at} {value}")
                self.damaged(script, "head that cannot be right")

    def test_missing_segment(self):
        entry = self.entry(2)
        self.damaged(COMM + exchange(0, [5], []) + "\nseal 1\n" + exchange(1, [7], []) + "\nseal 1\n" + exchange(2, [6], [])
                     + f"\npoke {entry} {little(1, 4)}", "segments 1 to 1 of stream 1 are missing")

    def entry(self, number):
        """Offset of a segment's entry: the table stands at the end of struct skew_spool_head."""
        # Identity, run id, creation, state and streams, exit and groups, loss counters, reserve.
        return 80 + 40 + 16 + 8 + 16 + 16 * 32 + 1024 + 8 * number

    def test_cut_off(self):
        """The file ends in the middle of its segments."""
        self.damaged(COMM + exchange(0, [5], []) + "\n" + exchange(1, [6], []) + "\nseal 1\n" + exchange(2, [7], [])
                     + f"\ntruncate {HEAD + 2 * SEG + 100}", "cut off")

    def test_definition(self):
        for raw in ("comm id=1 key=1 ranks=2000000 rank=0", "comm id=1 key=1 ranks=2 rank=2", "raw stream=0 type=3 body=00",
                    "raw stream=0 type=1 body=01000000ffffffff0000000000000000", "raw stream=0 type=5 body=0100000000000040",
                    "raw stream=0 type=6 body=" + "00" * 48 + "ff00000000000000"):
            with self.subTest(raw):
                shutil.rmtree(self.out, ignore_errors=True)
                shutil.rmtree(self.spools, ignore_errors=True)
                self.spool_dir()
                self.damaged(COMM + raw + "\n" + exchange(0, [5], []) + "\n" + exchange(1, [6], []), "impossible content")

    def test_undefined_communicator(self):
        self.damaged(COMM + exchange(0, [5], [], comm=3) + "\n" + exchange(1, [6], []), "never defined")

    def test_unknown_records(self):
        """Of a newer library: skipped, counted, and no damage."""
        path = self.write(COMM + "raw stream=0 type=900 body=0102\nraw stream=1 type=901\n" + exchange(0, [5], []))
        self.collect()
        self.assertFalse(os.path.exists(path))
        (text,) = self.row("SELECT text FROM diagnostic WHERE code = 'unknown_record'")
        self.assertIn("2 records", text)

    def test_live_process_with_damage(self):
        """Its spool is never written to again, and the collector says so once."""
        writer = Writer(self.spools)
        writer.tell(COMM + exchange(0, [5], []) + "\n" + exchange(1, [6], []) + f"\npoke {HEAD + SEG + SEG_HEAD + 104} 00000000")
        writer.sync()
        child = self.follow()
        wait_for(lambda: self.collect() and os.path.exists(self.out + "/trace.db")
                 and self.rows("SELECT count(*) FROM diagnostic") == [(1,)], "the diagnostic")
        writer.tell("seal 1\n" + exchange(2, [7], []))
        writer.sync()
        path = writer.path()
        writer.end()
        self.stop(child)
        self.assertEqual(self.rows("SELECT bytes FROM edges"), [(5,), (7,)])
        self.assertTrue(os.path.exists(path))


if __name__ == "__main__":
    main()

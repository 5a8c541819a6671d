#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Known spools give exactly the rows and views that schema/trace.sql promises."""
import random

from support import *


class Exchanges(Place):
    def test_views(self):
        self.collected("comm id=1 key=0xabc ranks=3 rank=2\nthread stream=1 tid=77 name=worker\n"
                       + exchange(0, [10, 0, 30], [4, 5, 6], dtype=FLOAT, call=100, **{"return": 140}))
        self.assertEqual(self.rows("SELECT exchange_id, src_rank, dst_rank, bytes, ordinal, comm_id, seq FROM edges"),
                         [(1, 2, 0, 40, 0, 1, 0), (1, 2, 1, 0, 1, 1, 0), (1, 2, 2, 120, 2, 1, 0)])
        self.assertEqual(self.rows("SELECT src_rank, dst_rank, bytes FROM recv_edges"),
                         [(0, 2, 16), (1, 2, 20), (2, 2, 24)])
        self.assertEqual(self.rows("SELECT * FROM rank_load"), [(1, 1, 0, 2, 160, 60, 3, 3)])
        self.assertEqual(self.rows("SELECT comm_id, seq, src_rank, dst_rank, bytes, sends FROM exchange_matrix"),
                         [(1, 0, 2, 0, 40, 1), (1, 0, 2, 1, 0, 1), (1, 0, 2, 2, 120, 1)])
        self.assertEqual(self.rows("SELECT op, start_ns, enqueue_ns, send_bytes, recv_bytes, captured, runs, rank, ranks "
                                   "FROM exchange_info"), [("sendrecv", 100, 40, 160, 60, 0, 1, 2, 3)])
        self.assertEqual(self.rows("SELECT returned_groups, stored_groups, missing_groups FROM coverage"), [(1, 1, 0)])
        self.assertEqual(self.rows("SELECT stream, tid, name FROM thread"), [(1, 77, "worker")])
        self.assertEqual(self.rows("SELECT dtype, send_unit, recv_unit, thread, group_seq, flags FROM exchange"),
                         [(FLOAT, 40, 4, 1, 0, 0)])
        self.assertEqual(self.rows("SELECT handle FROM stream"), [(7,)])
        self.assertEqual(self.rows("SELECT key FROM communicator"), [("0000000000000abc",)])

    def test_sqlite3_command(self):
        """The views need nothing but the plain shell."""
        self.collected("comm id=1 key=1 ranks=2 rank=0\n" + exchange(0, [1000, 3], [70000, 1]))
        shell = shutil.which("sqlite3")
        if not shell:
            self.skipTest("no sqlite3 command here")
        views = [v for v, in self.rows("SELECT name FROM sqlite_schema WHERE type = 'view'")]
        self.assertGreaterEqual(len(views), 8)
        for view in views:
            subprocess.run([shell, "-readonly", self.out + "/trace.db", f"SELECT * FROM {view}"], check=True,
                           stdout=subprocess.DEVNULL)
        text = subprocess.run([shell, "-readonly", self.out + "/trace.db", "SELECT src_rank, dst_rank, bytes FROM edges "
                               "UNION ALL SELECT src_rank, dst_rank, bytes FROM recv_edges"], check=True, text=True,
                              stdout=subprocess.PIPE).stdout
        self.assertEqual(text, "0|0|1000\n0|1|3\n0|0|70000\n1|0|1\n")

    def test_pandas(self):
        """DuckDB is not tested: it is not to be had here."""
        try:
            import pandas
        except ImportError:
            self.skipTest("no pandas here")
        self.collected("comm id=1 key=1 ranks=2 rank=0\n" + exchange(0, [1000, 3], [70000, 1]))
        self.assertEqual(pandas.read_sql("SELECT bytes FROM edges", self.db())["bytes"].tolist(), [1000, 3])

    def test_random_vectors(self):
        """Whatever the sizes and peers, the views give back what went in."""
        rng = random.Random(20)
        script, sends, recvs = ["comm id=1 key=1 ranks=300 rank=0"], [], []
        for seq in range(200):
            parts = []
            for op, expected in ((SEND, sends), (RECV, recvs)):
                count = rng.choice([0, 1, 2, 7, 64, 300])
                bits, step = rng.choice([0, 1, 7, 8, 9, 16, 31, 40, 50]), rng.choice([1, 1, 3, 2880])
                sizes = [rng.randrange(1 << bits) // step * step for _ in range(count)]
                if rng.random() < 0.2:
                    sizes = sizes[:1] * count
                peers = rng.choice([list(range(count)), [rng.randrange(300) for _ in range(count)], [5] * count,
                                    [(i + 17) % 300 for i in range(count)], [70000 + i for i in range(count)]])
                parts += cells(op, sizes, INT8, 0, peers)
                expected += [(seq, i, p, s) for i, (p, s) in enumerate(zip(peers, sizes))]
            script.append(f"group group={seq} lanes=1:7:{seq}:0 cells={','.join(parts)}")
        self.collected("\n".join(script))
        self.assertEqual(self.rows("SELECT seq, ordinal, dst_rank, bytes FROM edges ORDER BY seq, ordinal"), sends)
        self.assertEqual(self.rows("SELECT seq, ordinal, src_rank, bytes FROM recv_edges ORDER BY seq, ordinal"), recvs)
        for cells_, total, largest, sizes, count in self.rows(
                "SELECT v.cells, v.total, v.largest, sum(s.size), count(*) FROM vector v JOIN vector_cell s USING (vector_id) "
                "GROUP BY vector_id"):
            self.assertEqual((cells_, total), (count, sizes))
        self.assertEqual(self.rows("SELECT count(*) FROM exchange WHERE (send_vector IS NULL) AND recv_vector IS NULL")[0][0],
                         0)

    def test_encoding(self):
        """Smallest width, constants once, peers only when they are not 0, 1, 2, …, units divided out."""
        group = [("1,2,3", None, (3, 6, 3, 1, 1, 0, 0, b"\1\2\3", None, 1)),
                 ("512,1024", None, (2, 3, 2, 1, 1, 0, 0, b"\1\2", None, 512)),
                 ("7,7,7", None, (3, 3, 1, 1, 0, 0, 0, b"\1", None, 7)),
                 ("0,0", None, (2, 0, 0, 1, 0, 0, 0, b"\0", None, 1)),
                 ("256,1", None, (2, 257, 256, 2, 2, 0, 0, b"\1\0\0\1", None, 1)),
                 ("5", "3", (1, 1, 1, 1, 0, 1, 0, b"\1", b"\3", 5)),
                 ("5,6", "1,0", (2, 11, 6, 1, 1, 1, 1, b"\5\6", b"\1\0", 1)),
                 ("5,6", "300,1", (2, 11, 6, 1, 1, 2, 2, b"\5\6", b"\1\x2c\0\1", 1)),
                 ("1099511627776,1", None, (2, 1099511627777, 1099511627776, 6, 6, 0, 0,
                                            b"\1\0\0\0\0\0\0\0\0\0\0\1", None, 1))]
        script = ["comm id=1 key=1 ranks=301 rank=0"]
        for seq, (sizes, peers, _) in enumerate(group):
            sizes = sizes.split(",")
            peers = peers.split(",") if peers else None
            script.append(f"group group={seq} lanes=1:7:{seq}:0 cells={','.join(cells(SEND, sizes, INT8, 0, peers))}")
        self.collected("\n".join(script))
        self.assertEqual(self.rows("SELECT cells, total, largest, size_width, size_stride, peer_width, peer_stride, sizes, "
                                   "peers, send_unit FROM exchange JOIN vector ON vector_id = send_vector ORDER BY seq"),
                         [expected for _, _, expected in group])

    def test_vectors_are_shared(self):
        """Combine is the transposed dispatch, the probabilities another unit of it: two vectors for all."""
        tokens_out, tokens_in = [3, 1, 4, 1], [5, 9, 2, 6]
        script = ["comm id=1 key=1 ranks=4 rank=0"]
        for seq, (send, recv, size) in enumerate([(tokens_out, tokens_in, 2880), (tokens_in, tokens_out, 2880),
                                                  (tokens_out, tokens_in, 4), (tokens_in, tokens_out, 5760)]):
            script.append(exchange(seq, [n * size for n in send], [n * size for n in recv]))
        self.collected("\n".join(script))
        self.assertEqual(self.rows("SELECT count(*) FROM vector"), [(2,)])
        self.assertEqual(self.rows("SELECT seq, bytes FROM edges WHERE dst_rank = 2 ORDER BY seq"),
                         [(0, 4 * 2880), (1, 2 * 2880), (2, 16), (3, 2 * 5760)])

    def test_vectors_are_shared_after_restart(self):
        """The memory of stored vectors is rebuilt from the published database."""
        self.collected("comm id=1 key=1 ranks=2 rank=0\n" + exchange(0, [300, 7], [7, 300]))
        self.spool_dir()
        self.collected("comm id=1 key=1 ranks=2 rank=1\n" + exchange(0, [7, 300], [300, 7]))
        self.assertEqual(self.rows("SELECT count(*) FROM vector"), [(2,)])
        self.assertEqual(self.rows("SELECT src_rank, dst_rank, bytes FROM edges"),
                         [(0, 0, 300), (0, 1, 7), (1, 0, 7), (1, 1, 300)])

    def test_several_sends_to_one_peer(self):
        self.collected("comm id=1 key=1 ranks=2 rank=0\ngroup lanes=1:7:0:0 cells="
                       + ",".join(cells(SEND, [10, 20, 30, 40], peers=[1, 0, 1, 1])))
        self.assertEqual(self.rows("SELECT dst_rank, ordinal, bytes FROM edges"), [(1, 0, 10), (0, 1, 20), (1, 2, 30), (1, 3, 40)])
        self.assertEqual(self.rows("SELECT dst_rank, bytes, sends FROM exchange_matrix"), [(0, 20, 1), (1, 80, 3)])

    def test_group_of_everything(self):
        """Ordinals in one group: sends and receives, each all-to-all, each all-to-all-v; the rest apart."""
        group = (cells(ALLTOALL, [5], INT32) + cells(SEND, [1]) + cells(ALLGATHER, [9], BF16) + cells(RECV, [2])
                 + cells(A2AV_SEND, [1, 2]) + cells(A2AV_RECV, [3, 4]) + cells(ALLTOALL, [6], INT32)
                 + cells(A2AV_SEND, [5, 6]) + cells(A2AV_RECV, [7, 8]) + cells(BROADCAST, [3], FLOAT, 0, [1])
                 + cells(SIGNAL, [8], INT8, 0, [1]))
        self.collected("comm id=1 key=1 ranks=2 rank=0\ngroup lanes=1:7:40:90 result=0 cells=" + ",".join(group))
        self.assertEqual(self.rows("SELECT e.seq, o.name, send_bytes, recv_bytes, sends, recvs FROM exchange e JOIN op_name o "
                                   "USING (op) JOIN rank_load USING (exchange_id) ORDER BY e.seq"),
                         [(40, "sendrecv", 1, 2, 1, 1), (41, "alltoall", 40, 40, 2, 2), (42, "alltoall", 48, 48, 2, 2),
                          (43, "alltoallv", 3, 7, 2, 2), (44, "alltoallv", 11, 15, 2, 2)])
        self.assertEqual(self.rows("SELECT seq, name, count, bytes, root, dtype FROM operation JOIN op_name USING (op)"),
                         [(90, "allgather", 9, 18, None, BF16), (91, "broadcast", 3, 12, 1, FLOAT),
                          (92, "signal", 8, 0, 1, INT8)])

    def test_lanes(self):
        """Two communicators and three streams in one group."""
        group = (cells(SEND, [1], lane=0) + cells(SEND, [2], lane=1) + cells(SEND, [3], lane=2)
                 + cells(RECV, [4], lane=0) + cells(ALLREDUCE, [5], lane=2))
        self.collected("comm id=1 key=1 ranks=2 rank=0\ncomm id=2 key=2 ranks=2 rank=1 flags=1\n"
                       "group lanes=1:70:3:0,2:71:8:0,1:72:3:0 cells=" + ",".join(group))
        self.assertEqual(self.rows("SELECT comm_id, seq, send_bytes, recv_bytes, handle, flags FROM exchange "
                                   "JOIN rank_load USING (exchange_id, seq) JOIN stream USING (stream_id)"),
                         [(1, 3, 4, 4, 72, 16), (2, 8, 2, 0, 71, 8)])
        self.assertEqual(self.rows("SELECT handle, bytes FROM operation JOIN stream USING (stream_id)"), [(72, 5)])
        self.assertEqual(self.rows("SELECT DISTINCT group_seq FROM exchange"), [(0,)])

    def test_types(self):
        sizes = [1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1]
        script = ["comm id=1 key=1 ranks=1 rank=0"]
        for dtype in list(range(12)) + [12, 255]:
            script.append(exchange(dtype, [3], [5], dtype=dtype))
        script.append("group group=500 lanes=1:7:500:0 cells=0:0:2:0,0:0:2:4")
        self.collected("\n".join(script))
        expected = [(t, t, 3 * size, 5 * size, 0) for t, size in enumerate(sizes)]
        expected += [(12, 12, 0, 0, 4), (255, -1, 0, 0, 4), (500, -2, 18, 0, 0)]
        self.assertEqual(self.rows("SELECT e.seq, e.dtype, send_bytes, recv_bytes, flags FROM exchange e JOIN rank_load "
                                   "USING (exchange_id)"), expected)
        self.assertEqual(len(self.rows("SELECT * FROM diagnostic WHERE code = 'unknown_type'")), 1)

    def test_alltoall_before_ranks_are_known(self):
        self.write("comm id=1 key=1 ranks=-1 rank=-1\ncomm id=2 key=2\n"
                   "group group=0 lanes=1:7:0:0 cells=2:0:5:2\ngroup group=1 lanes=2:7:0:0 cells=2:0:0:2\n"
                   "group group=2 lanes=2:7:1:0 cells=2:0:9:2\n"
                   "comm id=1 key=1 ranks=3 rank=1\ncomm id=2 key=2 ranks=-1")
        self.write("head created=1\ncomm id=1 key=2 ranks=4 rank=3")
        self.collect()
        self.assertEqual(self.rows("SELECT c.key, e.seq, e.flags, dst_rank, bytes FROM edges JOIN exchange e USING (exchange_id) "
                                   "JOIN communicator c USING (comm_id) WHERE c.key LIKE '%1'"),
                         [("0000000000000001", 0, 0, 0, 20), ("0000000000000001", 0, 0, 1, 20),
                          ("0000000000000001", 0, 0, 2, 20)])
        self.assertEqual(self.rows("SELECT e.seq, e.flags, sends, send_bytes FROM rank_load JOIN exchange e USING (exchange_id) "
                                   "JOIN communicator c USING (comm_id) WHERE c.key LIKE '%2'"),
                         [(0, 0, 4, 0), (1, 0, 4, 144)])

    def test_alltoall_whose_ranks_stay_unknown(self):
        self.collected("comm id=1 key=1\ngroup group=0 lanes=1:7:0:0 cells=2:0:5:2")
        self.assertEqual(self.rows("SELECT flags, cells FROM exchange JOIN vector ON vector_id = send_vector"), [(32, 1)])

    def test_settled_by_a_later_collector(self):
        writer = Writer(self.spools).tell("comm id=1 key=1\ngroup group=0 lanes=1:7:0:0 cells=2:0:5:2")
        writer.sync()
        self.collect()
        self.assertEqual(self.rows("SELECT flags FROM exchange"), [(32,)])
        writer.tell("comm id=1 key=1 ranks=2 rank=0")
        writer.end()
        self.collect()
        self.assertEqual(self.rows("SELECT flags, cells FROM exchange JOIN vector ON vector_id = send_vector"), [(0, 2)])

    def test_parts(self):
        self.collected("comm id=1 key=1 ranks=4 rank=0\n"
                       "part group=0 cells=0:0:1:0,0:1:2:0\npart group=0 cells=0:2:3:0\n"
                       "group group=0 lanes=1:7:0:0 cells=0:3:4:0,1:0:9:0\n"
                       "part group=1 cells=0:0:50:0\n" + exchange(1, [1, 1, 1, 1], [2], group=2))
        self.assertEqual(self.rows("SELECT seq, bytes FROM edges"), [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 1), (1, 1), (1, 1)])

    def test_parts_over_segments(self):
        """A group of four segments of the smallest size, and one that never came to its end."""
        counts = list(range(1, 3001))
        script = ["head seg_bytes=16384 cap=16", "comm id=1 key=1 ranks=3000 rank=0"]
        for at in range(0, 2700, 900):
            script.append(f"part group=0 cells={','.join(cells(SEND, counts[at:at + 900], peers=range(at, at + 900)))}")
        script.append(f"group group=0 lanes=1:7:0:0 cells={','.join(cells(SEND, counts[2700:], peers=range(2700, 3000)))}")
        script.append(f"part group=1 cells={','.join(cells(SEND, counts[:900]))}")
        self.collected("\n".join(script))
        self.assertEqual([b for b, in self.rows("SELECT bytes FROM edges")], counts)
        self.assertEqual(self.rows("SELECT count(*) FROM exchange"), [(1,)])

    def test_parts_over_collectors(self):
        """Every step is seen by another collector; what comes between the parts is stored once."""
        writer = Writer(self.spools)
        steps = ["head seg_bytes=16384 cap=9\ncomm id=1 key=1 ranks=4 rank=0\npart group=0 cells=0:0:1:0",
                 "launch call=5 exec=1", "seal 1", "part group=0 cells=0:1:2:0\nlaunch call=6 exec=1", "seal 1\nlaunch call=7 exec=1",
                 "group group=0 lanes=1:7:0:0 cells=0:2:3:0", "part group=1 cells=0:0:77:0", "launch call=8 exec=1\nseal 1",
                 exchange(1, [5], [], group=2), "part group=3 cells=0:0:78:0", "part group=4 cells=0:0:6:0",
                 "group group=4 lanes=1:7:2:0 cells=0:1:7:0"]
        for step in steps:
            writer.tell(step)
            writer.sync()
            self.collect()
        writer.end()
        self.collect()
        self.assertEqual(self.rows("SELECT seq, bytes FROM edges ORDER BY seq, ordinal"),
                         [(0, 1), (0, 2), (0, 3), (1, 5), (2, 6), (2, 7)])
        self.assertEqual(self.rows("SELECT ns FROM graph_launch"), [(5,), (6,), (7,), (8,)])
        self.assertEqual(self.rows("SELECT count(*) FROM diagnostic"), [(0,)])
        self.assertFalse(os.path.exists(self.spools))

    def test_many_threads_and_segments(self):
        script = ["head seg_bytes=16384 cap=512", "comm id=1 key=1 ranks=8 rank=3"]
        for stream in range(1, 9):
            script.append(f"thread stream={stream} tid={stream}")
            script.append(f"many stream={stream} comm=1 from={stream * 1000} to={stream * 1000 + 500} peers=8")
        self.collected("\n".join(script))
        self.assertEqual(self.rows("SELECT thread, count(*), min(seq), max(seq), count(DISTINCT seq) FROM exchange "
                                   "GROUP BY thread"),
                         [(s, 500, s * 1000, s * 1000 + 499, 500) for s in range(1, 9)])
        self.assertEqual(self.rows("SELECT count(*) FROM edges WHERE bytes <> (seq * 7 + dst_rank + 1) % 1000"), [(0,)])
        self.assertEqual(self.rows("SELECT count(*) FROM edges"), [(8 * 500 * 8,)])
        self.assertGreater(self.row("SELECT count(*) FROM clock_anchor")[0], 8)


class Operations(Place):
    def test_newer_operation(self):
        self.collected("comm id=1 key=1 ranks=2 rank=0\ngroup lanes=1:7:0:0 cells=77:0:5:2")
        self.assertEqual(self.rows("SELECT name, bytes FROM operation JOIN op_name USING (op)"), [("op_77", 20)])

    def test_huge_count(self):
        self.collected("comm id=1 key=1 ranks=2 rank=0\ngroup lanes=1:7:0:0 cells=0:0:0xffffffffffffffff:4")
        self.assertEqual(self.rows("SELECT flags FROM exchange"), [(4,)])


class Documented(Place):
    def test_examples_of_the_page(self):
        """What docs/schema.md shows is true, in SQL and in Python."""
        self.collected("comm id=1 key=1 ranks=4 rank=0\n" + exchange(0, [n * 5760 for n in (512, 3, 300, 0)], [1, 2, 3, 4]))
        page = read(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/schema.md"))
        db = self.db()
        self.assertEqual(db.execute("SELECT v.cells, v.size_width, v.size_stride, hex(v.sizes), v.peers, e.send_unit FROM exchange e "
                                    "JOIN vector v ON v.vector_id = e.send_vector").fetchall(),
                         [(4, 2, 2, "02000003012C0000", None, 5760)])
        self.assertIn("4|2|2|02000003012C0000||5760", page)
        results, count = [], 0
        for block in page.split("```sql\n")[1:]:
            lines = [line.split("--")[0] for line in block.split("```")[0].splitlines()]
            for statement in "\n".join(lines).split(";"):
                if statement.strip():
                    results += db.execute(statement).fetchall()
                    count += 1
        self.assertGreater(count, 6)
        self.assertIn((1728000,), results)
        db.row_factory = sqlite3.Row
        names = {"db": db}
        exec(page.split("```python\n")[1].split("```")[0], names)
        self.assertEqual(names["sizes"], [512 * 5760, 3 * 5760, 300 * 5760, 0])
        self.assertEqual(list(names["peers"]), [0, 1, 2, 3])


if __name__ == "__main__":
    main()

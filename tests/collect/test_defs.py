#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Processes, communicators, call sites, graphs, losses: definitions become what the schema says."""
import struct

from support import *

CAPTURED, INSTANTIATED, UPDATED, CLONED, CHILD, GRAPH_END, EXEC_END, LAUNCH_CAPTURED = range(1, 9)


def tap(shape, side, dtype, count, values, code, elements=None, group=7, comm=1):
    """A record of the tap, in hex."""
    head = struct.pack("<QIIIBBBBIIII", group, 3, comm, 2, shape, side, dtype, 0, count,
                       len(values) if elements is None else elements, 0, 0)
    body = head + struct.pack(f"<{len(values)}{code}", *values)
    return f"raw stream=0 type=9 body={(body + bytes(-len(body) % 8)).hex()}\n"


def range_name(name, text, length=None):
    body = struct.pack("<II", name, len(text) if length is None else length) + text
    return f"raw stream=0 type=18 body={(body + bytes(-len(body) % 8)).hex()}\n"


def ranges(group, stack, marks=(), deeper=0, more=0, stream=1, depth=None):
    """A record of ranges: each is (serial, name, numbers …), with a domain (serial, (name, domain), …)."""
    body = struct.pack("<QHHHH", group, len(stack) if depth is None else depth, len(marks), deeper, more)
    for kind, entries in ((0, stack), (1, marks)):
        for serial, name, *numbers in entries:
            name, domain = name if isinstance(name, tuple) else (name, 0)
            body += struct.pack("<IIHHIQ3q", name, domain, kind, len(numbers), 0, serial, *(numbers + [0, 0, 0])[:3])
    return f"raw stream={stream} type=36 body={body.hex()}\n"


class Ranges(Place):
    """NVTX ranges."""
    COMM = "comm id=1 key=1 ranks=2 rank=0\n"

    def test_stacks(self):
        send = [exchange(n, [1, 2], [2, 1], group=n + 1) for n in range(5)]
        self.collected(self.COMM + range_name(1, b"step \1") + range_name(2, b"layer \1 of \1") + range_name(3, b"model") +
                       send[0] + "\n" + ranges(2, [(1, 1, 17), (2, (2, 3), 4, 58)], [(3, 1, 9)], 0, 7) + send[1] + "\n" +
                       send[2] + "\n" + ranges(4, [(1, 1, 17)], deeper=2) + send[3] + "\n" + ranges(5, []) + send[4])
        self.assertEqual(self.rows("SELECT serial, kind, depth, parent_id, domain, text, from_group FROM nvtx_range"),
                         [(1, "range", 0, None, None, "step 17", 2), (2, "range", 1, 1, "model", "layer 4 of 58", 2),
                          (3, "mark", 2, 2, None, "step 9", 2)])
        self.assertEqual(self.rows("SELECT from_group, range_id, deeper, marks_lost FROM nvtx_change"),
                         [(2, 2, 0, 7), (4, 1, 2, 0), (5, None, 0, 0)])
        self.assertEqual(self.rows("SELECT seq, depth, text FROM exchange_range JOIN exchange USING (exchange_id) "
                                   "ORDER BY seq, depth"),
                         [(1, 0, "step 17"), (1, 1, "layer 4 of 58"), (2, 0, "step 17"), (2, 1, "layer 4 of 58"),
                          (3, 0, "step 17")])

    def test_operations_and_threads(self):
        self.collected(self.COMM + range_name(1, b"warm-up") + ranges(1, [(1, 1)], stream=2) +
                       "group stream=1 group=1 lanes=1:7:0:0 cells=7:0:5:7\ngroup stream=2 group=1 lanes=1:7:0:1 cells=7:0:6:7\n")
        self.assertEqual(self.rows("SELECT count, text FROM operation_range JOIN operation USING (operation_id)"),
                         [(6, "warm-up")])

    def test_untrusted_text(self):
        """Bytes that are no UTF-8, more holes than numbers, more numbers than holes, a name that never came."""
        self.collected(self.COMM + range_name(1, b"\xff\1\1") + range_name(2, b"plain") +
                       ranges(1, [(1, 1, -5), (2, 2, 7), (3, 99)]))
        self.assertEqual(self.rows("SELECT text FROM nvtx_range"), [("\ufffd-5\x01",), ("plain",), (None,)])

    def test_impossible(self):
        for bad in (ranges(1, [(1, 1)], depth=2), ranges(1, [(0, 1)]), ranges(1 << 63, []), range_name(1, b"a", 99),
                    range_name(0, b"a"), range_name(1 << 30, b"a")):
            with self.subTest(bad):
                self.setUp()
                self.write(self.COMM + bad + range_name(5, b"ok") + ranges(1, [(9, 5)]))
                self.collect()
                self.assertEqual(self.rows("SELECT count(*) FROM diagnostic WHERE code = 'corrupt_spool'"), [(1,)])
                self.assertEqual(self.rows("SELECT text FROM nvtx_range WHERE text = 'a'"), [])

    def test_a_collector_that_was_killed_knows_the_names(self):
        writer = Writer(self.spools)
        writer.tell(self.COMM + range_name(1, b"step \1") + ranges(1, [(1, 1, 0)])).sync()
        self.collect()
        writer.tell(ranges(2, [(1, 1, 0), (2, 1, 1)])).end()
        self.collect()
        self.assertEqual(self.rows("SELECT serial, parent_id, text FROM nvtx_range"), [(1, None, "step 0"), (2, 1, "step 1")])


class Taps(Place):
    """Copies of count exchanges."""

    def test_packed(self):
        self.collected("comm id=1 key=1 ranks=2 rank=0\n" + tap(1, 1, 4, 3, [1, 255, 0], "q") +
                       tap(2, 3, 2, 2, [256, 2, 0, 65535], "i") + tap(6, 5, 7, 2, [65536.0, 3.0], "f") +
                       tap(4, 1, 1, 4, [0, 1, 1, 0], "B") + tap(1, 2, 4, 1, [1 << 40, 5], "q"))
        self.assertEqual(self.rows("SELECT thread, group_seq, place, shape, side, dtype, count, elements, width, hex(data) "
                                   "FROM tap"),
                         [(3, 7, 2, "allgather", "own", 4, 3, 3, 1, "01FF00"),
                          (3, 7, 2, "sendrecv", "sent", 2, 2, 4, 2, "000102000000FFFF"),
                          (3, 7, 2, "sum", "result", 7, 2, 2, 4, "0000010003000000"),
                          (3, 7, 2, "map", "own", 1, 4, 4, 1, "00010100"),
                          (3, 7, 2, "allgather", "whole", 4, 1, 2, 8, "00000000000100000500000000000000")])

    def test_impossible(self):
        """Longer than its record, empty, negative, of another type: left out, and said."""
        for bad in (tap(1, 1, 4, 3, [1], "q", elements=3), tap(1, 1, 4, 3, [], "q"), tap(1, 1, 4, 1, [-1], "q"),
                    tap(1, 1, 8, 1, [1], "q")):
            with self.subTest(bad):
                self.setUp()
                self.write("comm id=1 key=1 ranks=2 rank=0\n" + bad + tap(1, 1, 4, 1, [9], "q"))
                self.collect()
                self.assertEqual(self.rows("SELECT hex(data) FROM tap"), [("09",)])
                self.assertEqual(self.rows("SELECT code FROM diagnostic"), [("corrupt_spool",)])

    def test_newer(self):
        """A shape that this version does not know is skipped and counted."""
        self.collected("comm id=1 key=1 ranks=2 rank=0\n" + tap(99, 1, 4, 1, [1], "q") + tap(1, 1, 4, 1, [9], "q"))
        self.assertEqual(self.rows("SELECT hex(data) FROM tap"), [("09",)])
        self.assertEqual(self.rows("SELECT code FROM diagnostic"), [("unknown_record",)])


class Definitions(Place):
    def test_process(self):
        self.collected(r"""head run=job7 created=55
            text 1 /usr/bin/python3
            text 2 python3\0train "me".py\0\0caf\xc3\xa9 \xff
            text 3 node17
            text 4 SLURM_PROCID=5
            text 4 RANK=3
            text 4 PMI_RANK=9
            text 4 OMPI_COMM_WORLD_LOCAL_RANK=1
            text 4 WORLD_SIZE=many
            text 4 SLURM_NTASKS=64
            text 4 CUDA_VISIBLE_DEVICES=0,1
            text 5 /out
            text 6 22809 /opt/my libs/libnccl.so.2 next
            text 7 0.1.0
            text 8 /work dir
            diag 10 this and that
            diag 4711 newer than we are""")
        db = self.db()
        db.row_factory = sqlite3.Row
        row = dict(db.execute("SELECT * FROM process").fetchone())
        expected = {"exe": "/usr/bin/python3", "host": "node17", "world_rank": 3, "local_rank": 1, "world_size": 64,
                    "nccl_version": 22809, "nccl_path": "/opt/my libs/libnccl.so.2", "nccl_route": "next",
                    "version": "0.1.0", "cwd": "/work dir", "started_ns": 55}
        self.assertEqual({key: row[key] for key in expected}, expected)
        self.assertEqual(json.loads(row["cmdline"]), ["python3", 'train "me".py', "", "caf\u00e9 \ufffd"])
        self.assertTrue(row["key"].startswith(BOOT + "-") and row["key"].endswith("-55"))
        self.assertEqual(self.rows("SELECT value FROM process_env WHERE name = 'CUDA_VISIBLE_DEVICES'"), [("0,1",)])
        self.assertEqual(self.rows("SELECT severity, code, ns, text FROM diagnostic"),
                         [("info", "no_capture_query", 20, "this and that"), ("info", "unknown", 20, "newer than we are")])

    def test_communicators(self):
        """More becomes known of one; a pointer is reused; parents and keys."""
        self.collected("""
            comm id=1 key=0xaa kind=0 flags=2 handle=0x500
            comm id=1 key=0xbb kind=1 ranks=4 rank=2 device=1 handle=0x500 ns=77
            comm id=2 key=0xcc kind=4 ranks=2 rank=0 parent=1 color=8 flags=1
            comm_end id=1 how=1 ns=100
            comm_end id=1 how=2 ns=101
            comm_end id=2 how=3 ns=102 result=5
            comm id=3 key=0xdd kind=1 ranks=4 rank=0 handle=0x500
            comm id=4 key=0xee flags=2 kind=0
            """ + exchange(0, [1], [1], comm=1) + "\n" + exchange(0, [1], [1], comm=3, group=1))
        self.assertEqual(self.rows("SELECT key, kind, ranks, color, (SELECT key FROM communicator p WHERE p.comm_id = "
                                   "c.parent_id) FROM communicator c WHERE key NOT LIKE '?%' ORDER BY key"),
                         [("00000000000000bb", "init_rank", 4, None, None), ("00000000000000cc", "split", 2, 8, "00000000000000bb"),
                          ("00000000000000dd", "init_rank", 4, None, None)])
        self.assertEqual(self.rows("SELECT local_comm, rank, device, handle, nonblocking, ended_ns, ended FROM member"),
                         [(1, 2, 1, 0x500, 0, 101, "destroy"), (2, 0, None, 0x1000, 1, None, None),
                          (3, 0, None, 0x500, 0, None, None), (4, None, None, 0x1000, 0, None, None)])
        unknown = self.row("SELECT key, kind FROM communicator WHERE key LIKE '?%'")
        self.assertEqual((unknown[0], unknown[1]), ("?" + self.row("SELECT key FROM process")[0] + "-4", "unknown"))
        self.assertEqual(self.rows("SELECT local_comm FROM exchange JOIN member USING (member_id)"), [(1,), (3,)])

    def test_members_of_two_processes(self):
        for rank in range(2):
            self.write(f"comm id=5 key=9 ranks=2 rank={rank}\n" + exchange(0, [rank * 10, 1], [rank * 10 if rank else 0, 1], comm=5))
        self.collect()
        self.assertEqual(self.rows("SELECT count(*) FROM communicator"), [(1,)])
        self.assertEqual(self.rows("SELECT src_rank, dst_rank, bytes FROM exchange_matrix ORDER BY 1, 2"),
                         [(0, 0, 0), (0, 1, 1), (1, 0, 10), (1, 1, 1)])

    def test_modules_and_sites(self):
        """A site may come before the module that explains it; known backends are named."""
        self.collected("""
            site id=3 frames=0x1001,0x2500,0x99
            module base=0x1000 start=0x1000 end=0x2000 build=0badc0de path=/x/app
            module base=0x2000 start=0x2000 end=0x3000 path=/x/libnccl.so.2
            module base=0x2000 start=0x2000 end=0x3000 path=/x/libnccl.so.2
            module base=0 start=0x5000 end=0x6000 path=/x/deep_ep_cpp.cpython-311-x86_64-linux-gnu.so
            site id=4 frames=0x2000
            comm id=1 key=1 ranks=1 rank=0
            """ + exchange(0, [1], [1], site=4))
        self.assertEqual(self.rows("SELECT path, build_id, role FROM module"),
                         [("/x/app", "0badc0de", None), ("/x/libnccl.so.2", None, "nccl"),
                          ("/x/deep_ep_cpp.cpython-311-x86_64-linux-gnu.so", None, "device_backend")])
        self.assertEqual(self.rows("SELECT local_site, depth, address, path FROM callsite JOIN frame USING (site_id) "
                                   "LEFT JOIN module USING (module_id)"),
                         [(3, 0, 0x1001, "/x/app"), (3, 1, 0x2500, "/x/libnccl.so.2"), (3, 2, 0x99, None),
                          (4, 0, 0x2000, "/x/app")])
        self.assertEqual(self.rows("SELECT stack FROM callsite_text"), [("app+0x1 < libnccl.so.2+0x500 < 0x99",), ("app+0x1000",)])
        self.assertEqual(self.rows("SELECT local_site FROM exchange JOIN callsite USING (site_id)"), [(4,)])
        severity, text = self.row("SELECT severity, text FROM diagnostic WHERE code = 'device_backend'")
        self.assertEqual(severity, "warning")
        self.assertIn("DeepEP", text)
        self.assertIn("not in this trace", text)

    def test_symbols(self):
        """Names of functions, from a file that is there, and only if it is the one that was loaded."""
        def build_id(path):
            data = read(path, "rb")
            at = data.find(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
            return data[at + 16:at + 36].hex() if at > 0 else ""
        nm = shutil.which("nm")
        symbols = subprocess.run([nm, SCRIPT], stdout=subprocess.PIPE, text=True).stdout if nm else ""
        main_at = [int(line.split()[0], 16) for line in symbols.splitlines() if line.endswith(" T main")]
        if not main_at:
            self.skipTest("nm does not tell where main is")
        base = 0x7000000
        self.collected(f"""
            module base={base} start={base} end={base + 0x100000} build={build_id(SCRIPT)} path={SCRIPT}
            module base=0x100 start=0x100 end=0x200 path=/no/such/file
            module base=0x200 start=0x200 end=0x300 build=1234 path={SCRIPT}
            module base=0x300 start=0x300 end=0x400 path=/dev/zero
            site id=1 frames={base + main_at[0] + 4},0x150,0x250,0x350""")
        self.assertEqual(self.rows("SELECT depth, symbol, offset FROM frame"),
                         [(0, "main", 4), (1, None, None), (2, None, None), (3, None, None)])
        self.assertEqual(self.row("SELECT stack FROM callsite_text")[0].split(" < ")[:2], ["main", "file+0x50"])

    def test_losses(self):
        self.collected("comm id=1 key=1 ranks=4 rank=0\n" + exchange(7, [1], [1]) + """
            loss comm=1 reason=0 before=7 exchanges=3 ops=1 peers=0:2:1,3:0:5
            counters reason=0 groups=4 exchanges=3 ops=1 cells=8
            counters reason=4 groups=1""")
        self.assertEqual(self.rows("SELECT member_id, before_seq, peer, sends, recvs FROM loss_edge"),
                         [(1, 7, 0, 2, 1), (1, 7, 3, 0, 5)])
        self.assertEqual(self.rows("SELECT reason, groups, exchanges, operations, cells FROM loss"),
                         [("spool_full", 4, 3, 1, 8), ("unknown_comm", 1, 0, 0, 0)])
        self.assertEqual(self.rows("SELECT returned_groups, stored_groups, lost_groups, missing_groups, lost_exchanges FROM coverage"),
                         [(6, 1, 5, 0, 3)])


class Graphs(Place):
    def captured(self, capture, seq, group=None):
        return f"group group={seq if group is None else group} lanes=1:7:{seq}:0:1:{capture} cells=0:0:5:0"

    def graph(self, event, ns, **handles):
        return f"graph event={event} ns={ns} " + " ".join(f"{k}={v}" for k, v in handles.items())

    def launches(self):
        return dict(self.rows("SELECT driver_id, coalesce(launches, 0) FROM graph_capture LEFT JOIN capture_launches "
                              "USING (capture_id)"))

    def test_simple(self):
        self.collected("\n".join(["comm id=1 key=1 ranks=1 rank=0", self.captured(50, 0),
                                  self.graph(CAPTURED, 100, capture=50, graph=1), self.graph(INSTANTIATED, 110, graph=1, exec=9),
                                  self.graph(GRAPH_END, 111, graph=1), "launch call=120 exec=9 cuda=3",
                                  "launch call=121 exec=9 cuda=3", "launch call=122 exec=77 cuda=3",
                                  exchange(1, [1], [1])]))
        self.assertEqual(self.launches(), {50: 2})
        self.assertEqual(self.rows("SELECT seq, captured, runs FROM exchange_info"), [(0, 1, 2), (1, 0, 1)])
        self.assertEqual(self.rows("SELECT ns, exec, handle FROM graph_launch JOIN stream USING (stream_id)"),
                         [(120, 9, 3), (121, 9, 3), (122, 77, 3)])
        self.assertEqual(self.rows("SELECT event, driver_id, graph, source, exec FROM graph_event"),
                         [("captured", 50, 1, None, None), ("instantiated", None, 1, None, 9), ("graph_destroyed", None, 1, None, None)])

    def test_never_launched(self):
        self.collected("comm id=1 key=1 ranks=1 rank=0\n" + self.captured(50, 0))
        self.assertEqual(self.rows("SELECT captured, runs FROM exchange_info"), [(1, 0)])

    def test_not_known_whether_captured(self):
        self.collected("comm id=1 key=1 ranks=1 rank=0\ngroup lanes=1:7:0:0:2:0 cells=0:0:5:0")
        self.assertEqual(self.rows("SELECT flags, capture_id FROM exchange"), [(2, None)])

    def test_handles_are_reused(self):
        """The same graph and executable handles, before and after: time tells them apart."""
        self.collected("\n".join([self.graph(CAPTURED, 100, capture=1, graph=5), self.graph(INSTANTIATED, 101, graph=5, exec=9),
                                  self.graph(EXEC_END, 200, exec=9), self.graph(GRAPH_END, 201, graph=5),
                                  self.graph(CAPTURED, 300, capture=2, graph=5), self.graph(INSTANTIATED, 301, graph=5, exec=9),
                                  "launch call=302 exec=9", "launch call=150 exec=9 stream=2", "launch call=303 exec=9",
                                  "launch call=250 exec=9 stream=2"]))
        self.assertEqual(self.launches(), {1: 1, 2: 2})

    def test_update_clone_child(self):
        self.collected("\n".join([
            self.graph(CAPTURED, 1, capture=1, graph=10), self.graph(CAPTURED, 2, capture=2, graph=20),
            self.graph(CLONED, 3, graph=30, source=10), self.graph(CHILD, 4, graph=30, source=20),
            self.graph(CHILD, 5, graph=30, source=20), self.graph(INSTANTIATED, 6, graph=30, exec=3),
            self.graph(INSTANTIATED, 7, graph=10, exec=1), self.graph(UPDATED, 50, graph=20, exec=1),
            "launch call=10 exec=3", "launch call=20 exec=1", "launch call=60 exec=1"]))
        self.assertEqual(self.launches(), {1: 2, 2: 3})

    def test_launch_into_a_capture(self):
        """What an executable holds becomes part of the capture that it was launched into; that launch ran nothing."""
        self.collected("\n".join([
            self.graph(CAPTURED, 1, capture=1, graph=10), self.graph(INSTANTIATED, 2, graph=10, exec=1),
            self.graph(LAUNCH_CAPTURED, 3, exec=1, capture=2), self.graph(LAUNCH_CAPTURED, 4, exec=1, capture=2),
            self.graph(CAPTURED, 5, capture=2, graph=20), self.graph(INSTANTIATED, 6, graph=20, exec=2),
            "launch call=10 exec=1", "launch call=20 exec=2"]))
        self.assertEqual(self.launches(), {1: 3, 2: 1})

    def test_over_collectors(self):
        """A later collector knows what an earlier one saw."""
        writer = Writer(self.spools)
        writer.tell("comm id=1 key=1 ranks=1 rank=0\n" + self.captured(50, 0) + "\n" + self.graph(CAPTURED, 100, capture=50, graph=1)
                    + "\n" + self.graph(INSTANTIATED, 110, graph=1, exec=9) + "\nlaunch call=120 exec=9")
        writer.sync()
        self.collect()
        self.assertEqual(self.launches(), {50: 1})
        writer.tell("launch call=130 exec=9\n" + self.captured(50, 1))
        writer.end()
        self.collect()
        self.assertEqual(self.launches(), {50: 2})
        self.assertEqual(self.rows("SELECT runs FROM exchange_info"), [(2,), (2,)])


class Calls(Place):
    """Calls that are noted and not understood (schema/spool.h, struct skew_rec_backend_call)."""

    @staticmethod
    def call(number, ns, site=0, stream=1):
        body = struct.pack("<QQIIiI", ns, 0xbeef, number, site, 77, 0)
        return f"raw stream={stream} type=52 body={body.hex()}"

    def test_rows_and_counts(self):
        counts = struct.pack("<16Q", *[0] * 7, 5, 1, *[0] * 7)  # 7 dispatch, 8 combine
        self.collected("\n".join(["thread stream=1 tid=77 name=python3", "site id=1 frames=0x401234", self.call(7, 100, site=1),
                                  self.call(7, 200), self.call(8, 150, stream=0), self.call(99, 1), self.call(7, 300, site=9),
                                  f"poke {160 + 512 + 384 + 280} {counts.hex()}"]))
        self.assertEqual(self.rows("SELECT start_ns, backend, does, function, object, tid, site_id FROM backend_call ORDER BY 1"),
                         [(100, "NCCL EP", "dispatch", "ncclEpDispatch", 0xbeef, 77, 1),
                          (150, "NCCL EP", "combine", "ncclEpCombine", 0xbeef, 77, None),
                          (200, "NCCL EP", "dispatch", "ncclEpDispatch", 0xbeef, 77, None),
                          (300, "NCCL EP", "dispatch", "ncclEpDispatch", 0xbeef, 77, None)])
        self.assertEqual(self.rows("SELECT function, calls, rows, first_ns, last_ns FROM backend_call_total ORDER BY 1"),
                         [("ncclEpCombine", 1, 1, 150, 150), ("ncclEpDispatch", 5, 3, 100, 300)])


if __name__ == "__main__":
    main()

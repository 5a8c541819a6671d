# SPDX-License-Identifier: Apache-2.0
"""skewscope matrix and info, against databases made here and values computed from plain lists."""
import csv
import io
import random
import re

import tracegen
from clitest import *


def random_matrix(random_, ranks, top=1 << 20, zeros=0.2):
    return [[0 if random_.random() < zeros else random_.randrange(top) for _ in range(ranks)] for _ in range(ranks)]


def add(matrices):
    size = len(matrices[0])
    return [[sum(m[i][j] for m in matrices) for j in range(size)] for i in range(size)]


def skew(matrix):
    loads = [sum(row[j] for row in matrix) for j in range(len(matrix))]
    return max(loads) * len(loads) / sum(loads)


class Matrix(CliTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(7)
        self.trace = str(self.dir / "trace.db")

    def show(self, *arguments, status=0):
        done = self.skewscope("matrix", *arguments)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def as_csv(self, *arguments, ranks=4):
        rows = list(csv.DictReader(io.StringIO(self.show(*arguments, "--format", "csv").stdout)))
        matrices = {}
        for row in rows:
            matrix = matrices.setdefault(row.get("seq"), [[None] * ranks for _ in range(ranks)])
            matrix[int(row["src_rank"])][int(row["dst_rank"])] = int(row["bytes"])
        return matrices if "seq" in rows[0] else matrices[None]

    def as_json(self, *arguments):
        return json.loads(self.show(*arguments, "--format", "json").stdout)

    def make(self, count=9, ranks=4, **kwargs):
        matrices = [random_matrix(self.random, ranks, **kwargs) for _ in range(count)]
        tracegen.simple(self.trace, matrices)
        return matrices

    def test_formats(self):
        matrices = self.make()
        total = add(matrices)
        self.assertEqual(self.as_csv(self.trace), total)
        shown = self.as_json(self.trace)
        self.assertEqual(shown["matrices"][0]["matrix"], total)
        self.assertEqual(shown["matrices"][0]["exchanges"], 9)
        self.assertEqual(shown["communicator"], {"id": 1, "key": "00c0ffee00c0ffee", "ranks": 4, "ranks_here": 4})
        self.assertEqual(shown["groups"], {"captured": 36, "of": 36, "lost": 0})
        plain = self.show(self.trace, "--format", "nccl-tests").stdout
        self.assertEqual([[int(x) for x in line.split()] for line in plain.splitlines()], total)
        self.assertRegex(plain, r"\A([0-9]+( [0-9]+){3}\n){4}\Z")

    def test_mean_and_each(self):
        matrices = self.make()
        mean = self.as_json(self.trace, "--mean")["matrices"][0]["matrix"]
        for row, expected in zip(mean, add(matrices)):
            for value, bytes_ in zip(row, expected):
                self.assertAlmostEqual(value, bytes_ / 9, places=6)
        plain = self.show(self.trace, "--mean", "--format", "nccl-tests").stdout
        self.assertEqual([[int(x) for x in line.split()] for line in plain.splitlines()],
                         [[round(x) for x in row] for row in mean])
        each = self.as_csv(self.trace, "--each")
        self.assertEqual(each, {str(i): m for i, m in enumerate(matrices)})
        shown = self.as_json(self.trace, "--each", "--seq", "2..3")["matrices"]
        self.assertEqual([(s["seq"], s["matrix"]) for s in shown], [(2, matrices[2]), (3, matrices[3])])

    def test_skew_is_of_each_exchange(self):
        """A hot rank that moves: the sum is balanced, no exchange is."""
        matrices = [[[1000 if j == k else 1 for j in range(4)] for _ in range(4)] for k in range(4)]
        tracegen.simple(self.trace, matrices)
        shown = self.as_json(self.trace)["matrices"][0]["skew"]
        self.assertAlmostEqual(shown["median"], skew(matrices[0]), places=6)
        self.assertAlmostEqual(shown["max"], skew(matrices[0]), places=6)
        self.assertEqual((shown["max_seq"], shown["max_rank"]), (0, 0))
        self.assertEqual(shown["complete_exchanges"], 4)
        self.assertIn("max over ranks of bytes received / mean over ranks", shown["formula"])
        text = self.show(self.trace).stdout
        self.assertIn("skew of each exchange (max over ranks of bytes received / mean over ranks): median 3.988, "
                      "max 3.988 (seq 0, rank 0), over 4 exchanges", text)

    def test_skew_values(self):
        matrices = self.make(count=8)
        shown = self.as_json(self.trace)["matrices"][0]["skew"]
        values = sorted(skew(m) for m in matrices)
        self.assertAlmostEqual(shown["median"], (values[3] + values[4]) / 2, places=6)
        self.assertAlmostEqual(shown["max"], values[-1], places=6)

    def test_selection(self):
        matrices = self.make()
        self.assertEqual(self.as_csv(self.trace, "--seq", "4"), matrices[4])
        self.assertEqual(self.as_csv(self.trace, "--seq", "1..3"), add(matrices[1:4]))
        self.assertIn("it made 36 on 4 ranks", self.show(self.trace, "--seq", "9", status=1).stderr)

    def test_counted_layers(self):
        """3 layers, 2 calls each: seq 0, 1 are layer 0 of step 0, …"""
        matrices = self.make(count=14)
        self.assertEqual(self.as_csv(self.trace, "--layers", "3", "--layer", "1"),
                         add([m for i, m in enumerate(matrices) if i % 6 in (2, 3)]))
        self.assertEqual(self.as_csv(self.trace, "--layers", "3", "--layer", "2", "--step", "1"), add(matrices[10:12]))
        self.assertEqual(self.as_csv(self.trace, "--layers", "3", "--step", "2"), add(matrices[12:14]))
        self.assertEqual(self.as_csv(self.trace, "--layers", "2", "--calls-per-layer", "3", "--layer", "1", "--step", "0"),
                         add(matrices[3:6]))

    def test_labels(self):
        trace = tracegen.Trace(self.trace)
        comm = trace.comm("ab" * 8, 3, {r: trace.process(r) for r in range(3)})
        matrices = {}
        for step in range(2):
            for layer in range(3):
                for role in ("dispatch", "combine"):
                    matrices[step, layer, role] = random_matrix(self.random, 3)
                    trace.matrix(comm, matrices[step, layer, role],
                                 label={"step": step, "layer": layer, "role": role})
        trace.close()
        pick = lambda f: add([m for k, m in matrices.items() if f(*k)])
        self.assertEqual(self.as_csv(self.trace, "--layer", "1", ranks=3), pick(lambda s, l, r: l == 1))
        self.assertEqual(self.as_csv(self.trace, "--step", "1", "--role", "combine", ranks=3),
                         pick(lambda s, l, r: s == 1 and r == "combine"))
        self.assertEqual(self.as_csv(self.trace, "--layer", "0", "--step", "0", "--role", "dispatch", ranks=3),
                         matrices[0, 0, "dispatch"])

    def test_labels_missing(self):
        self.make()
        for arguments, texts in ((["--layer", "1"], ["the layer of no exchange", "--layers L"]),
                                 (["--step", "0"], ["the step of no exchange", "skewscope label"]),
                                 (["--role", "dispatch"], ["no exchange could be told to be 'dispatch'"])):
            done = self.show(self.trace, *arguments, status=1)
            self.assertEqual((done.stdout, done.stderr.count("\n")), ("", 1))
            for text in texts:
                self.assertIn(text, done.stderr)

    def test_operations(self):
        trace = tracegen.Trace(self.trace)
        comm = trace.comm("cd" * 8, 3, {r: trace.process(r) for r in range(3)})
        one, two, three = (random_matrix(self.random, 3) for _ in range(3))
        equal = [[4096] * 3] * 3
        trace.matrix(comm, one, op=tracegen.SENDRECV)
        trace.matrix(comm, equal, op=tracegen.ALLTOALL)
        trace.matrix(comm, three, op=tracegen.ALLTOALLV)
        trace.close()
        self.assertEqual(self.as_csv(self.trace, "--op", "sendrecv", ranks=3), one)
        self.assertEqual(self.as_csv(self.trace, "--op", "alltoall", ranks=3), equal)
        self.assertEqual(self.as_csv(self.trace, "--op", "alltoallv", ranks=3), three)
        self.assertEqual(self.as_csv(self.trace, ranks=3), add([one, equal, three]))

    def test_communicators(self):
        trace = tracegen.Trace(self.trace)
        processes = {r: trace.process(r) for r in range(4)}
        small = trace.comm("aaaa000000000000", 4, processes)
        large = trace.comm("aaaa111111111111", 2, {0: processes[0], 1: processes[1]})
        trace.comm("bbbb000000000000", 4, processes)
        a, b = [[1] * 4] * 4, [[1000, 2000], [3000, 4000]]
        trace.matrix(small, a)
        trace.matrix(large, b)
        trace.close()
        self.assertEqual(self.as_csv(self.trace, ranks=2), b) # the most bytes
        self.assertIn("the most of 2 communicators with exchanges", self.show(self.trace).stdout)
        for name in ("1", "aaaa000000000000", "aaaa0"):
            self.assertEqual(self.as_csv(self.trace, "--comm", name), a)
        self.assertIn("beginning of 2 keys", self.show(self.trace, "--comm", "aaaa", status=1).stderr)
        self.assertIn("no communicator 'zzz'", self.show(self.trace, "--comm", "zzz", status=1).stderr)
        self.assertIn("is selected", self.show(self.trace, "--comm", "bbbb", status=1).stderr)

    def test_several_sends_to_one_peer(self):
        trace = tracegen.Trace(self.trace)
        comm = trace.comm("ef" * 8, 2, {r: trace.process(r) for r in range(2)})
        trace.exchange(comm, 0, [(1, 10), (0, 5), (1, 20), (1, 0)], [(0, 5), (1, 7)])
        trace.exchange(comm, 1, [(0, 7)], [(0, 10), (0, 20), (0, 0)])
        trace.close()
        self.assertEqual(self.as_csv(self.trace, ranks=2), [[5, 30], [7, 0]])

    def test_one_side_only(self):
        trace = tracegen.Trace(self.trace)
        comm = trace.comm("12" * 8, 2, {r: trace.process(r) for r in range(2)})
        trace.exchange(comm, 0, [(1, 100)], None)
        trace.exchange(comm, 1, None, [(0, 100)])
        trace.close()
        self.assertEqual(self.as_csv(self.trace, ranks=2), [[0, 100], [0, 0]])
        self.assertAlmostEqual(self.as_json(self.trace)["matrices"][0]["skew"]["max"], 2.0)

    def test_drifted_ordinals(self):
        """Rank 1 skips the empty first exchange, so its ordinals are one behind: said, and the sum is right."""
        trace = tracegen.Trace(self.trace)
        comm = trace.comm("34" * 8, 2, {r: trace.process(r) for r in range(2)})
        trace.exchange(comm, 0, [(0, 8)], [(0, 8)])
        trace.exchange(comm, 0, [(1, 100)], [(1, 50)])
        trace.exchange(comm, 1, [(0, 50)], [(0, 100)])
        trace.close()
        shown = self.as_json(self.trace)["matrices"][0]
        self.assertEqual(shown["matrix"], [[8, 100], [50, 0]])
        self.assertEqual(shown["skew"]["unequal_exchanges"], 1)
        self.assertIn("doubt: in 1 of 1 exchanges what was sent is not what was received", self.show(self.trace).stdout)

    def test_several_nodes(self):
        """Two databases, each with half of the ranks: one matrix."""
        os.mkdir(self.out)
        matrices = [random_matrix(self.random, 4) for _ in range(3)]
        for name, ranks in (("trace.db", (0, 1)), ("trace-b.db", (2, 3))):
            trace = tracegen.Trace(os.path.join(self.out, name), host=name)
            if name == "trace-b.db": # its ids are its own
                trace.comm("ffff" * 4, 4, {r: trace.process(10 + r) for r in ranks})
            comm = trace.comm("00c0ffee00c0ffee", 4, {r: trace.process(r) for r in ranks})
            for matrix in matrices:
                trace.matrix(comm, matrix, ranks=ranks)
            trace.close()
        self.assertEqual(self.as_csv(self.out), add(matrices))
        self.assertEqual(self.as_csv(self.out, "--each"), {str(i): m for i, m in enumerate(matrices)})
        shown = self.as_json(self.out)
        self.assertEqual(shown["communicator"]["ranks_here"], 4)
        self.assertAlmostEqual(shown["matrices"][0]["skew"]["max"], max(map(skew, matrices)), places=6)
        self.assertEqual(len(json.loads(self.skewscope("info", "--json", self.out).stdout)), 2)

    def test_absent_ranks_are_unknown(self):
        """One node of two: nobody knows what the other one's ranks sent, and that is not zero."""
        trace = tracegen.Trace(self.trace)
        comm = trace.comm("00c0ffee00c0ffee", 4, {r: trace.process(r) for r in (1, 3)})
        matrices = [random_matrix(self.random, 4, zeros=0) for _ in range(3)]
        for matrix in matrices:
            matrix[3] = [0] * 4 # is here and sends nothing: a zero
            trace.matrix(comm, matrix, ranks=(1, 3))
        trace.close()
        total = add(matrices)
        shown = self.as_json(self.trace)
        self.assertEqual(shown["communicator"]["ranks_here"], 2)
        self.assertEqual(shown["matrices"][0]["matrix"], [[None] * 4, total[1], [None] * 4, [0] * 4])
        self.assertEqual((shown["matrices"][0]["skew"]["median"], shown["matrices"][0]["skew"]["max"]), (None, None))
        for arguments in (["--mean"], ["--unit", "KiB"], ["--each"]):
            for one in self.as_json(self.trace, *arguments)["matrices"]:
                self.assertEqual((one["matrix"][0], one["matrix"][3]), ([None] * 4, [0] * 4))
        rows = self.show(self.trace, "--format", "csv").stdout.splitlines()
        self.assertEqual(rows[1:6], ["0,0,", "0,1,", "0,2,", "0,3,", f"1,0,{total[1][0]}"])
        self.assertEqual(rows[-1], "3,3,0")
        text = self.show(self.trace, "--unit", "B").stdout
        lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:]}
        self.assertEqual((lines["0"], lines["2"], lines["3"]), (["?"] * 5, ["?"] * 5, ["0"] * 5))
        self.assertEqual(lines["1"], [str(x) for x in [*total[1], sum(total[1])]])
        self.assertEqual(lines["recv"], [str(x) for x in [*total[1], sum(total[1])]])
        self.assertIn("only 2 of 4 ranks are in this trace; what the others sent is unknown (?)", text)
        for arguments in ([], ["--mean"], ["--seq", "1"]):
            done = self.show(self.trace, "--format", "nccl-tests", *arguments, status=1)
            self.assertEqual((done.stdout, done.stderr.count("\n")), ("", 1))
            self.assertIn("only 2 of 4 ranks are in this trace: the others' sends would be replayed as zero", done.stderr)

    def test_units(self):
        tracegen.simple(self.trace, [[[0, 5760 * 3], [5760 * 4, 5760]]])
        self.assertIn("tokens of 5760 B (the greatest common divisor", self.show(self.trace, "--unit", "tokens").stdout)
        shown = self.as_json(self.trace, "--unit", "tokens", "--token-bytes", "2880")["matrices"][0]
        self.assertEqual((shown["matrix"], shown["token_bytes"]), ([[0, 6], [8, 2]], 2880))
        shown = self.as_json(self.trace, "--unit", "KiB")["matrices"][0]
        self.assertEqual((shown["matrix"][1][0], shown["unit"]), (22.5, "KiB"))
        self.assertIn("dst_rank,KiB\n", self.show(self.trace, "--unit", "KiB", "--format", "csv").stdout)

    def test_exact_beyond_doubles(self):
        big = (1 << 62) + 1
        tracegen.simple(self.trace, [[[0, big], [1, 0]]])
        self.assertEqual(self.as_csv(self.trace, ranks=2), [[0, big], [1, 0]])
        self.assertEqual(self.as_json(self.trace)["matrices"][0]["matrix"][0][1], big)

    def test_losses_are_told(self):
        trace = tracegen.Trace(self.trace)
        processes = {r: trace.process(r, returned=10) for r in range(2)}
        comm = trace.comm("56" * 8, 2, processes)
        trace.matrix(comm, [[1, 2], [3, 4]])
        trace.db.execute("INSERT INTO loss VALUES (?, 'spool_full', 8, 8, 0, 32)", (processes[0],))
        trace.close()
        self.assertIn("doubt: the trace holds 2 of 20 groups", self.show(self.trace).stdout)
        info = self.skewscope("info", self.trace).stdout
        self.assertIn("captured 2 of 20 NCCL groups in 2 processes", info)
        self.assertIn("lost 8 groups (8 exchanges): spool_full, the spool's cap was reached", info)
        self.assertIn("missing 10 groups", info)

    def test_usage(self):
        self.make()
        for arguments, text in ((["--seq", "3..1"], "A..B"), (["--seq", "x"], "A..B"), (["--layers", "0"], "1 to"),
                                (["--layers", "4"], "--layer or --step"), (["--calls-per-layer", "2"], "needs --layers"),
                                (["--layers", "3", "--layer", "3"], "0 to 2"), (["--sum", "--each"], "choose one"),
                                (["--each", "--format", "nccl-tests"], "--seq N"), (["--unit", "kB"], "KiB"),
                                (["--format", "nccl-tests", "--unit", "MiB"], "leave --unit out"),
                                (["--format", "xml"], "nccl-tests"), (["--op", "allgather"], "sendrecv"),
                                (["--color", "blue"], "always")):
            done = self.show(self.trace, *arguments, status=2)
            self.assertIn(text, done.stderr)
            self.assertEqual(done.stdout, "")

    def test_nothing_to_show(self):
        trace = tracegen.Trace(self.trace)
        trace.comm("78" * 8, 2, {r: trace.process(r) for r in range(2)})
        trace.close()
        self.assertIn("holds no all-to-all exchange", self.show(self.trace, status=1).stderr)

    def test_unknown_size(self):
        trace = tracegen.Trace(self.trace)
        comm = trace.comm("?1", 2, {r: trace.process(r) for r in range(2)}, known=False)
        trace.matrix(comm, [[1, 2], [3, 4]])
        trace.close()
        self.assertEqual(self.as_csv(self.trace, ranks=2), [[1, 2], [3, 4]])


class HeatMap(CliTest):
    def show(self, ranks, *arguments, columns=None, **env):
        trace = str(self.dir / f"r{ranks}.db")
        if not os.path.exists(trace):
            tracegen.simple(trace, [[[1024 * (1 + 3 * (j == 1)) for j in range(ranks)] for _ in range(ranks)]])
        done = self.skewscope("matrix", trace, *arguments,
                              env=clean_environment(**({"COLUMNS": str(columns)} if columns else {}), **env))
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_width(self):
        for ranks in (2, 8, 16, 32, 64, 100, 300):
            for columns in (80, 100, 200):
                for line in self.show(ranks, columns=columns).splitlines()[2:]:
                    if not line.startswith(("skew", "doubt")):
                        self.assertLessEqual(len(line), columns, line)

    def test_rows(self):
        lines = self.show(64, columns=100).splitlines()
        self.assertEqual(len([l for l in lines if re.match(r" *\d+ [^ ]", l)]), 64)
        self.assertIn("64 ranks do not fit: each cell is the sum over a block of 2 x 2 ranks", self.show(64, columns=60))
        self.assertIn("100 ranks do not fit: each cell is the sum over a block of 2 x 2 ranks", self.show(100))
        self.assertIn("\n98-99 @=", self.show(100))

    def test_absent_ranks(self):
        """As shades and folded too: a block is unknown when all of its ranks are."""
        trace = tracegen.Trace(self.dir / "absent.db")
        comm = trace.comm("00c0ffee00c0ffee", 100, {r: trace.process(r) for r in range(51)})
        trace.matrix(comm, [[1] * 100] * 100, ranks=range(51))
        trace.close()
        for colour in ("never", "always"):
            lines = self.skewscope("matrix", self.dir / "absent.db", "--color", colour,
                                   env=clean_environment(COLUMNS="80")).stdout.splitlines()
            rows = {line[:5].strip(): line[5:] for line in lines}
            self.assertEqual(rows["98-99"].strip(), "?" * 50 + " " * (len(rows["98-99"].strip()) - 51) + "?")
            self.assertNotIn("?", rows["48-49"])
            self.assertNotIn("?", rows["50-51"])

    def test_numbers(self):
        text = self.show(4, "--unit", "KiB")
        self.assertIn("\n   0   1.0  4.0  1.0  1.0   7.0\n", text)
        self.assertIn("\nrecv   4.0 16.0  4.0  4.0  28.0\n", text)

    def test_colour_only_when_wanted(self):
        self.assertNotIn("\033", self.show(8))
        self.assertIn("\033[48;5;", self.show(8, "--color", "always"))
        self.assertNotIn("\033", self.show(8, "--color", "never"))
        self.assertNotIn("\033", self.skewscope("info", self.dir / "r8.db").stdout)

    def test_colour_on_a_terminal(self):
        self.show(8)
        for env, coloured in (({"TERM": "xterm-256color"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False),
                              ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": ""}, True)):
            master, slave = os.openpty()
            done = subprocess.run([SKEWSCOPE, "matrix", str(self.dir / "r8.db")], stdout=slave, check=True,
                                  env=clean_environment(**env))
            os.close(slave)
            text = b""
            while True:
                try:
                    got = os.read(master, 65536)
                except OSError:
                    break
                if not got:
                    break
                text += got
            os.close(master)
            self.assertEqual(done.returncode, 0)
            self.assertEqual(b"\033[48;5;" in text, coloured, env)


class Info(CliTest):
    def test_text(self):
        tracegen.simple(self.dir / "t.db", [[[1 << 20] * 8] * 8] * 3)
        text = self.skewscope("info", self.dir / "t.db").stdout
        for part in ("run 20261122-101500-00000001: torchrun train.py", "exit status 0, after 2.5 s", "labels: ep=8",
                     "2.28.9", "key 00c0ffee00c0ffee, 8 ranks (8 here)", "24 exchanges, 192.0 MiB sent (seq 0..2)",
                     "captured 24 of 24 NCCL groups in 8 processes"):
            self.assertIn(part, text)

    def test_json(self):
        tracegen.simple(self.dir / "t.db", [[[5] * 2] * 2])
        (info,) = json.loads(self.skewscope("info", "--json", self.dir / "t.db").stdout)
        self.assertEqual(info["exchanges"], [{"comm_id": 1, "op": "send", "exchanges": 2, "send_bytes": 20,
                                              "recv_bytes": 20, "captured": 0, "runs": 2, "first_seq": 0, "last_seq": 0}])
        self.assertEqual(info["labels"], [{"run_id": 1, "key": "ep", "value": "8"}])

    def test_hostile_text(self):
        trace = tracegen.Trace(self.dir / "t.db", version="\033[31mred")
        trace.run("\033]0;title\007", '["a\\u001b[2J", "\\u009b"]', labels=[("k\n", "v\r\033[H")])
        trace.db.execute("INSERT INTO diagnostic (severity, code, text) VALUES ('error', 'x', cast(x'ff1b5b' AS TEXT))")
        trace.close()
        for arguments in (["info"], ["info", "--json"]):
            done = subprocess.run([SKEWSCOPE, *arguments, str(self.dir / "t.db")], capture_output=True, check=True,
                                  env=clean_environment())
            self.assertNotIn(b"\033", done.stdout)
            self.assertNotIn(b"\007", done.stdout)
            self.assertNotIn(b"\xc2\x9b", done.stdout)
            done.stdout.decode("utf-8")


if __name__ == "__main__":
    unittest.main()

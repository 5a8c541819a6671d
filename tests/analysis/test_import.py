#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope import: every format, what is wrong with files, and the real files beside the project.

The real files lie at ../shared/data from the project's root, or where SKEWSCOPE_TEST_DATA says;
their tests are skipped, saying so, where they are not.
"""
import collections
import csv
import json
import math
import os
import pathlib
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cli")]
import npyfile  # noqa: E402
import tracegen  # noqa: E402

TOOL = os.environ["SKEWSCOPE_TOOL"]
DATA = pathlib.Path(os.environ.get("SKEWSCOPE_TEST_DATA") or HERE.parents[2] / "shared" / "data")
real_data = unittest.skipUnless((DATA / "verified_metrics.csv").exists(), f"{DATA} is not here")


def call(*arguments):
    return subprocess.run([TOOL, "import", *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          check=False)


def gini(values):
    x = sorted(values)
    n = len(x)
    return sum((2 * i - n - 1) * v for i, v in enumerate(x, 1)) / (n * sum(x))


class Import(unittest.TestCase):
    def setUp(self):
        room = tempfile.TemporaryDirectory()
        self.addCleanup(room.cleanup)
        self.dir = pathlib.Path(room.name)
        self.made = 0

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text, encoding="utf-8")
        return path

    def take(self, *arguments):
        """Imports; the database."""
        self.made += 1
        out = self.dir / f"out{self.made}.db"
        done = call(*arguments, "-o", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.said = done.stderr
        db = sqlite3.connect(out)
        self.addCleanup(db.close)
        self.out = out
        return db

    def rows(self, db, columns="step, layer, microbatch, request, source_rank, stage"):
        """{(columns…): {expert: tokens}}, zeros left out."""
        found = collections.defaultdict(dict)
        for *key, expert, tokens in db.execute(f"SELECT {columns}, expert, tokens FROM routing_cell"):
            found[tuple(key)]
            if tokens:
                found[tuple(key)][expert] = tokens
        return dict(found)

    def fails(self, words, *arguments, status=1):
        done = call(*arguments, "-o", self.dir / "bad.db")
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertIn(words, done.stderr)
        self.assertFalse((self.dir / "bad.db").exists())
        if status == 1:
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    # ---- formats ----------------------------------------------------------------------------------

    def test_counts(self):
        path = self.write("c.csv", "model,layer,expert,count\nA,3,0,5\nA,3,2,7\nB,3,0,1\n")
        db = self.take("counts", path, "--where", "model=A", "--label", "model=A", "--label", "ep=4", "--topk", 2)
        self.assertEqual(self.rows(db), {(None, 3, None, None, None, None): {0: 5, 2: 7}})
        self.assertEqual(db.execute("SELECT experts, topk, tokens, source FROM routing").fetchall(),
                         [(3, 2, 6, "import counts")])
        self.assertEqual(dict(db.execute("SELECT key, value FROM run_label")), {"model": "A", "ep": "4"})
        self.fails("column 'model' has several values ('A', 'B')", "counts", path)
        self.fails("--where: there is no column 'domain'", "counts", path, "--where", "domain=x")
        self.fails("no counts in it that pass --where", "counts", path, "--where", "model=C")
        full = self.write("f.csv", "step,layer,rank,request,stage,expert,count\n0,1,1,9,decode,2,4\n")
        self.assertEqual(self.rows(self.take("counts", full, "--experts", 4)), {(0, 1, None, 9, 1, "decode"): {2: 4}})

    def test_counts_bad(self):
        for text, words in (("layer,count\n1,2\n", "no column 'expert'"),
                            ("expert,count\n0,x\n", "line 2: count 'x' is not a whole number"),
                            ("expert,count\n0,-1\n", "count '-1' is not a whole number"),
                            ("expert,count\n70000,1\n", "expert '70000' is not a whole number from 0 to 65534"),
                            ("expert,count\n0,1\n1\n", "line 3: 1 fields where the header has 2"),
                            ("expert,count\n", "no counts in it"), ("", "no counts in it")):
            self.fails(words, "counts", self.write("b.csv", text))
        self.fails("cannot be opened", "counts", self.dir / "none.csv")
        good = self.write("g.csv", "expert,count\n9,1\n")
        self.fails("expert 9, where --experts says 8", "counts", good, "--experts", 8)

    def test_megatron(self):
        def record(step, layer, rank, tokens, **more):
            return json.dumps({"step": step, "stage": "pre_dispatch", "block": "decoder", "layer": layer, "rank": rank,
                               "num_tokens": len(tokens), "topk": 2, "top_indices": tokens, **more}) + "\n"
        files = [self.write(f"router_trace_rank{r}.jsonl",
                            record(0, 1, r, [[r, 3], [r, 2]]) + record(0, 1, r, [[0, 1]]) +
                            record(1, 1, r, []) + record(1, 1, r, [[2, 3]], block="mtp", mtp_idx=0)) for r in (0, 1)]
        db = self.take("megatron", *files, "--stage", "train", "--experts", 4)
        self.assertEqual(self.rows(db), {
            (0, 1, 0, None, 0, "train"): {0: 2, 2: 1, 3: 1}, (0, 1, 1, None, 0, "train"): {0: 1, 1: 1},
            (1, 1, 0, None, 0, "train"): {}, (1, 10001, 0, None, 0, "train"): {2: 1, 3: 1},
            (0, 1, 0, None, 1, "train"): {1: 2, 2: 1, 3: 1}, (0, 1, 1, None, 1, "train"): {0: 1, 1: 1},
            (1, 1, 0, None, 1, "train"): {}, (1, 10001, 0, None, 1, "train"): {2: 1, 3: 1}})
        self.assertEqual(db.execute("SELECT ranks FROM communicator").fetchall(), [(2,)])
        self.assertEqual(db.execute("SELECT sum(tokens), max(topk) FROM routing").fetchall(), [(8, 2)])
        groups = self.take("megatron", *files, "--ranks", 1, "--experts", 4)
        self.assertEqual(groups.execute("SELECT count(*), max(ranks) FROM communicator").fetchall(), [(2, 1)])
        for text, words in (('{"step": 0', "not JSON, and the last line: the file is truncated"),
                            ('{"step": 0}\n', "is missing or not of its kind"), ("", "the file is empty"),
                            (record(0, 1, 0, [[0, 1], [2]]), "do not all have the same number"),
                            (record(0, 1, 0, [[0, -2]]), "not a whole number from 0"),
                            (record(0, 1, 0, [[0, 1]], num_tokens=7), "num_tokens is not the length")):
            self.fails(words, "megatron", self.write("b.jsonl", text))

    def test_vllm(self):
        """Two requests of 5 tokens, 2 layers, top-2; the first 3 tokens are the prompt."""
        arrays = [[[[(t + l + r) % 4, (t + l + r + 1) % 4] for l in range(2)] for t in range(5)] for r in range(2)]
        files = [npyfile.write(self.dir / f"r{r}.npy", a, "<i2") for r, a in enumerate(arrays)]
        db = self.take("vllm", *files, "--prompt-tokens", 3, "--step-tokens", 1, "--ranks", 2, "--assign",
                       "round-robin")
        wanted = collections.defaultdict(lambda: collections.Counter())
        for r, a in enumerate(arrays):
            for t, token in enumerate(a):
                for layer, ids in enumerate(token):
                    key = (None if t < 3 else t - 3, layer, None, r, r, "prefill" if t < 3 else "decode")
                    wanted[key].update(ids)
        self.assertEqual(self.rows(db), {k: dict(v) for k, v in wanted.items()})
        self.fails("where vLLM's routed experts are [tokens, layers, k]", "vllm",
                   npyfile.write(self.dir / "b.npy", [[1, 2]], "<i2"))

    def test_sglang(self):
        counts = [[[s + layer + e for e in range(4)] for layer in range(2)] for s in range(3)]
        wanted = {(s, layer, None, None, None, None): {e: s + layer + e for e in range(4) if s + layer + e}
                  for s in range(3) for layer in range(2)}
        for path in (npyfile.write(self.dir / "s.npy", counts, "<i4"),
                     npyfile.write(self.dir / "f.npy", counts, "<f4", fortran=True),
                     self.write("s.json", json.dumps({"logical_count": counts})), self.write("l.json", json.dumps(counts))):
            self.assertEqual(self.rows(self.take("sglang", path)), wanted)
        flat = self.take("sglang", npyfile.write(self.dir / "d.npy", counts[2], "<i8"))
        self.assertEqual(len(self.rows(flat)), 2)
        self.fails("weights_only=True", "sglang", self.write("dump.pt", "PK"))
        self.fails("no logical_count in it", "sglang", self.write("n.json", '{"rank": 0}'))
        self.fails("is it truncated?", "sglang", self.write("t.json", '{"logical_count": [[1,'))
        self.fails("layer 1 has 3 experts, layer 0 has 4", "sglang", self.write("u.json", "[[1,2,3,4],[1,2,3]]"))
        self.fails("is not a whole number of tokens", "sglang",
                   npyfile.write(self.dir / "h.npy", [[1.5, 2.0]], "<f4"))
        self.fails("where logical_count is", "sglang", npyfile.write(self.dir / "o.npy", [1, 2], "<i8"))

    def safetensors(self, name, tensors, cut=0, dtype="I64"):
        header, data = {"__metadata__": {"format": "pt"}}, b""
        for key, values in tensors.items():
            body = struct.pack(f"<{len(values)}q", *values)
            header[key] = {"dtype": dtype, "shape": [len(values)], "data_offsets": [len(data), len(data) + len(body)]}
            data += body
        head = json.dumps(header).encode()
        path = self.dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((struct.pack("<Q", len(head)) + head + data)[:-cut or None])
        return path

    def test_trtllm(self):
        for rank in (0, 1):
            self.safetensors(f"stat/rank{rank}.safetensors", {"50_3": [rank, 2, 0, 4], "51_3": [0, 0, 6, 0]})
        self.write("stat/meta_info.json", '{"num_experts": 4, "num_experts_per_token": 2}')
        db = self.take("trtllm", self.dir / "stat")
        self.assertEqual(self.rows(db), {
            (50, 3, None, None, 0, None): {1: 2, 3: 4}, (51, 3, None, None, 0, None): {2: 6},
            (50, 3, None, None, 1, None): {0: 1, 1: 2, 3: 4}, (51, 3, None, None, 1, None): {2: 6}})
        self.assertEqual(db.execute("SELECT DISTINCT experts, topk FROM routing").fetchall(), [(4, 2)])
        good = {"50_3": [1, 2, 3]}
        self.fails("not as many experts as meta_info.json says",
                   "trtllm", self.safetensors("stat/rank1.safetensors", good).parent)
        self.fails("truncated: there is no data", "trtllm", self.safetensors("rank0.safetensors", good, cut=4))
        self.fails("truncated within its header", "trtllm", self.write("rank2.safetensors", "short"))
        self.fails("not of type I64 or I32", "trtllm", self.safetensors("rank3.safetensors", good, dtype="F32"))
        self.fails("not named <iteration>_<layer>", "trtllm", self.safetensors("rank4.safetensors", {"x": [1]}))
        self.fails("so its rank is not known", "trtllm", self.safetensors("other.safetensors", good))

    def test_nccl_tests(self):
        matrix = [[0, 100, 200], [300, 0, 400], [0, 0, 512]]
        path = self.write("m.txt", "".join(" ".join(map(str, row)) + "\n" for row in matrix))
        db = self.take("nccl-tests", path, path)
        self.assertEqual(self.edges(db), {(seq, i, j): matrix[i][j] for seq in (0, 1) for i in range(3) for j in range(3)})
        received = {(dst, src): size for src, dst, size in
                    db.execute("SELECT src_rank, dst_rank, bytes FROM recv_edges WHERE seq = 1")}
        self.assertEqual(received, {(j, i): matrix[i][j] for i in range(3) for j in range(3)})
        done = subprocess.run([TOOL, "matrix", self.out, "--seq", "0", "--format", "nccl-tests"], capture_output=True,
                              text=True, check=True)
        self.assertEqual([line.split() for line in done.stdout.splitlines()], [[str(v) for v in r] for r in matrix])
        self.fails("must be square", "nccl-tests", self.write("b.txt", "1 2\n"))
        two = self.write("two.txt", "1 2\n3 4\n")
        self.fails("a matrix of 2 ranks, where those before have 3", "nccl-tests", path, two)

    def edges(self, db):
        return {(seq, src, dst): size for seq, src, dst, size in
                db.execute("SELECT seq, src_rank, dst_rank, bytes FROM edges")}

    def test_matrices(self):
        series = [[[s + 3 * i + j for j in range(16)] for i in range(16)] for s in range(4)]
        wanted = {(s, i, j): 7 * series[s][i][j] for s in range(4) for i in range(16) for j in range(16)}
        text = "\n\n".join("\n".join(",".join(map(str, row)) for row in m) for m in series) + "\n"
        for path in (npyfile.write(self.dir / "s.npy", series, "<i4"), self.write("s.txt", "# tokens\n" + text)):
            db = self.take("matrices", path, "--token-bytes", 7)
            self.assertEqual(self.edges(db), wanted)
            self.assertEqual(db.execute("SELECT DISTINCT role, token_bytes FROM exchange_label").fetchall(),
                             [("dispatch", 7)])
        deep = [[series[0], series[1]], [series[2], series[3]]]
        db = self.take("matrices", npyfile.write(self.dir / "d.npy", deep, "<i4"), "--axes", "step,layer,src,dst")
        self.assertEqual(db.execute("SELECT count(DISTINCT layer), count(DISTINCT step) FROM exchange_label").fetchall(),
                         [(2, 2)])
        self.fails("no series of square matrices", "matrices", npyfile.write(self.dir / "b.npy", [[1, 2, 3]] * 2, "<i4"))
        self.fails("is the file truncated?", "matrices", self.write("t.txt", "1 2\n3 4\n\n1 2\n"))
        self.fails("3 numbers where the rows before have 2", "matrices", self.write("u.txt", "1 2\n3 4 5\n"))
        self.fails("not a whole number of tokens", "matrices", self.write("v.txt", "1 x\n3 4\n"))
        self.fails("no matrix in it", "matrices", self.write("e.txt", "# nothing\n"))

    def test_topk_axes(self):
        """The same ids under every order of axes, both byte orders, C and Fortran order."""
        rng = random.Random(1)
        ids = {(r, t, layer): rng.sample(range(8), 2) for r in range(2) for t in range(4) for layer in range(3)}
        wanted = collections.defaultdict(collections.Counter)
        for (r, t, layer), pair in ids.items():
            wanted[t // 2, layer, None, r, None, "decode"].update(pair)
        wanted = {k: dict(v) for k, v in wanted.items()}

        def nest(axes, index=()):
            sizes = {"request": 2, "token": 4, "layer": 3, "k": 2}
            if len(index) == len(axes):
                at = dict(zip(axes, index))
                return ids[at["request"], at["token"], at["layer"]][at["k"]]
            return [nest(axes, index + (i,)) for i in range(sizes[axes[len(index)]])]

        for n, (axes, dtype, fortran, version) in enumerate([
                (("request", "token", "layer", "k"), "|u1", False, 1), (("token", "layer", "request", "k"), ">i2", True, 2),
                (("k", "layer", "token", "request"), "<i8", False, 3), (("layer", "request", "k", "token"), ">i8", True, 1)]):
            path = npyfile.write(self.dir / f"t{n}.npy", nest(axes), dtype, fortran=fortran, version=version)
            db = self.take("topk", path, "--axes", ",".join(axes), "--stage", "decode", "--step-tokens", 2, "--keep-ids")
            self.assertEqual(self.rows(db), wanted)
            kept = db.execute("SELECT r.request, r.step, i.width, i.ids FROM routing_ids i JOIN routing r USING "
                              "(routing_id) WHERE r.layer = 1 ORDER BY 1, 2").fetchall()
            self.assertEqual([(r, s, w, list(b)) for r, s, w, b in kept],
                             [(r, s, 1, ids[r, 2 * s, 1] + ids[r, 2 * s + 1, 1]) for r in range(2) for s in range(2)])
        by_step = self.take("topk", self.dir / "t0.npy", "--by", "step", "--step-tokens", 1)
        self.assertEqual(len(self.rows(by_step)), 12)
        by_request = self.take("topk", self.dir / "t0.npy", "--by", "request")
        self.assertEqual(len(self.rows(by_request)), 6)

    def test_topk_bad(self):
        good = [[[0, 1], [1, 2]], [[2, 3], [0, 3]]]
        write = npyfile.write
        self.fails("does not fit the axes", "topk", write(self.dir / "a.npy", good), "--axes", "token,k")
        self.fails("does not fit the axes", "topk", write(self.dir / "a.npy", good), "--axes", "token,layer,layers")
        self.fails("say what its axes are", "topk", write(self.dir / "b.npy", [1, 2, 3]))
        self.fails("truncated: its shape [2, 2, 2] needs 64 bytes of data, 60 are there", "topk",
                   write(self.dir / "c.npy", good, cut=4))
        self.fails("truncated within the header", "topk", write(self.dir / "d.npy", good, cut=100))
        self.fails("expert 9 at request 0, token 0, layer 1", "topk", write(self.dir / "e.npy", [[[0, 1], [1, 9]]]),
                   "--experts", 8)
        self.fails("no whole number from 0", "topk", write(self.dir / "f.npy", [[[0, -1]]]))
        self.fails("twice expert 3", "topk", write(self.dir / "g.npy", [[[3, 3]]]))
        self.fails("there is nothing in it", "topk", write(self.dir / "h.npy", [], shape=(0, 2, 2)))
        self.fails("not a usable .npy file: it does not begin as one", "topk", self.write("i.npy", "PICKLE of something"))
        path = self.dir / "j.npy"
        path.write_bytes((self.dir / "a.npy").read_bytes().replace(b"'<i8'", b"'|O8'"))
        self.fails("data type 'O8'", "topk", path)
        path.write_bytes((self.dir / "a.npy").read_bytes().replace(b"(2, 2, 2)", b"(2, 2, 2**60,)"))
        self.fails("its shape cannot be read", "topk", path)
        self.fails("3 ranks do not divide 4 experts", "topk", self.dir / "a.npy", "--ranks", 3)
        self.fails("nothing is left to import", "topk", self.dir / "a.npy", "--skip-tokens", 5)

    def test_command_line(self):
        self.fails("there is no format 'megatrom'; did you mean 'megatron'?", "megatrom", "x", status=2)
        self.fails("which files?", "counts", status=2)
        done = call("counts", "x")
        self.assertEqual((done.returncode, "where to? Give -o OUT" in done.stderr), (2, True))
        good = self.write("g.csv", "expert,count\n0,1\n")
        self.fails("does not divide", "counts", good, "--ranks", 3, "--experts", 8, status=2)
        self.take("counts", good)
        again = call("counts", good, "-o", self.out)
        self.assertEqual(again.returncode, 1)
        directory = call("counts", good, "-o", self.dir / "trace")
        self.assertEqual(directory.returncode, 0)
        self.assertTrue((self.dir / "trace" / "trace.db").exists())

    # ---- what is wrong with data ------------------------------------------------------------------

    def codes(self, db):
        return {code for code, in db.execute("SELECT code FROM diagnostic WHERE severity = 'warning'")}

    def test_traps(self):
        rng = random.Random(2)

        def token(skew=1.0):
            return rng.sample(range(16), 2)

        clean = [[token(), token()] for _ in range(400)]
        self.assertEqual(self.codes(self.take("topk", npyfile.write(self.dir / "c.npy", clean))), set())
        copied = [[a, a] for a, _ in clean]
        self.assertEqual(self.codes(self.take("topk", npyfile.write(self.dir / "d.npy", copied))),
                         {"import_copied_layer"})
        flat = [[a, [3, 5]] for a, _ in clean]
        db = self.take("topk", npyfile.write(self.dir / "f.npy", flat))
        self.assertEqual(self.codes(db), {"import_degenerate_layer"})
        self.assertIn("layer 1 is degenerate", self.said)
        warm = [[[0, 1], [2, 3]]] * 64 + clean
        path = npyfile.write(self.dir / "w.npy", warm)
        self.assertEqual(self.codes(self.take("topk", path)), {"import_warm_up"})
        self.assertIn("--skip-tokens 64", self.said)
        self.assertEqual(self.codes(self.take("topk", path, "--skip-tokens", 64)), set())
        steps = "step,expert,count\n" + "".join(
            f"{s},{e},{(900 if e == 0 else 5) if s < 3 else 100 + rng.randrange(10)}\n"
            for s in range(40) for e in range(16))
        path = self.write("s.csv", steps)
        self.assertEqual(self.codes(self.take("counts", path)), {"import_warm_up"})
        self.assertIn("--skip-steps 3", self.said)
        self.assertEqual(self.codes(self.take("counts", path, "--skip-steps", 3)), set())
        period = [token() for _ in range(17)]
        looping = [[[token()] for _ in range(400)], [[token()] for _ in range(150)] + [[period[t % 17]] for t in range(250)]]
        db = self.take("topk", npyfile.write(self.dir / "l.npy", looping))
        self.assertEqual(self.codes(db), {"import_repetition_loop"})
        self.assertIn("1 of 2 requests end in a loop", self.said)

    # ---- joining ----------------------------------------------------------------------------------

    def captured(self, matrices, labels=True, ranks=2):
        path = self.dir / "captured.db"
        path.unlink(missing_ok=True)
        tracegen.simple(path, matrices)
        db = sqlite3.connect(path)
        if labels:
            db.execute("INSERT INTO exchange_label (exchange_id, role, step, layer, token_bytes, confidence, source) "
                       "SELECT exchange_id, 'dispatch', seq / 2, seq % 2, 10, 1, 'test' FROM exchange")
            db.commit()
        db.close()
        return path

    def test_into(self):
        """Two ranks, four experts, two layers, two steps; bytes are 10 a token."""
        rng = random.Random(4)
        counts = {(s, layer, r, e): rng.randrange(1, 9) for s in range(2) for layer in range(2) for r in range(2)
                  for e in range(4)}
        matrices = [[[10 * (counts[s, layer, r, 2 * d] + counts[s, layer, r, 2 * d + 1]) for d in range(2)]
                     for r in range(2)] for s in range(2) for layer in range(2)]
        trace = self.captured(matrices)
        text = "step,layer,rank,expert,count\n" + "".join(
            f"{s + 50},{layer + 3},{r},{e},{n}\n" for (s, layer, r, e), n in counts.items())
        path = self.write("c.csv", text)
        before = trace.read_bytes()
        db = self.take("counts", path, "--into", trace)
        self.assertEqual(trace.read_bytes(), before)
        joined = db.execute("SELECT r.step, r.layer, r.source_rank, r.verified, e.seq, m.rank FROM routing r JOIN exchange "
                            "e USING (exchange_id) JOIN member m USING (member_id) ORDER BY 1, 2, 3").fetchall()
        self.assertEqual(joined, [(s, layer, r, 1, 2 * s + layer, r) for s in range(2) for layer in range(2)
                                  for r in range(2)])
        cells = {(s, layer, r, e): n for s, layer, r, e, n in
                 db.execute("SELECT step, layer, source_rank, expert, tokens FROM routing_cell")}
        self.assertEqual(cells, counts)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        # counts that are not those of the payload are joined, but not verified
        wrong = self.write("w.csv", text.replace("50,3,0,0,", "50,3,0,0,9"))
        db = self.take("counts", wrong, "--into", trace)
        self.assertEqual(db.execute("SELECT step, layer, source_rank FROM routing WHERE NOT verified").fetchall(),
                         [(0, 0, 0)])

    def test_into_synthetic(self):
        """Counts taken from a synthetic trace, joined to the same one made without them: all are verified."""
        def synth(name, *more):
            subprocess.run([TOOL, "synth", "-q", "-o", self.dir / name, "--ranks", "8", "--experts", "64", "--topk", "4",
                            "--steps", "6", "--layers", "2", *more], check=True, timeout=300)
            return self.dir / name
        source = sqlite3.connect(synth("with.db"))
        cells = source.execute("SELECT step, layer, source_rank, expert, tokens FROM routing_cell").fetchall()
        source.close()
        path = self.write("c.csv", "step,layer,rank,expert,count\n" + "".join("%d,%d,%d,%d,%d\n" % c for c in cells))
        db = self.take("counts", path, "--into", synth("without.db", "--no-routing"))
        self.assertEqual(db.execute("SELECT count(*), sum(verified), count(exchange_id) FROM routing").fetchall(),
                         [(96, 96, 96)])
        self.assertEqual(sorted(db.execute("SELECT step, layer, source_rank, expert, tokens FROM routing_cell")),
                         sorted(cells))

    def test_into_refused(self):
        trace = self.captured([[[1, 2], [3, 4]]] * 4)

        def counts(steps=2, layers=2, ranks=2):
            return self.write("r.csv", "step,layer,rank,expert,count\n" + "".join(
                f"{s},{layer},{r},{e},1\n" for s in range(steps) for layer in range(layers) for r in range(ranks)
                for e in range(4)))
        self.fails("its dispatches have 2 layers, the counts 3", "counts", counts(layers=3), "--into", trace)
        self.fails("its dispatches have 2 steps, the counts 1", "counts", counts(steps=1), "--into", trace)
        self.fails("no communicator of 4 ranks", "counts", counts(ranks=4), "--into", trace)
        plain = self.write("p.csv", "expert,count\n0,1\n")
        self.fails("the counts name no ranks", "counts", plain, "--into", trace)
        unlabelled = self.captured([[[1, 2], [3, 4]]] * 4, labels=False)
        self.fails("none is labelled as a dispatch", "counts", counts(), "--into", unlabelled)

    def test_into_unseen_backend(self):
        """A backend whose bytes cannot be seen: a communicator, no exchanges."""
        path = self.dir / "dark.db"
        trace = tracegen.Trace(path)
        run = trace.run("20261122-101500-00000001")
        trace.comm("00c0ffee00c0ffee", 2, {r: trace.process(r, run) for r in range(2)})
        trace.close()
        text = "step,layer,rank,expert,count\n" + "".join(f"7,3,{r},{e},{e + 1}\n" for r in range(2) for e in range(4))
        db = self.take("counts", self.write("c.csv", text), "--into", path)
        self.assertEqual(db.execute("SELECT step, layer, source_rank, exchange_id, c.key FROM routing JOIN communicator c "
                                    "USING (comm_id) ORDER BY 3").fetchall(),
                         [(7, 3, 0, None, "00c0ffee00c0ffee"), (7, 3, 1, None, "00c0ffee00c0ffee")])

    # ---- real files -------------------------------------------------------------------------------

    def compare(self, db, name, experts):
        """Every metric of verified_metrics.csv, from the imported counts."""
        layers = collections.defaultdict(lambda: [0] * experts)
        for layer, expert, tokens in db.execute("SELECT layer, expert, sum(tokens) FROM routing_cell GROUP BY 1, 2"):
            layers[layer][expert] = tokens
        with open(DATA / "verified_metrics.csv", encoding="utf-8") as f:
            known = {int(row["layer"]): row for row in csv.DictReader(f) if row["set"] == name}
        self.assertEqual(set(layers), set(known), name)
        for layer, x in layers.items():
            row, total = known[layer], sum(x)
            self.assertEqual(total, int(row["assignments"]))
            mean = total / experts
            entropy = -sum(v / total * math.log(v / total) for v in x if v) / math.log(experts)
            cv = math.sqrt(sum((v - mean) ** 2 for v in x) / experts) / mean
            ranks = [sum(x[i * experts // 8:(i + 1) * experts // 8]) for i in range(8)]
            for found, column in ((gini(x), "gini"), (max(x) / mean, "max_over_mean"), (entropy, "norm_entropy"),
                                  (cv, "cv"), (sum(v == 0 for v in x), "zero_experts"), (gini(ranks), "gini_rank8"),
                                  (8 * max(ranks) / total, "max_over_mean_rank8_contiguous")):
                if row[column]:
                    self.assertAlmostEqual(found, float(row[column]), 5, f"{name}, layer {layer}, {column}")

    @real_data
    def test_real_counts(self):
        path = DATA / "olmoe_mixtral_expert_counts.csv"
        with open(path, encoding="utf-8") as f:
            sets = {(row["model"], row["domain"]) for row in csv.DictReader(f)}
        self.assertEqual(len(sets), 13)
        for model, domain in sorted(sets):
            db = self.take("counts", path, "--where", f"model={model}", "--where", f"domain={domain}")
            self.compare(db, f"{model}|{domain}", 8 if "Mixtral" in model else 64)

    @real_data
    def test_real_ids(self):
        with open(DATA / "verified_metrics.csv", encoding="utf-8") as f:
            names = {row["set"] for row in csv.DictReader(f)}
        gpt = next(n for n in names if "gpt-oss" in n.lower())
        db = self.take("topk", DATA / "gptoss20b_decode_topk.npy", "--stage", "decode", "--by", "step")
        self.compare(db, gpt, 32)
        with open(DATA / "gptoss20b_decode_counts.csv", encoding="utf-8") as f:
            known = {(int(r["layer"]), int(r["expert"])): int(r["count"]) for r in csv.DictReader(f)}
        found = {(layer, e): n for layer, e, n in
                 db.execute("SELECT layer, expert, sum(tokens) FROM routing_cell GROUP BY 1, 2")}
        self.assertEqual(found, known)
        self.assertIn("import_repetition_loop", self.codes(db))
        flame = [n for n in names if "flame" in n.lower()]
        prefill = next(n for n in flame if "prefill" in n.lower() or len(flame) == 1)
        db = self.take("topk", DATA / "flame290m_prefill_topk.npy", "--axes", "layer,token,k", "--layer-base", 2,
                       "--experts", 64, "--stage", "prefill")
        self.compare(db, prefill, 64)


if __name__ == "__main__":
    unittest.main(verbosity=1)

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope synth and skewscope time from outside: what is written, what is refused, what is said."""
import contextlib
import json
import os
import pathlib
import re
import sqlite3
import subprocess
import tempfile
import unittest

TOOL = os.environ["SKEWSCOPE_TOOL"]
ROOT = pathlib.Path(__file__).resolve().parents[2]


def tool(*arguments, code=0):
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    assert done.returncode == code, (arguments, done.returncode, done.stdout[-2000:], done.stderr)
    return done


def query(path, sql):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


class Case(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.dir = pathlib.Path(holder.name)

    def synth(self, name, *options):
        out = self.dir / name
        tool("synth", "-q", "-o", out, *options)
        return out, json.loads((out / "truth.json").read_text(encoding="utf-8"))

    def time(self, *arguments):
        return json.loads(tool("time", "--json", *arguments).stdout)


SMALL = ("--ranks", "4", "--experts", "16", "--topk", "2", "--layers", "2", "--steps", "30", "--tokens", "64")


class Synth(Case):
    TABLES = ("exchange", "vector", "device_time", "exchange_label", "routing", "member", "process", "run", "meta")

    def dump(self, out):
        return [query(out / "trace.db", f"SELECT * FROM {t}") for t in self.TABLES]

    def test_equal_settings_give_equal_rows(self):
        options = (*SMALL, "--correlation", "ar1", "--straggler", "1:5000:0.3:1", "--lost", "0.01", "--backward")
        first, truth = self.synth("a", *options)
        again, _ = self.synth("b", *options)
        self.assertEqual(self.dump(first), self.dump(again))
        spec = self.dir / "spec.json"
        spec.write_text(json.dumps(truth["spec"]), encoding="utf-8")
        read, read_truth = self.synth("c", "--spec", spec)
        self.assertEqual(self.dump(first), self.dump(read))
        self.assertEqual(truth, read_truth)
        other, _ = self.synth("d", "--spec", spec, "--seed", "2")
        self.assertNotEqual(self.dump(first)[1], self.dump(other)[1])

    def test_says_what_it_is_and_never_overwrites(self):
        out, _ = self.synth("a", *SMALL)
        db = out / "trace.db"
        self.assertEqual(query(db, "SELECT value FROM meta WHERE key = 'origin'"), [("synth",)])
        self.assertEqual(json.loads(query(db, "SELECT command FROM run")[0][0])[:2], ["skewscope", "synth"])
        self.assertIn(("synthetic", "1"), query(db, "SELECT key, value FROM run_label"))
        before = db.read_bytes()
        self.assertIn("is there already", tool("synth", "-o", out, *SMALL, code=1).stderr)
        self.assertEqual(db.read_bytes(), before)
        db.unlink()
        self.assertIn("truth.json", tool("synth", "-o", out, *SMALL, code=1).stderr)
        self.assertEqual([p.name for p in out.iterdir()], ["truth.json"])
        one = self.dir / "one.db"
        tool("synth", "-q", "-o", one, *SMALL)
        self.assertTrue(one.exists() and (self.dir / "one.truth.json").exists())

    def test_refuses(self):
        shares = self.dir / "shares.csv"
        shares.write_text("layer,expert,share\n0,3,x\n", encoding="utf-8")
        places = self.dir / "places.csv"
        places.write_text("-1,0,1\n", encoding="utf-8")
        spec = self.dir / "spec.json"
        spec.write_text('{"rnaks": 3}', encoding="utf-8")
        out = ("-o", self.dir / "x")
        for code, arguments, text in (
                (2, [], "-o OUT"), (2, [*out, "--ranks", "1"], "ranks: '1' is not allowed"),
                (2, [*out, "--routing", "zapf"], "uniform,zipf"), (2, [*out, "--straggler", "x"], "RANK:NANOSECONDS"),
                (2, [*out, "--spec", spec], "rnaks"), (1, [*out, "--experts", "65"], "no multiple of 8"),
                (1, [*out, "--ranks-per-node", "3"], "does not divide"),
                (1, [*out, "--routing", "shares", "--shares", shares], "line 2"),
                (1, [*out, "--placement", places], "layer 0 gives rank 0"),
                (1, ["-o", self.dir / "y.db", "--ranks-per-node", "4"], "directory")):
            with self.subTest(arguments=arguments):
                self.assertIn(text, tool("synth", *arguments, code=code).stderr)
        self.assertFalse((self.dir / "x" / "trace.db").exists())

    def test_counts_and_bytes_agree(self):
        out, truth = self.synth("a", *SMALL, "--placement", "permuted", "--backward", "--tokens-cv", "0.3", "--steps", "4")
        db, token = out / "trace.db", 2048 * 2
        edges = {(e, d): b for e, d, b in query(db, "SELECT exchange_id, dst_rank, bytes FROM edges")}
        info = {r[0]: r for r in query(db, "SELECT exchange_id, role, step, layer, rank FROM exchange_info")}
        where = {(l, e): r for l, e, r in query(db, "SELECT layer, expert, rank FROM placement")}
        self.assertEqual(where[1, 5], truth["layers"][1]["rank_of"][5])
        by_call = {}
        for exchange, layer, expert, tokens in query(db, "SELECT exchange_id, layer, expert, tokens FROM routing_cell"):
            key = exchange, where[layer, expert]
            by_call[key] = by_call.get(key, 0) + tokens * token
        dispatches = {k: b for k, b in edges.items() if info[k[0]][1] == "dispatch"}
        self.assertEqual(dispatches, by_call)
        self.assertEqual(len(dispatches), 4 * 2 * 4 * 4)
        matrix = {(i[1], i[2], i[3], i[4], d): b for (e, d), b in edges.items() for i in [info[e]]}
        for (role, step, layer, src, dst), size in matrix.items():
            twin = {"dispatch": ("combine_bwd", src, dst), "combine": ("dispatch", dst, src),
                    "dispatch_bwd": ("combine", src, dst), "combine_bwd": ("dispatch", src, dst)}[role]
            self.assertEqual(size, matrix[twin[0], step, layer, twin[1], twin[2]])
        self.assertEqual(query(db, "SELECT sum(tokens) * 2 FROM routing"), query(db, "SELECT sum(tokens) FROM routing_cell"))
        self.assertEqual(query(db, "SELECT count(*) FROM edges e JOIN recv_edges r ON r.comm_id = e.comm_id AND r.seq = e.seq"
                                   " AND r.src_rank = e.src_rank AND r.dst_rank = e.dst_rank WHERE r.bytes <> e.bytes"), [(0,)])

    def design_effect(self, *options):
        out, truth = self.synth("-".join(options).replace("/", "_") or "iid", "--ranks", "2", "--experts", "16", "--topk",
                                "4", "--layers", "1", "--steps", "600", "--tokens", "96", "--routing", "uniform", *options)
        counts = [t for t, in query(out / "trace.db", "SELECT tokens FROM routing_cell")]
        mean = sum(counts) / len(counts)
        variance = sum((c - mean) ** 2 for c in counts) / len(counts)
        return variance / (96 * 0.25 * 0.75), truth["design_effect"]["step"]

    def test_variance_is_as_stated(self):
        for options in ((), ("--sampling", "counts"), ("--correlation", "bursts", "--design-effect", "6"),
                        ("--correlation", "bursts", "--design-effect", "2.5"),
                        ("--correlation", "requests", "--requests", "8", "--request-steps", "1", "--topics", "512")):
            with self.subTest(options=options):
                seen, stated = self.design_effect(*options)
                # 19,200 counts, a few per mille of error; inclusion in the stated one is asymptotic
                self.assertLess(abs(seen / stated - 1), 0.08, (seen, stated))

    def test_what_is_lost_is_counted(self):
        out, _ = self.synth("a", *SMALL, "--lost", "0.05", "--missing", "2")
        db = out / "trace.db"
        self.assertEqual(query(db, "SELECT rank FROM member ORDER BY rank"), [(0,), (1,), (3,)])
        stored, returned, lost = query(db, "SELECT sum(stored_groups), sum(returned_groups), (SELECT sum(exchanges) FROM loss)"
                                           " FROM process")[0]
        self.assertEqual((returned, stored + lost), (3 * 120, 3 * 120))
        self.assertEqual(query(db, "SELECT count(*) FROM exchange"), [(stored,)])
        self.assertEqual(query(db, "SELECT sum(sends), sum(recvs) FROM loss_edge"), [(lost * 4, lost * 4)])
        self.assertTrue(5 < lost < 40)
        self.assertEqual(query(db, "SELECT sum(missing_groups) FROM coverage"), [(0,)])

    def test_several_nodes(self):
        out, truth = self.synth("a", *SMALL, "--ranks-per-node", "2", "--clock-offset-ns", "1e6", "--clock-drift-ppb", "5000")
        files = sorted(p.name for p in out.glob("*.db"))
        self.assertEqual(files, ["trace-node0000.db", "trace-node0001.db"])
        self.assertEqual([c["offset_ns"] for c in truth["clocks"][:2]], [0, 0])
        offset = truth["clocks"][2]["offset_ns"]
        self.assertEqual(offset, truth["clocks"][3]["offset_ns"])
        self.assertNotEqual(offset, 0)
        keys = {query(out / f, "SELECT key FROM communicator")[0] for f in files}
        self.assertEqual(len(keys), 1)
        self.assertEqual(len({query(out / f, "SELECT value FROM meta WHERE key = 'node'")[0] for f in files}), 2)
        ends = [query(out / f, "SELECT end_ns FROM device_time WHERE group_seq = 0 AND member_id = 1")[0][0] for f in files]
        drift = truth["clocks"][2]["drift_ppb"] * 1e-9 * 1e9
        self.assertLess(abs(ends[1] - ends[0] - offset - drift), 20000)


class Time(Case):
    OPTIONS = ("--routing", "dirichlet", "--steps", "60", "--experts", "32")

    def test_parameters_and_keys(self):
        out, truth = self.synth("a", *self.OPTIONS, "--straggler", "3:60000:0.2")
        answer = self.time(out, "--save")
        slope = answer["transfer"]["slope_ns"]
        self.assertEqual(answer["transfer"]["model"], "linear")
        self.assertLess(abs(slope["value"] - truth["spec"]["beta"]), 3 * slope["se"])
        late = {(e["step"], e["rank"]) for e in truth["late"]}
        self.assertEqual({(e["step"], e["rank"]) for e in answer["stragglers"]["events"]}, late)
        self.assertEqual(len(answer["ledger"]), 12)
        self.assertEqual(answer["ledger"][0]["cause"], "late rank")
        self.assertEqual(answer["ledger"][0]["rank"], 3)
        spans = [s["span_ns"] for s in truth["steps"]]
        self.assertLess(abs(answer["headline"]["step_ns"]["value"] / (sum(spans) / len(spans)) - 1), 0.01)
        words = set(re.findall(r"\w+", (ROOT / "docs/time.md").read_text(encoding="utf-8")))

        def keys(value):
            if isinstance(value, dict):
                for k, v in value.items():
                    yield k
                    yield from keys(v) if k not in ("coverage", "own_cost") else ()
            elif isinstance(value, list):
                for v in value[:1]:
                    yield from keys(v)
        roles = {"dispatch", "combine", "combine_bwd", "dispatch_bwd", "unknown"}
        self.assertEqual(sorted(set(keys(answer)) - words - roles), [])
        saved = query(out / "trace.db", "SELECT count(*) FROM metric WHERE analysis = 'time'")[0][0]
        self.assertGreater(saved, 20)
        [row] = query(out / "trace.db", "SELECT value, low, high FROM metric WHERE name = 'transfer.slope_ns'")
        for stored, key in zip(row, ("value", "low", "high")):  # JSON has 12 digits
            self.assertLess(abs(stored / slope[key] - 1), 1e-10)
        self.time(out, "--save")
        self.assertEqual(query(out / "trace.db", "SELECT count(*) FROM metric WHERE analysis = 'time'"), [(saved,)])

    def test_clocks(self):
        one, _ = self.synth("one", *self.OPTIONS)
        several, truth = self.synth("several", *self.OPTIONS, "--ranks-per-node", "4", "--clock-offset-ns", "1e8",
                                    "--clock-drift-ppb", "2000")
        reference = self.time(one)
        self.assertEqual(reference["clocks"], "one")
        wait = "wait_mean_ns"
        related = self.time(several)  # nothing is saved yet: fitted on the way
        self.assertEqual(related["clocks"], "fitted")
        for part in (wait, "transfer_ns", "skew_ns"):
            self.assertLess(abs(related["roles"]["combine"][part] - reference["roles"]["combine"][part]), 1000, part)
        for i, f in enumerate(sorted(several.glob("*.db"))):
            clock = truth["clocks"][4 * i]
            with contextlib.closing(sqlite3.connect(f)) as db:
                key = query(several / "trace-node0000.db", "SELECT key FROM process WHERE world_rank = 0")[0][0]
                db.execute("INSERT INTO clock_fit SELECT process_id, ?, 0, ?, ?, 200, 100 FROM process",
                           (key, round(-clock["offset_ns"]), round(-clock["drift_ppb"])))
                db.commit()
        fitted = self.time(several)
        self.assertEqual((fitted["clocks"], fitted["clock_residual_ns"]), ("fitted", 200))
        for part in (wait, "transfer_ns", "skew_ns"):
            self.assertLess(abs(fitted["roles"]["combine"][part] - reference["roles"]["combine"][part]), 500, part)

    def test_says_what_it_cannot(self):
        host, _ = self.synth("host", *SMALL, "--no-device-time")
        text = tool("time", host).stdout
        self.assertIn("how long exchanges took is not known", text)
        self.assertNotIn("transfer against", text)
        answer = self.time(host)
        self.assertEqual((answer["complete"], answer["headline"]["known"]), (0, False))
        self.assertAlmostEqual(sum(r["last"] for r in answer["host"]["ranks"]), 1)

        counts, _ = self.synth("counts", *self.OPTIONS, "--no-routing")
        answer = self.time(counts)
        self.assertTrue(answer["headline"]["known"])
        self.assertFalse(answer["headline"]["placement_known"])
        self.assertIn("no routing", answer["headline"]["placement_why"])

        missing, _ = self.synth("missing", *SMALL, "--missing", "1")
        self.assertIn("1 of 4 ranks are in no database", tool("time", missing).stdout)

        flat, _ = self.synth("flat", *self.OPTIONS, "--transfer", "none", "--noise-ns", "2000", "--seed", "5")
        self.assertIn("no relation seen", tool("time", flat).stdout)
        self.assertIn("no such", tool("time", self.dir / "nothing", code=1).stderr.lower())
        tool("time", code=2)

    def test_launches_of_a_graph(self):
        out, _ = self.synth("a", *self.OPTIONS)
        with contextlib.closing(sqlite3.connect(out / "trace.db")) as db:
            db.execute("UPDATE exchange_label SET step = NULL")
            db.execute("UPDATE device_time SET launch_id = 1 + member_id")  # each process counts its own launches
            db.execute("INSERT INTO device_time (member_id, thread, group_seq, launch_id, source, start_ns, end_ns, error_ns)"
                       " SELECT member_id, thread, group_seq, launch_id + 100, source,"
                       " start_ns + 1000000000, end_ns + 1000000000, error_ns FROM device_time")
            db.commit()
        answer = self.time(out)
        self.assertEqual((answer["exchanges"], answer["complete"]), (2 * 480, 2 * 480))
        self.assertEqual(answer["transfer"]["model"], "linear")
        self.assertIn("steps of 960 of 960 exchanges could not be told", answer["headline"]["why"])
        self.assertEqual(answer["stragglers"]["ranks"], [])

    def test_what_computation_hides(self):
        """`time` and `overlap` say the same of the same kernels, as exactly as those are known."""
        out, _ = self.synth("a", *self.OPTIONS)
        before = self.time(out)["roles"]["combine"]
        self.assertIsNone(before["hidden_ns"])
        with contextlib.closing(sqlite3.connect(out / "trace.db")) as db:
            # Half the last 40 us of every exchange, with gaps; a kernel on another stream that says nothing new; and one of
            # communication, which hides nothing. All of it known, as CUPTI would have it.
            db.execute("UPDATE device_time SET source = 2")
            db.execute("INSERT INTO kernel_name (process_id, name_id, name) SELECT process_id, 1, 'ncclDevKernel_SendRecv' FROM process")
            for span, busy, stream, name in ((40000, 20000, 7, None), (10000, 10000, 8, None), (60000, 60000, 9, 1)):
                db.execute("INSERT INTO kernel (process_id, device, stream, start_ns, end_ns, busy_ns, kernels, name_id)"
                           " SELECT m.process_id, m.device, ?, t.end_ns - ?, t.end_ns, ?, 1, ?"
                           " FROM device_time t JOIN member m USING (member_id)", (stream, span, busy, name))
            db.commit()
        answer = self.time(out, "--rows", "1000")
        after = answer["roles"]["combine"]
        self.assertEqual((answer["overlap_known"], answer["complete"]), (480, 480))
        # both may lie in the gaps of the first, so that they hide at least what one of them does
        self.assertAlmostEqual(after["hidden_ns"]["low"], 20000, delta=1)
        self.assertAlmostEqual(after["hidden_ns"]["high"], 30000, delta=1)
        for side, hidden in (("low", 30000), ("high", 20000)):
            self.assertAlmostEqual(after["exposed_ns"][side], before["exposed_ns"][side] - hidden, delta=1)
        self.assertEqual(after["transfer_ns"], before["transfer_ns"])
        overlap = json.loads(tool("overlap", "--json", "--rows", "100000", out).stdout)["exchanges"]
        self.assertEqual({(x["overlapped_ns"]["low"], x["overlapped_ns"]["high"]) for x in overlap}, {(20000, 30000)})
        for x in answer["ledger"]:
            self.assertAlmostEqual(x["exposed_ns"]["high"] - x["exposed_ns"]["low"], 10000, delta=1)
        exposed = answer["headline"]["exposed_ns"]
        self.assertLess(exposed["low"], exposed["value"] - 4 * 5000 + 1)  # four exchanges a step, each ± 5 us
        self.assertGreater(exposed["high"], exposed["value"] + 4 * 5000 - 1)
        text = tool("time", out).stdout
        self.assertIn("hidden by computation on every rank 20.0 – 30.0 µs", text)

    def test_least_of_the_ranks_is_hidden(self):
        """What some ranks hide delays the others all the same: of the critical path, the least of them counts."""
        out, _ = self.synth("a", *self.OPTIONS)
        with contextlib.closing(sqlite3.connect(out / "trace.db")) as db:
            db.execute("UPDATE device_time SET source = 2")
            db.execute("INSERT INTO kernel (process_id, device, stream, start_ns, end_ns, busy_ns, kernels)"
                       " SELECT m.process_id, m.device, 7, t.end_ns - 1000 * (m.rank + 3), t.end_ns, 1000 * (m.rank + 3), 1"
                       " FROM device_time t JOIN member m USING (member_id)")
            db.commit()
        for role in self.time(out)["roles"].values():
            self.assertEqual(role["hidden_ns"], {"low": 3000, "high": 3000})

    def test_times_that_are_hardly_known(self):
        """Where a device's clock is known worse than an exchange takes, clocks of ranks do not compare."""
        out, _ = self.synth("a", *self.OPTIONS)
        one = self.time(out)
        self.assertEqual((one["clocks"], one["error_ns"]), ("one", query(out / "trace.db", "SELECT max(error_ns) FROM device_time")[0][0]))
        with contextlib.closing(sqlite3.connect(out / "trace.db")) as db:
            db.execute("UPDATE device_time SET error_ns = 5000000")
            # what it is known to: each rank's clock off by ms
            db.execute("UPDATE device_time SET start_ns = start_ns + 1000000 * member_id, end_ns = end_ns + 1000000 * member_id")
            db.commit()
        vague = self.time(out)
        self.assertEqual((vague["clocks"], vague["error_ns"]), ("vague", 5000000))
        for part in ("wait_mean_ns", "transfer_ns"):
            self.assertLess(abs(vague["roles"]["combine"][part] / one["roles"]["combine"][part] - 1), 0.05, part)
        self.assertIn("known to ±5000.0 µs only", tool("time", out).stdout)

    def test_ledger_of_steps(self):
        """A step's savings are those of its exchanges, added up; all of it, from the same answer."""
        out, _ = self.synth("a", *self.OPTIONS, "--straggler", "3:60000:0.2")
        answer = self.time(out, "--rows", "100000")
        of_step = {}
        for x in answer["ledger"]:
            of_step.setdefault(x["step"], []).append(x)
        self.assertEqual(len(answer["steps"]), 60)
        for s in answer["steps"]:
            mine = of_step[s["step"]]
            self.assertEqual(s["exchanges"], len(mine))
            for side in ("low", "high"):
                self.assertAlmostEqual(s["exposed_ns"][side], sum(x["exposed_ns"][side] for x in mine), delta=1)
            # of each exchange the cause that is shown, unless it is what an exchange is
            avoidable = [x for x in mine if x["cause"] not in ("volume", "latency")]
            self.assertAlmostEqual(s["saves_ns"], sum(x["saves_ns"] for x in avoidable), delta=1)
            self.assertAlmostEqual(s["without_ns"]["skew"], sum(max(0, x["skew_ns"]) for x in mine), delta=1)
            worst = max(avoidable, key=lambda x: x["saves_ns"])
            self.assertEqual(s["worst"], {k: worst[k] for k in ("layer", "role", "cause", "rank", "saves_ns")})
        costs = [s["saves_ns"] for s in answer["steps"]]
        self.assertEqual(costs, sorted(costs, reverse=True))
        self.assertTrue(all(s["worst"]["cause"] == "late rank" and s["worst"]["rank"] == 3 for s in answer["steps"][:5]))

    def test_uniform_routing_costs_nothing(self):
        out, _ = self.synth("a", "--routing", "uniform", "--steps", "100", "--seed", "4")
        self.assertIn("no cost of skew beyond chance", tool("time", out).stdout)
        self.assertIn("no rank is late", tool("time", out).stdout)


if __name__ == "__main__":
    unittest.main()

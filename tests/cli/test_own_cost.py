#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much was captured and what recording has cost, beside the result of every command that reads a trace: one line of
text, and the objects `groups` and `own_cost` of --json (docs/cli.md).

The trace is synthetic, so that every number is known; one test has the library measure itself.
"""
import tracegen
from clitest import *

# command line: where the objects are in its JSON (infos and dispatcher's runs are lists of objects)
COMMANDS = {
    "info": lambda j: j[0],
    "matrix": lambda j: j,
    "routing": lambda j: j,
    "router": lambda j: j,
    "skew": lambda j: j,
    "observe": lambda j: j,
    "label": lambda j: j,
    "hang": lambda j: j,
    "time": lambda j: {**j, "groups": j["coverage"]},
    "overlap": lambda j: j,
    "clocks": lambda j: j,
    "dispatcher": lambda j: j,
    "whatif ep": lambda j: j,
    "whatif placement": lambda j: j,
    "whatif schedule": lambda j: j,
}
NOTHING = {"measured": False, "measured_groups": 0, "host_ns_per_group": None, "share_of_wall": None, "setup_ns": 0,
           "device_events": 0, "device_ns_per_pair": None, "cupti_records": 0, "cupti_dropped": 0}


class OwnCost(CliTest):
    def trace(self, name="t", overhead=(), ended=(1_000_000_001, 2_000_000_001), returned=100):
        """Two ranks, 64 dispatches with their tokens by expert; overhead: rows of that table behind process_id."""
        path = self.dir / f"{name}.db"
        trace = tracegen.Trace(path)
        run = trace.run(name)
        processes = [trace.process(r, run, returned=returned, stored=returned) for r in range(2)]
        comm = trace.comm("cd" * 8, 2, dict(enumerate(processes)))
        for call in range(64):
            tokens = [[[3 + (call * 7 + 5 * i + 3 * e) % 11 for e in (2 * j, 2 * j + 1)] for j in range(2)] for i in range(2)]
            first = trace.db.execute("SELECT coalesce(max(exchange_id), 0) FROM exchange").fetchone()[0]
            trace.matrix(comm, [[64 * sum(tokens[i][j]) for j in range(2)] for i in range(2)],
                         label={"role": "dispatch", "layer": 0, "step": call})
            for rank in range(2):
                counts, unit = trace.vector(list(enumerate(tokens[rank][0] + tokens[rank][1])))
                trace.db.execute(
                    "INSERT INTO routing (exchange_id, comm_id, source_rank, step, layer, experts, topk, counts, unit,"
                    " verified, source) VALUES (?, ?, ?, ?, 0, 4, 1, ?, ?, 1, 'tap alltoall')",
                    (first + 1 + rank, comm, rank, call, counts, unit))
        for process, end in zip(processes, ended):
            trace.db.execute("UPDATE process SET ended_ns = ? WHERE process_id = ?", (end, process))
        for process, row in zip(processes, overhead):
            trace.db.execute("INSERT INTO overhead VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (process, *row))
        trace.close()
        return str(path)

    def change(self, path, *statements):
        db = sqlite3.connect(path)
        for sql in statements:
            db.execute(sql)
        db.commit()
        db.close()
        return path

    def ask(self, command, path, *more):
        done = self.skewscope(*command.split(), path, *more)
        # dispatcher: 1, since no dispatcher was selected
        self.assertIn(done.returncode, (0, 1) if command == "dispatcher" else (0,), f"{command}: {done.stderr}")
        return done.stdout

    def check(self, path, text, groups, cost):
        for command, where in COMMANDS.items():
            with self.subTest(command):
                lines = [l for l in self.ask(command, path).splitlines() if "own cost" in l]
                wanted = text.split("; ", 1)[1] if command == "info" else text
                self.assertEqual(lines, [wanted])
                answer = where(json.loads(self.ask(command, path, *(["--format", "json"] if command == "matrix" else ["--json"]))))
                self.assertEqual(answer["groups"], groups)
                self.assertEqual(answer["own_cost"], cost)

    def test_every_command_tells(self):
        path = self.trace(overhead=[(10, 3000, 1_500_000, 40, 550, 7, 2), (30, 3000, 500_000, 60, 600, 0, 0)])
        # rank 0: 300 ns × 100 groups in 1 s; rank 1: 100 ns × 100 groups in 2 s
        self.check(path, "captured 200 of 200 groups; own cost: 150 ns of the host an exchange, at the end of its group (40 measured),"
                   " 0.0030 % of wall time; 2.0 ms once; 100 CUDA events, at most 1200 ns of the device a pair;"
                   " 7 CUPTI records, 2 dropped",
                   {"captured": 200, "of": 200, "lost": 0},
                   {"measured": True, "measured_groups": 40, "host_ns_per_group": 150.0, "share_of_wall": 3e-05,
                    "setup_ns": 2_000_000, "device_events": 100, "device_ns_per_pair": 1200, "cupti_records": 7,
                    "cupti_dropped": 2})

    def test_not_measured(self):
        path = self.trace()
        self.check(path, "captured 200 of 200 groups; own cost: not measured", {"captured": 200, "of": 200, "lost": 0}, NOTHING)

    def test_share_of_a_killed_process_is_not_known(self):
        path = self.trace(overhead=[(4, 1000, 0, 0, None, 0, 0)], ended=(None, None))
        self.assertIn("own cost: 250 ns of the host an exchange, at the end of its group (4 measured), share of wall time not known\n",
                      self.ask("skew", path))
        cost = json.loads(self.ask("skew", path, "--json"))["own_cost"]
        self.assertEqual((cost["host_ns_per_group"], cost["share_of_wall"]), (250.0, None))

    def test_losses_and_several_databases(self):
        """Two nodes' databases: sums, and the largest share; what is missing is said in the same line."""
        both = self.dir / "both"
        both.mkdir()
        for i, row in enumerate([(10, 1000, 0, 0, None, 0, 0), (10, 3000, 0, 0, None, 0, 0)]):
            shutil.move(self.trace(f"n{i}", overhead=[row]), both / f"trace-n{i}.db")
        self.change(both / "trace-n0.db", "UPDATE process SET stored_groups = stored_groups - 30 WHERE world_rank = 0",
                    "INSERT INTO loss (process_id, reason, groups, exchanges, operations, cells) SELECT process_id, 'full', 20,"
                    " 20, 0, 40 FROM process WHERE world_rank = 0")
        self.assertIn("captured 370 of 400 groups: what is missing can look like imbalance; own cost: 200 ns of the host an"
                      " exchange, at the end of its group (20 measured), 0.0030 % of wall time\n", self.ask("label", both))
        answer = json.loads(self.ask("label", both, "--json"))
        self.assertEqual(answer["groups"], {"captured": 370, "of": 400, "lost": 20})
        self.assertEqual(answer["own_cost"]["host_ns_per_group"], 200.0)
        # info tells of each database by itself
        each = json.loads(self.ask("info", both, "--json"))
        self.assertEqual([i["own_cost"]["host_ns_per_group"] for i in each], [100.0, 300.0])

    def test_a_trace_of_before_the_table(self):
        path = self.change(self.trace(), "DROP TABLE overhead")
        self.assertIn("own cost: not measured\n", self.ask("hang", path))
        self.assertEqual(json.loads(self.ask("info", path, "--json"))[0]["own_cost"], NOTHING)

    def test_what_was_not_captured(self):
        path = self.change(self.trace(), "UPDATE process SET returned_groups = 0, stored_groups = 0")
        self.assertIn("no capture stands behind this trace: it is imported or synthetic, or nothing was captured\n", self.ask("skew", path))
        self.assertNotIn("own cost", self.ask("info", path))
        self.assertEqual(json.loads(self.ask("skew", path, "--json"))["own_cost"], NOTHING)

    def test_as_the_library_measured_it(self):
        done = self.run_command(EXCHANGES, "1", "2000", env=self.nccl_env())
        self.assertEqual(done.returncode, 0, done.stderr)
        groups, ns = self.query("SELECT sum(measured_groups), sum(measured_ns) FROM overhead")[0]
        cost = json.loads(self.ask("hang", self.out, "--json"))["own_cost"]
        self.assertGreater(groups, 0)
        self.assertEqual(cost["measured_groups"], groups)
        self.assertAlmostEqual(cost["host_ns_per_group"], ns / groups, places=6)
        self.assertGreater(cost["host_ns_per_group"], 0)

    def test_the_first_group_is_setting_up(self):
        """It finds all cold: it must not be in a mean that is multiplied by all groups."""
        for exchanges, measured in ((1, 0), (2, 1)):
            out = str(self.dir / str(exchanges))
            done = self.skewscope("run", "-o", out, "--", EXCHANGES, "1", exchanges, env=self.nccl_env())
            self.assertEqual(done.returncode, 0, done.stderr)
            [(groups, setup)] = self.query("SELECT measured_groups, setup_ns FROM overhead", out=out)
            self.assertEqual(groups, measured)
            self.assertGreater(setup, 0)
            self.assertEqual(json.loads(self.ask("hang", out, "--json"))["own_cost"]["measured"], bool(measured))


if __name__ == "__main__":
    unittest.main(verbosity=2)

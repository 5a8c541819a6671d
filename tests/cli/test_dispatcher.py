#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope dispatcher: what was selected, what worked, what is missing, and two runs beside each other.

Traces of device-initiated backends are synthetic here: kernel names as their sources have them, times made up.
"""
import sqlite3

import tracegen
from clitest import *

WORKLOAD = str(BUILD / "tools" / "workload" / "skewscope-workload")
V2 = ("_ZN7deep_ep7elastic13dispatch_implILb1ELb0ELb0ELi24ELi4ELi8ELi8ELi14336ELi0ELi4096ELi256ELi8ELi1ELi4ELl100000EEEvPv")
# What was at work in each pattern of the workload; None: sizes are padded, and it cannot be told.
PATTERNS = {"megatron": "alltoall", "torchtitan": "alltoall", "fastmoe": "alltoall", "deepspeed": None, "deepspeed-nodrop": "alltoall",
            "autoep": "alltoall", "colossalai": "alltoall", "tutel": "alltoall", "tutel-padded": None, "vllm": "allgather",
            "xla-ragged": "alltoall"}
KERNELS = {
    "DeepEP": [(V2, 10, 5_000_000), ("_ZN7deep_ep7elastic12combine_implILi1EEEvPv", 10, 7_000_000)],
    "HybridEP": [("void hybrid_ep::dispatch_kernel<hybrid_ep::X, 3>(hybrid_ep::X)", 4, 100), ("hybrid_ep::combine_kernel", 4, 200),
                 ("hybrid_ep::device_sync_kernel(int*)", 9, 5)],
    "NCCL EP": [("nccl_ep_jit_ht_dispatch_kernel", 3, 30), ("nccl_ep_jit_ht_combine_kernel", 3, 40)],
}


class Dispatcher(CliTest):
    def synthetic(self, name, backend=None, command=("train.py",), status=0, labels=(), packages=(), comms=True, env=()):
        path = self.dir / name
        path.mkdir()
        trace = tracegen.Trace(path / "trace.db")
        run = trace.run(name, json.dumps(list(command)), status, labels)
        for package, version in packages:
            trace.db.execute("INSERT INTO run_package VALUES (?, ?, ?, ?)", (run, package, version, f"/site/{package}"))
        for key, value in env:
            trace.db.execute("INSERT INTO run_env VALUES (?, ?, ?)", (run, key, value))
        if comms:
            process = trace.process(0, run)
            trace.comm("ab" * 8, 8, {0: process})
            for n, (kernel, count, busy) in enumerate(KERNELS.get(backend, [])):
                trace.db.execute("INSERT INTO kernel_name (process_id, name_id, name) VALUES (?, ?, ?)", (process, n, kernel))
                trace.db.execute("INSERT INTO kernel VALUES (?, 0, 7, 0, ?, ?, ?, ?)", (process, busy, busy, count, n))
        trace.close()
        return str(path)

    def ask(self, *paths, status=0):
        done = self.skewscope("dispatcher", "--json", *paths)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def test_device_backends(self):
        for backend, kernels in KERNELS.items():
            with self.subTest(backend):
                got = self.ask(self.synthetic(backend.replace(" ", "-"), backend))
                self.assertEqual(got["gate"]["verdict"], "worked")
                self.assertIn(backend, got["gate"]["text"])
                working = [s["backend"] for s in got["backends"] if s["working"]]
                self.assertEqual(working, [backend])
        deep = self.ask(self.dir / "DeepEP")["kernels"]["DeepEP V2"]
        self.assertEqual({k: deep[k] for k in ("ranks", "experts", "topk", "hidden_bytes", "max_tokens", "bytes_seen")},
                         {"ranks": 8, "experts": 256, "topk": 8, "hidden_bytes": 14336, "max_tokens": 4096, "bytes_seen": False})
        self.assertEqual((deep["dispatch"], deep["combine"]),
                         ({"kernels": 10, "busy_ns": 5_000_000}, {"kernels": 10, "busy_ns": 7_000_000}))

    def test_selection(self):
        for command, env, backend in (
                (["pretrain.py", "--moe-token-dispatcher-type", "flex", "--moe-flex-dispatcher-backend", "hybridep"], (), "HybridEP"),
                (["pretrain.py", "--moe-token-dispatcher-type=flex", "--moe-enable-deepep"], (), "DeepEP"),
                (["pretrain.py", "--moe-token-dispatcher-type", "alltoall"], (), "alltoall"),
                (["train.py", "--parallelism.expert_parallel_comm_backend=deepep"], (), "DeepEP"),
                (["vllm", "serve", "m"], [("VLLM_ALL2ALL_BACKEND", "deepep_low_latency")], "DeepEP"),
                (["sglang", "--moe-a2a-backend", "mooncake"], (), "Mooncake")):
            with self.subTest(command=command):
                shutil.rmtree(self.dir / "s", ignore_errors=True)
                got = self.ask(self.synthetic("s", command=command, env=env), status=1)
                self.assertIn(backend, [s["backend"] for s in got["selected"]])
                self.assertTrue(got["gate"]["text"].startswith(backend + " was selected"), got["gate"])

    def test_missing(self):
        """Selected and not installed: a limit of the environment; installed and failed: nothing was measured."""
        flex = ["pretrain.py", "--moe-flex-dispatcher-backend", "deepep"]
        for packages, comms, verdict in (([("torch", "2.11")], False, "missing"), ([("torch", "2.11")], True, "missing"),
                                         ([("deep_ep", "1.2")], False, "failed_early"), ([("deep_ep", "1.2")], True, "not_seen")):
            with self.subTest(packages=packages, comms=comms):
                shutil.rmtree(self.dir / "m", ignore_errors=True)
                got = self.ask(self.synthetic("m", command=flex, status=1, packages=packages, comms=comms), status=1)
                self.assertEqual(got["gate"]["verdict"], verdict)
        text = self.skewscope("dispatcher", str(self.dir / "m")).stdout
        self.assertRegex(text, r"(?m)^  DeepEP +installed, not loaded; installed: deep_ep 1.2$")
        self.assertRegex(text, r"(?m)^ended: +with status 1$")
        self.assertIn("measured elsewhere", text)
        self.assertIn("not measured", text)

    def test_failed_run(self):
        """A real run whose model could not be built."""
        self.skewscope("run", "-q", "-o", str(self.dir / "f"), "--", "sh", "-c", "exit 3", "--moe-flex-dispatcher-backend", "hybridep")
        got = self.ask(str(self.dir / "f"), status=1)
        self.assertEqual(got["gate"]["verdict"], "missing")
        self.assertIn("status 3", got["gate"]["text"])
        self.assertIn("before any communicator", got["gate"]["text"])

    def test_guidance(self):
        """By what the labels say, with its source, and never for other hardware."""
        words = {"H100": "Hopper", "GB200": "NVL72", "B200": "NVL8"}
        for hardware, word in words.items():
            shutil.rmtree(self.dir / "g", ignore_errors=True)
            advice = [g["text"] for g in self.ask(self.synthetic("g", "DeepEP", labels=[("hardware", hardware)]))["guidance"]]
            self.assertTrue(any(text.startswith(hardware) and word in text for text in advice), advice)
            self.assertFalse(any(text.startswith(other) for other in words if other != hardware for text in advice), advice)

    def test_hardware_of_the_machine(self):
        """Without a label the driver's word counts, for advice and for what must be equal; a label goes before it."""
        for name, model in (("h", "NVIDIA H200"), ("b", "NVIDIA B200")):
            path = self.synthetic(name, "DeepEP", labels=[("ep", "8")])
            db = sqlite3.connect(path + "/trace.db")
            db.executemany("INSERT INTO run_gpu VALUES (1, ?, ?, '580.65.06')", [(f"0000:{i:02x}:00.0", model) for i in range(8)])
            db.commit()
            db.close()
        got = self.ask(self.dir / "h")
        self.assertEqual(got["gpus"], [{"model": "NVIDIA H200", "driver": "580.65.06", "gpus": 8}])
        self.assertTrue(any(g["text"].startswith("H200 is not named") for g in got["guidance"]), got["guidance"])
        self.assertIn("hardware: NVIDIA H200", self.skewscope("dispatcher", str(self.dir / "h")).stdout)
        compared = self.ask(self.dir / "h", self.dir / "b", status=1)["comparison"]
        self.assertFalse(compared["comparable"])
        self.assertIn("hardware", json.dumps(compared["why_not"]))
        said = self.ask(self.synthetic("l", "DeepEP", labels=[("hardware", "GB200")]))
        self.assertTrue(any(g["text"].startswith("GB200") for g in said["guidance"]), said["guidance"])

    def test_workload(self):
        if not os.path.exists(WORKLOAD):
            self.skipTest("the workload was not built")
        for pattern, backend in PATTERNS.items():
            with self.subTest(pattern):
                out = str(self.dir / pattern)
                done = self.skewscope("run", "-q", "--standin", "-o", out, "--", WORKLOAD, "--pattern", pattern, "--ranks", "4",
                                      "--layers", "2", "--steps", "3", "--bias-allreduce")
                self.assertEqual(done.returncode, 0, done.stderr)
                got = self.ask(out, status=0 if backend else 1)
                self.assertEqual([s["backend"] for s in got["backends"] if s["working"]], [backend] if backend else [])
                self.assertEqual((got["processes"], len(got["hosts"]), got["standin"]), (4, 1, True))
                if not backend: # padded to capacity: whether it is dispatch cannot be told
                    self.assertEqual((got["gate"]["verdict"], got["nccl"], got["stage"]), ("untold", {}, "bring-up"))
                    self.assertGreater(got["untold"], 0)
                    continue
                self.assertEqual((got["gate"]["verdict"], got["ep"], got["stage"]), ("worked", 4, "tuning"))
                # There and back: as many calls, all timed, and the bytes that the matrices have.
                to, back = (got["nccl"]["operations" if backend == "allgather" else "exchanges"][way]
                            for way in ("to_experts", "from_experts"))
                db = sqlite3.connect(os.path.join(out, "trace.db"))
                seen = db.execute("SELECT coalesce(sum(e.send_unit * v.total), 0) FROM exchange e JOIN vector v"
                                  " ON v.vector_id = e.send_vector").fetchone()[0]
                db.close()
                self.assertTrue(to["timed"] == to["calls"] and back["timed"] == back["calls"])
                self.assertGreater(min(to["ns"], back["ns"]), 0)
                if backend == "alltoall":
                    self.assertEqual(to["calls"], back["calls"])
                    self.assertTrue(0 < to["bytes"] == back["bytes"] and 2 * to["bytes"] <= seen)
                share = got["step_share"]
                self.assertEqual(share["steps"], 4 * 2) # the last step of each process has no end
                self.assertTrue(0 < share["least"] <= share["median"] <= share["largest"])
                self.assertGreater(got["enqueue_ns"], 0)
                text = self.skewscope("dispatcher", out).stdout
                for words in ("measured here", "measured elsewhere", "not measured", "share of step time", "enqueueing"):
                    self.assertIn(words, text)

    def test_model_cannot_be_built(self):
        """Megatron's flex dispatcher with DeepEP, whose package is not there: construction fails before any communicator."""
        model = ("import importlib.util, sys\n"
                 "if importlib.util.find_spec('deep_ep') is None:\n"
                 "    sys.exit('ImportError: DeepEP is not installed')\n")
        out = str(self.dir / "flex")
        done = self.skewscope("run", "-q", "-o", out, "--label", "hardware=H100", "--", PYTHON, "-c", model,
                              "--moe-token-dispatcher-type", "flex", "--moe-flex-dispatcher-backend", "deepep")
        self.assertEqual(done.returncode, 1)
        self.assertIn("not installed", done.stderr)
        got = self.ask(out, status=1)
        self.assertEqual((got["gate"]["verdict"], got["comms"], got["stage"]), ("missing", 0, "bring-up"))
        for words in ("DeepEP was selected", "status 1", "before any communicator", "not a result about DeepEP"):
            self.assertIn(words, got["gate"]["text"])
        self.assertEqual([s["working"] for s in got["backends"] if s["backend"] == "DeepEP"], [False])
        text = self.skewscope("dispatcher", out).stdout
        self.assertIn("nothing: no communicator was made", text)
        self.assertIn("failed before the first iteration", text) # the source's own case of it
        # A run that worked is not compared with one that did not.
        got = self.ask(self.synthetic("worked", "HybridEP", labels=[("hardware", "H100")]), out, status=1)["comparison"]
        self.assertFalse(got["comparable"])
        self.assertTrue(any(reason.startswith("the second run: DeepEP was selected") for reason in got["why_not"]))

    def log(self, name, *lines):
        path = self.dir / name
        path.write_text("".join(line + "\n" for line in lines))
        return str(path)

    def test_log(self):
        """What the job printed, by the lines of the frameworks; other lines, colours and broken numbers are passed over."""
        trace = self.synthetic("l", "DeepEP", labels=[("loss", "3.5")])
        step = (" [2026-05-17 10:00:0{0}] iteration        {0}/       5 | consumed samples:          640 | elapsed time per iteration "
                "(ms): {1:.1f} | throughput per GPU (TFLOP/s/GPU): {2:.1f} | learning rate: 1.000000E-04 | lm loss: {3:.6E} | loss "
                "scale: 1.0 | grad norm: 1.000 |")
        megatron = self.log("megatron.log", "noise", step.format(1, 90000, 60, 12), "[Rank 0] (after 1 iterations) memory (MB) | "
                            "allocated: 100.0 | max allocated: 50000.0 | reserved: 60000.0 | max reserved: 70000.0",
                            "[Rank 8] (after 1 iterations) memory (MB) | allocated: 100.0 | max allocated: 58500.0 | reserved: 1 |",
                            step.format(2, 45000, 132, 11.5), step.format(3, 46000, 134, 11.4405),
                            "elapsed time per iteration (ms): 1.2.3")
        bridge = self.log("bridge.log", *(f"Step Time : {t:.2f}s GPU utilization: {f:.1f}MODEL_TFLOP/s/GPU"
                                          for t, f in ((90, 60), (45.5, 132), (45.7, 133))),
                          "[Rank 0] (after 2 iterations) memory (GB) | mem-allocated-gigabytes: 40.5 | "
                          "mem-max-allocated-gigabytes: 61.351 | mem-max-reserved-gigabytes: 70.1")
        titan = self.log("titan.log", *(f"[titan] - root - INFO - \033[31mstep: {n:2}  \033[32mloss: {loss:8.5f}  \033[38;5;208mgrad_norm:"
                                        f"  1.2345  \033[36mmemory: 40.12GiB(50.00%)  \033[34mtps: {tps:,}  \033[36mtflops: "
                                        f"{tps / 100:,.2f}  \033[35mmfu: 30.00%\033[39m"
                                        for n, loss, tps in ((1, 12.1, 1000), (2, 11, 110000), (3, 10.5, 130000))))
        vllm = self.log("vllm.log", *(f"INFO Engine 000: Avg prompt throughput: 5.0 tokens/s, Avg generation throughput: {t} tokens/s, "
                                      "Running: 3 reqs" for t in (10.0, 300.5, 310.5)))
        expected = {megatron: {"step_time": 45.5, "tflops": 133, "loss": 11.4405, "memory": 58500 * 1.048576e-3},
                    bridge: {"step_time": 45.6, "tflops": 132.5, "memory": 61.351},
                    titan: {"loss": 10.5, "memory": 40.12 * 1.073741824, "throughput": 120000, "tflops": 1200},
                    vllm: {"throughput": 305.5}, self.log("none.log", "hello", ""): {}}
        for path, want in expected.items():
            with self.subTest(path):
                printed = self.ask("--log", path, trace)["printed"]
                self.assertEqual(set(printed["values"]), set(want))
                for what, value in want.items():
                    self.assertAlmostEqual(printed["values"][what]["value"], value, places=6)
                    self.assertTrue(printed["values"][what]["source"])
        self.assertEqual(self.ask("--log", megatron, trace)["printed"]["values"]["step_time"]["lines"], 3)
        text = self.skewscope("dispatcher", "--log", megatron, trace).stdout
        self.assertRegex(text, r"step_time +45.5 s +\(printed by the job, Megatron-LM, Megatron-Bridge: mean without the first of 3 lines")
        self.assertRegex(text, r"loss +3.5 +\(the run's own word, by label\)")
        self.assertIn("none of 2 lines is one that is known", self.skewscope("dispatcher", "--log", str(self.dir / "none.log"), trace).stdout)
        done = self.skewscope("dispatcher", "--log", str(self.dir / "absent"), trace)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
        for bad in (["--log", megatron, "--log", bridge, trace], ["--log", "a", "--log", "b", "--log", "c", trace, trace]):
            self.assertEqual(self.skewscope("dispatcher", *bad).returncode, 2)

    def test_regressed(self):
        """The second run is slower: what differs in its configuration, option by option; nothing is named a cause."""
        same = [("model", "m"), ("hardware", "H100")]
        a = self.synthetic("before", "DeepEP", ["pretrain.py", "x", "--moe-enable-deepep", "--seq-length", "4096", "--lr=-1"], labels=same,
                           packages=[("deep_ep", "1.1")], env=[("NCCL_ALGO", "Ring"), ("RANK", "0")])
        b = self.synthetic("after", "DeepEP", ["pretrain.py", "x", "--moe-enable-deepep", "--seq-length", "8192", "--lr=-1", "--fp8"],
                           labels=same + [("memory", "70")], packages=[("deep_ep", "1.2")], env=[("RANK", "1")])
        logs = [self.log(f"{n}.log", *(f"elapsed time per iteration (ms): {t} | lm loss: 2.0 |" for t in (1, time, time)))
                for n, time in (("a", 1000), ("b", 1200))]
        got = self.ask("--log", logs[0], "--log", logs[1], a, b)["comparison"]
        self.assertTrue(got["regressed"])
        self.assertEqual([(r["what"], r["a"], r["b"], r["worse"]) for r in got["reported"]],
                         [("step_time", 1.0, 1.2, True), ("loss", 2.0, 2.0, False)])
        self.assertEqual({d["what"]: (d["a"], d["b"]) for d in got["differs"]},
                         {"option --seq-length": ("4096", "8192"), "option --fp8": (None, ""), "package deep_ep": ("1.1", "1.2"),
                          "variable NCCL_ALGO": ("Ring", None), "label memory": (None, "70")})
        text = self.skewscope("dispatcher", "--log", logs[0], "--log", logs[1], a, b).stdout
        self.assertIn("any of it may be the cause", text)
        self.assertRegex(text, r"option --seq-length: 4096, 8192")
        better = self.ask("--log", logs[1], "--log", logs[0], b, a)["comparison"]
        self.assertEqual((better["regressed"], better["reported"][0]["worse"]), (False, False))
        other = self.synthetic("words", "DeepEP", ["pretrain.py", "y"], labels=same)
        self.assertIn("command", {d["what"] for d in self.ask(a, other)["comparison"]["differs"]})

    def test_padded(self):
        """All sizes are equal: whether it is dispatch cannot be told, and is not claimed."""
        if not os.path.exists(WORKLOAD):
            self.skipTest("the workload was not built")
        out = str(self.dir / "padded")
        self.skewscope("run", "-q", "--standin", "-o", out, "--", WORKLOAD, "--pattern", "deepspeed", "--ranks", "4", "--steps", "2")
        got = self.ask(out, status=1)
        self.assertEqual(got["gate"]["verdict"], "untold")
        self.assertGreater(got["untold"], 0)

    def test_calls_of_nccl_ep(self):
        """A stand-in for NCCL EP that moves nothing: calls were noted, so it was at work, and no bytes are claimed."""
        done = self.run_command(str(BUILD / "tests" / "preload" / "ep_linked_new"), "linked", options=["-q"])
        self.assertEqual(done.returncode, 0, done.stderr)
        calls = {"ncclEpCreateGroup": 1, "ncclEpCreateHandle": 1, "ncclEpDispatch": 3, "ncclEpCombine": 3, "ncclEpComplete": 3,
                 "ncclEpHandleDestroy": 1, "ncclEpGroupDestroy": 1}
        self.assertEqual(dict(self.query("SELECT function, calls FROM backend_call_total WHERE rows = calls AND first_ns <= last_ns")),
                         calls)
        self.assertEqual(self.query("SELECT DISTINCT backend, does FROM backend_call WHERE function = 'ncclEpDispatch'"),
                         [("NCCL EP", "dispatch")])
        (stack,), = self.query("SELECT DISTINCT stack FROM backend_call JOIN callsite_text USING (site_id)"
                               " WHERE function = 'ncclEpCreateGroup'")
        self.assertTrue(stack.startswith("main < "), stack)
        text = self.skewscope("info", self.out).stdout
        self.assertIn("NCCL EP was called 13 times (bytes not observable): 3 ncclEpCombine, 3 ncclEpDispatch", text)
        info = json.loads(self.skewscope("info", "--json", self.out).stdout)[0]
        self.assertEqual({c["function"]: (c["calls"], c["recorded"]) for c in info["backend_calls"]},
                         {f: (n, n) for f, n in calls.items()})
        got = self.ask(self.out)
        self.assertEqual([s["backend"] for s in got["backends"] if s["working"]], ["NCCL EP"])
        self.assertEqual(got["gate"]["verdict"], "worked")
        self.assertIn("3 calls of ncclEpDispatch (bytes not observable)",
                      next(s["evidence"] for s in got["backends"] if s["backend"] == "NCCL EP"))

    def test_compare(self):
        same = [("model", "m"), ("hardware", "H100")]
        a = self.synthetic("a", "DeepEP", labels=same, packages=[("deep_ep", "1.1")])
        b = self.synthetic("b", "HybridEP", labels=same + [("note", "x")], packages=[("deep_ep", "1.2")])
        got = self.ask(a, b)["comparison"]
        self.assertTrue(got["comparable"])
        self.assertEqual({d["what"]: (d["a"], d["b"]) for d in got["differs"]},
                         {"package deep_ep": ("1.1", "1.2"), "label note": (None, "x")})
        self.assertAlmostEqual(got["measured"]["b_over_a"], 300 / 12e6)
        other = self.synthetic("o", "DeepEP", labels=[("model", "other"), ("hardware", "H100")])
        got = self.ask(a, other, status=1)["comparison"]
        self.assertFalse(got["comparable"])
        self.assertEqual((got["measured"], len(got["why_not"])), ({}, 1))
        self.assertIn("label model differs", got["why_not"][0])

    def test_command_line(self):
        for arguments in ([], ["a", "b", "c"]):
            done = self.skewscope("dispatcher", *arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
        done = self.skewscope("dispatcher", str(self.dir / "none"))
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))


if __name__ == "__main__":
    unittest.main()

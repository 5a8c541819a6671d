#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope dispatcher: what was selected, what worked, what is missing, and two runs beside each other.

Traces of device-initiated backends are synthetic here: kernel names as their sources have them, times made up.
"""
import tracegen
from clitest import *

WORKLOAD = str(BUILD / "tools" / "workload" / "skewscope-workload")
V2 = ("_ZN7deep_ep7elastic13dispatch_implILb1ELb0ELb0ELi24ELi4ELi8ELi8ELi14336ELi0ELi4096ELi256ELi8ELi1ELi4ELl100000EEEvPv")
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

    def test_workload(self):
        if not os.path.exists(WORKLOAD):
            self.skipTest("the workload was not built")
        for pattern, backend in (("megatron", "alltoall"), ("torchtitan", "alltoall"), ("vllm", "allgather")):
            with self.subTest(pattern):
                out = str(self.dir / pattern)
                done = self.skewscope("run", "-q", "--standin", "-o", out, "--", WORKLOAD, "--pattern", pattern, "--ranks", "4",
                                      "--layers", "2", "--steps", "3")
                self.assertEqual(done.returncode, 0, done.stderr)
                got = self.ask(out)
                self.assertEqual([s["backend"] for s in got["backends"] if s["working"]], [backend])
                self.assertEqual(got["ep"], 4)

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

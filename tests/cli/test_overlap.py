#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""skewscope overlap and info on device-initiated backends.

The traces are synthetic: names of kernels as the backends' sources have them (schema/kernels.json says where), times made
up here, so that what must come out is known.
"""
import contextlib

import tracegen
from clitest import *

V2 = "_ZN7deep_ep7elastic13dispatch_implILb1ELb0ELb0ELi24ELi4ELi8ELi8ELi14336ELi0ELi4096ELi256ELi8ELi1ELi4ELl100000EEEvPv"
BACKENDS = {  # backend: (dispatch kernel, combine kernel)
    "DeepEP V1": ("_ZN7deep_ep9intranode8dispatchILi8ELi768ELi8192EEEvv", "_ZN7deep_ep9intranode7combineI13__nv_bfloat16Li8EEEvv"),
    "DeepEP V2": (V2, "_ZN7deep_ep7elastic12combine_implILi1EEEvPv"),
    "HybridEP": ("void hybrid_ep::dispatch_kernel<hybrid_ep::X, 3>(hybrid_ep::X)", "hybrid_ep::combine_kernel"),
    "NCCL EP": ("nccl_ep_jit_ht_dispatch_kernel", "nccl_ep_jit_ht_combine_kernel"),
    "UCCL-EP": ("void uccl::internode_ll::dispatch<true>(int)", "void uccl::internode_ll::combine<true>(int)"),
    "pplx-kernels": ("void (anonymous namespace)::dispatchKernel<4, true>(int)", "void (anonymous namespace)::combineKernel<4>(int)"),
    "TensorRT-LLM / FlashInfer MoE all-to-all": (
        "void tensorrt_llm::kernels::moe_alltoall::moeA2ADispatchKernel<int>(int)",
        "void tensorrt_llm::kernels::moe_alltoall::moeA2ACombineKernel<int>(int)"),
}


class Overlap(CliTest):
    def trace(self, name, ranks=1):
        path = self.dir / f"{name}.db"
        trace = tracegen.Trace(path)
        run = trace.run(name)
        self.processes = [trace.process(r, run) for r in range(ranks)]
        self.names = {}
        self.comm = trace.comm("ab" * 8, max(ranks, 2), dict(enumerate(self.processes)))
        return trace, str(path)

    def kernel(self, trace, name, start, end, busy=None, kernels=1, rank=0, does=None, backend=None, stream=7):
        process = self.processes[rank]
        if (process, name) not in self.names:
            self.names[process, name] = len(self.names) + 1
            trace.db.execute("INSERT INTO kernel_name VALUES (?, ?, ?, ?, ?)",
                             (process, self.names[process, name], name, does, backend))
        trace.db.execute("INSERT INTO kernel VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                         (process, rank, stream, start, end, end - start if busy is None else busy, kernels,
                          self.names[process, name]))

    def timed(self, trace, rank, received, start, end, role, layer=0, source=2):
        exchange = trace.exchange(self.comm, rank, [(0, 64), (1, 64)], [(0, received), (1, 0)],
                                  label={"role": role, "layer": layer, "step": 0})
        member = trace.members[self.comm, rank]
        trace.db.execute("INSERT INTO device_time (member_id, thread, group_seq, launch_id, source, start_ns, end_ns, error_ns)"
                         " VALUES (?, 1, ?, 0, ?, ?, ?, 0)", (member, trace.seq[member] - 1, source, start, end))
        return exchange

    def pair(self, trace, a, b, token_bytes=None):
        trace.db.execute("UPDATE exchange_label SET pair_id = ?, token_bytes = ? WHERE exchange_id = ?", (b, token_bytes, a))
        trace.db.execute("UPDATE exchange_label SET pair_id = ?, token_bytes = ? WHERE exchange_id = ?", (a, token_bytes, b))

    def ask(self, *paths, rows=100):
        done = self.skewscope("overlap", "--json", f"--rows={rows}", *paths)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_every_backend(self):
        for backend, (dispatch, combine) in BACKENDS.items():
            with self.subTest(backend):
                trace, path = self.trace(backend.replace("/", "-"))
                for n in range(5):
                    at = 10_000_000 * n + 1000
                    for name, does, start, end in ((dispatch, "dispatch", at, at + 40_000 + n),
                                                   ("gemm", "other", at + 50_000, at + 90_000),
                                                   (combine, "combine", at + 100_000, at + 170_000)):
                        self.kernel(trace, name, start, end, does=does, backend=None if name == "gemm" else backend)
                trace.close()
                got = self.ask(path)
                does = {b["does"]: b for b in got["backends"]}
                self.assertEqual({b["backend"] for b in got["backends"]}, {backend})
                self.assertEqual((does["dispatch"]["kernels"], does["dispatch"]["total_ns"], does["dispatch"]["least_ns"],
                                  does["dispatch"]["most_ns"]), (5, 5 * 40_000 + 10, 40_000, 40_004))
                self.assertEqual((does["combine"]["kernels"], does["combine"]["total_ns"]), (5, 350_000))
                self.assertEqual({b["bytes"] for b in got["backends"]}, {"not observable"})
                experts, = got["backend_experts"]
                self.assertEqual((experts["rounds"], experts["known"], experts["gap_ns"], experts["kernels_ns"]),
                                 (5, 5, 60_000 - 2, {"low": 40_000, "high": 40_000}))
                self.assertEqual([r["dispatch_start_ns"] for r in got["rounds"]], [10_000_000 * n + 1000 for n in range(5)])
                text = self.skewscope("overlap", path).stdout
                self.assertIn("their bytes are not observable", text)
                self.assertIn(backend, text)
                text = self.skewscope("info", path).stdout
                self.assertIn(f"{backend} moved tokens from inside its kernels (bytes not observable): 5 combine in 0.350 ms, "
                              "5 dispatch in 0.200 ms", text)
                if backend == "DeepEP V2":
                    self.assertEqual([does["dispatch"][k] for k in ("ranks", "experts", "topk", "hidden_bytes", "max_tokens")],
                                     [8, 256, 8, 14336, 4096])

    def test_dispatches_that_interleave_are_not_paired(self):
        trace, path = self.trace("interleaved")
        dispatch, combine = BACKENDS["DeepEP V1"]
        for name, start in ((combine, 0), (dispatch, 100), (dispatch, 200), (combine, 300), (combine, 400), (dispatch, 500),
                            (combine, 600), (dispatch, 700)):
            self.kernel(trace, name, start, start + 50)
        trace.close()
        got = self.ask(path)
        self.assertEqual([(r["dispatches"], r["combines"]) for r in got["rounds"]], [(2, 2), (1, 1)])
        self.assertEqual((got["backend_experts"][0]["rounds"], got["backend_experts"][0]["known"]), (2, 1))

    def test_one_shot_has_no_direction(self):
        trace, path = self.trace("xla")
        self.kernel(trace, "void stream_executor::gpu::RaggedAllToAllKernelImpl<8l>(int)", 0, 500)
        self.kernel(trace, "my_all_to_all", 600, 700)
        trace.close()
        got = self.ask(path)
        self.assertEqual([(b["backend"], b["does"], b["total_ns"], b["bytes"]) for b in got["backends"]],
                         [("XLA one-shot", "transfer", 500, "not observable")])
        self.assertEqual(got["rounds"], [])
        self.assertEqual(got["unknown_kernels"], ["my_all_to_all"])

    def test_bounds_and_pairs(self):
        trace, path = self.trace("bounds", 2)
        a = self.timed(trace, 0, 640, 1000, 2000, "dispatch")
        b = self.timed(trace, 0, 64, 5000, 6000, "combine")
        self.pair(trace, a, b, 32)
        lone = self.timed(trace, 0, 64, 9_000_000, 9_001_000, "dispatch", source=1)
        other = self.timed(trace, 1, 64, 1000, 2000, "dispatch", source=1)
        self.kernel(trace, "gemm", 500, 1500, busy=800, kernels=9)  # 300 … 500 of the dispatch
        self.kernel(trace, "gemm", 1400, 1700, stream=9)            # 100 of it hidden twice
        self.kernel(trace, BACKENDS["DeepEP V1"][0], 1700, 2000)    # hides nothing
        self.kernel(trace, "gemm", 2500, 3500)
        self.kernel(trace, "gemm", 3400, 4000, stream=9)
        trace.close()
        rows = {x["exchange_id"]: x for x in self.ask(path)["exchanges"]}
        self.assertEqual(rows[a]["overlapped_ns"], {"low": 500, "high": 700})
        self.assertEqual(rows[a]["exposed_ns"], {"low": 300, "high": 500})
        self.assertEqual((rows[a]["gap_ns"], rows[a]["kernels_ns"], rows[a]["received_bytes"], rows[a]["tokens"]),
                         (3000, {"low": 1500, "high": 1500}, 640, 20))
        self.assertEqual(rows[b]["overlapped_ns"], {"low": 0, "high": 0})
        # by events, and beyond what is recorded of kernels; or no kernels of that process: not known, not 0
        self.assertIsNone(rows[lone]["overlapped_ns"])
        self.assertIsNone(rows[other]["exposed_ns"])

    def test_save(self):
        trace, path = self.trace("save", 2)
        self.timed(trace, 0, 64, 1000, 2000, "dispatch")
        self.kernel(trace, "gemm", 1200, 1500)
        trace.close()
        self.assertEqual(self.skewscope("overlap", "--save", path).returncode, 0)
        with contextlib.closing(sqlite3.connect(path)) as db:
            got = dict(db.execute("SELECT name, value FROM metric WHERE analysis = 'overlap' AND role = 'dispatch'"))
        self.assertEqual((got["exposed_ns.low"], got["overlapped_ns.high"], got["duration_ns"]), (700, 300, 1000))

    def test_what_is_refused(self):
        self.assertEqual(self.skewscope("overlap").returncode, 2)
        self.assertEqual(self.skewscope("overlap", "/nowhere").returncode, 1)


if __name__ == "__main__":
    unittest.main()

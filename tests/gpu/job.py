# SPDX-License-Identifier: Apache-2.0
"""What tests/gpu/run runs: one rank of a small PyTorch job.

usage: job.py WORK…      one work after another; what each did goes to $JOB_DIR/result.RANK
       job.py serve      a JSON object a line on standard input says what to do next, one a line is the answer;
                         between them the process waits in a read and does nothing

Environment as of torchrun, and JOB_SIZE: JSON that overrides SIZE.

Every exchange that is made is noted by this program itself (bytes to and from each rank), from the sizes that it asked
for: what the trace must say. Works check the data that arrived.
"""
import json
import os
import sys
import time

import torch
import torch.distributed as dist

# tokens a rank, hidden size, width of the expert, layers: a step that keeps a large GPU busy for some milliseconds
SIZE = {"tokens": 8192, "hidden": 2048, "ffn": 4096, "layers": 4, "steps": 6, "rows": 4096, "replays": 20, "calls": 8,
        "small": 256, **json.loads(os.environ.get("JOB_SIZE", "{}"))}
noted = []


def note(tensor, out, into):
    row = tensor.element_size() * (tensor.numel() // tensor.shape[0] if tensor.shape[0] else 1)
    noted.append({"sent": [n * row for n in out], "received": [n * row for n in into]})


def exchange_into(y, x, out, into):
    note(x, out, into)
    dist.all_to_all_single(y, x, output_split_sizes=into, input_split_sizes=out)
    return y


def exchange(x, out, into):
    return exchange_into(x.new_empty((sum(into), x.shape[1])), x, out, into)


def exchange_equal(y, x):
    """Without split sizes: ncclAlltoAll in newer PyTorch, a group of sends and receives in older."""
    size = dist.get_world_size()
    each = [x.shape[0] // size] * size
    note(x, each, each)
    dist.all_to_all_single(y, x)


class Exchange(torch.autograd.Function):
    """Differentiable: the gradient goes the way back."""

    @staticmethod
    def forward(ctx, x, out, into):
        ctx.splits = out, into
        return exchange(x, out, into)

    @staticmethod
    def backward(ctx, grad):
        out, into = ctx.splits
        return exchange(grad.contiguous(), into, out), None, None


def splits(rows):
    """Unequal, the same rule on every rank: (rows to each rank, rows from each rank)."""
    size, rank = dist.get_world_size(), dist.get_rank()
    unit = max(1, rows // size // 8)

    def count(i, j):
        return unit * (4 + (3 * i + 5 * j) % 7)
    return [count(rank, j) for j in range(size)], [count(i, rank) for i in range(size)]


def check_arrived(y, into, what):
    """Every row holds the number of the rank that sent it."""
    torch.cuda.synchronize()
    at = 0
    for rank, n in enumerate(into):
        if not bool((y[at:at + n] == rank).all()):
            raise AssertionError(f"{what}: wrong data from rank {rank}")
        at += n


# ---- works: each returns what else it found ----

def unequal():
    out, into = splits(SIZE["rows"])
    for _ in range(SIZE["calls"]):
        x = torch.full((sum(out), 64), float(dist.get_rank()), device="cuda")
        check_arrived(exchange(x, out, into), into, "unequal split")
    return {}


def equal():
    rows = SIZE["rows"] // dist.get_world_size()
    for _ in range(SIZE["calls"]):
        x = torch.full((rows * dist.get_world_size(), 64), float(dist.get_rank()), device="cuda")
        y = torch.full((rows * dist.get_world_size(), 64), -1.0, device="cuda")
        exchange_equal(y, x)
        check_arrived(y, [rows] * dist.get_world_size(), "equal split")
    return {}


class Moe:
    """A small MoE model: dispatch, two matrix products of the expert, combine, in each layer; SGD."""

    def __init__(self):
        hidden, ffn = SIZE["hidden"], SIZE["ffn"]
        self.out, self.into = splits(SIZE["tokens"])

        def weight(rows, columns):
            w = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) * rows ** -0.5
            return w.detach().requires_grad_()
        self.weights = [(weight(hidden, ffn), weight(ffn, hidden)) for _ in range(SIZE["layers"])]
        self.x = torch.randn(sum(self.out), hidden, device="cuda", dtype=torch.bfloat16).requires_grad_()

    def step(self):
        x = self.x
        for up, down in self.weights:
            y = Exchange.apply(x, self.out, self.into)
            y = torch.relu(y @ up) @ down
            x = Exchange.apply(y, self.into, self.out)
        x.sum().backward()
        with torch.no_grad():
            for pair in self.weights:
                for w in pair:
                    w.sub_(w.grad, alpha=1e-6)
                    w.grad = None
            self.x.grad = None


def moe(steps=None):
    model = Moe()
    for _ in range(steps or SIZE["steps"]):
        model.step()
    torch.cuda.synchronize()
    return {}


def counts():
    """As torchtitan does: tokens for each expert as a small all-to-all, then the tokens."""
    size, rank, local = dist.get_world_size(), dist.get_rank(), 4
    said = []
    for step in range(SIZE["calls"]):
        tokens = [3 + (7 * step + 5 * rank + 11 * e) % 23 for e in range(local * size)]
        heard = [3 + (7 * step + 5 * r + 11 * (rank * local + e)) % 23 for r in range(size) for e in range(local)]
        mine = torch.tensor(tokens, dtype=torch.int64, device="cuda")
        theirs = torch.zeros(local * size, dtype=torch.int64, device="cuda")
        exchange_equal(theirs, mine)
        torch.cuda.synchronize()
        if theirs.tolist() != heard:
            raise AssertionError(f"count exchange {step}: got {theirs.tolist()}, not {heard}")
        out = [sum(tokens[j * local:(j + 1) * local]) for j in range(size)]
        into = [sum(heard[i * local:(i + 1) * local]) for i in range(size)]
        x = torch.full((sum(out), 64), float(rank), device="cuda")
        check_arrived(exchange(x, out, into), into, "tokens")
        said.append(tokens)
    return {"experts": local * size, "tokens": said}


def graph():
    """Two exchanges captured in global mode, as torch.cuda.graph does by default, and replayed."""
    size, rank = dist.get_world_size(), dist.get_rank()
    each = [SIZE["small"]] * size
    x = torch.full((sum(each), 4), float(rank), device="cuda")
    y, z = torch.full((sum(each), 4), -1.0, device="cuda"), torch.full((sum(each), 4), -1.0, device="cuda")
    exchange_into(y, x, each, each)  # before the capture: makes the communicator, and its connections
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        exchange_into(y, x, each, each)
        exchange_into(z, y, each, each)
    for _ in range(SIZE["replays"]):
        captured.replay()
    torch.cuda.synchronize()
    check_arrived(y, each, "replay")
    if size == 1:
        check_arrived(z, each, "second exchange of the replay")
    captured.reset()  # NCCL waits, when its communicator is destroyed, for graphs that hold its work
    return {"replays": SIZE["replays"], "captured": 2}


def profiled():
    """A few steps under torch.profiler: its trace is the result."""
    model = Moe()
    model.step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        begin, at = time.monotonic_ns(), len(noted)
        for _ in range(SIZE["steps"]):
            model.step()
        torch.cuda.synchronize()
        end = time.monotonic_ns()
    path = os.path.join(os.environ["JOB_DIR"], "profile.json")
    profiler.export_chrome_trace(path)
    model.step()  # afterwards: the profiler has given everything back
    torch.cuda.synchronize()
    return {"profile": path, "begin_ns": begin, "end_ns": end, "exchanges": SIZE["steps"] * SIZE["layers"] * 4,
            "first": at}


WORKS = {f.__name__: f for f in (unequal, equal, moe, counts, graph, profiled)}


# ---- blocks of the cost measurement ----

class Blocks:
    """What is measured, made once: a block is `n` steps, or `n` small all-to-alls, after `warm` that do not count."""

    def __init__(self):
        self.model = Moe()
        size = dist.get_world_size()
        self.each = [SIZE["small"]] * size
        self.x = torch.full((sum(self.each), 1), 1.0, device="cuda")
        self.y = torch.full((sum(self.each), 1), 0.0, device="cuda")

    def step(self, n):
        for _ in range(n):
            self.model.step()
        torch.cuda.synchronize()

    def alltoall(self, n):
        """Latency: each is waited for."""
        for _ in range(n):
            dist.all_to_all_single(self.y, self.x, output_split_sizes=self.each, input_split_sizes=self.each)
            torch.cuda.synchronize()

    def run(self, what, n, warm):
        block = {"step": self.step, "alltoall": self.alltoall}[what]
        block(warm)
        noted.clear()
        begin = time.perf_counter_ns()
        block(n)
        return (time.perf_counter_ns() - begin) / n


def serve(answers):
    blocks = Blocks()
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.get("end"):
            break
        ns = blocks.run(asked["what"], asked["n"], asked["warm"])
        answers.write(json.dumps({"ns": ns}) + "\n")
        answers.flush()


def main():
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
    results = {}
    if sys.argv[1] == "serve":
        serve(answers)
    for name in sys.argv[1:] if sys.argv[1] != "serve" else []:
        at, begin = len(noted), time.monotonic_ns()
        found = WORKS[name]()
        torch.cuda.synchronize()
        results[name] = {**found, "window": [begin, time.monotonic_ns()], "noted": noted[at:]}
    dist.barrier(device_ids=[0])
    torch.cuda.synchronize()
    dist.destroy_process_group()
    if results:
        path = os.path.join(os.environ["JOB_DIR"], "result." + os.environ["RANK"])
        with open(path, "w", encoding="utf-8") as f:
            json.dump(results, f)


if __name__ == "__main__":
    main()

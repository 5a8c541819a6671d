# SPDX-License-Identifier: Apache-2.0
"""What tests/gpu/run runs: one rank of a small PyTorch job. usage: job.py WHAT (environment as of torchrun)"""
import json
import os
import sys
import time

import torch
import torch.distributed as dist

HIDDEN, EXPERTS, TOKENS = 1024, 8, 4096


def exchange(x, splits_out, splits_in):
    y = x.new_empty((sum(splits_in), x.shape[1]))
    dist.all_to_all_single(y, x, splits_in, splits_out)
    return y


class Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, splits_out, splits_in):
        ctx.splits = splits_out, splits_in
        return exchange(x, splits_out, splits_in)

    @staticmethod
    def backward(ctx, grad):
        return exchange(grad.contiguous(), ctx.splits[1], ctx.splits[0]), None, None


def splits():
    """Unequal, the same rule on every rank: rank i sends to j what j receives from i."""
    size, rank = dist.get_world_size(), dist.get_rank()
    def count(i, j):
        return TOKENS // size // 2 + 64 * ((3 * i + 5 * j) % 7)
    return [count(rank, j) for j in range(size)], [count(i, rank) for i in range(size)]


def layer(weights, x, out, into):
    y = Exchange.apply(x, out, into)
    for w in weights:
        y = torch.relu(y @ w)
    return Exchange.apply(y, into, out)


def moe(steps=20):
    out, into = splits()
    weights = [torch.randn(HIDDEN, HIDDEN, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(4)]
    x = torch.randn(sum(out), HIDDEN, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    times = []
    for _ in range(steps):
        torch.cuda.synchronize()
        start = time.perf_counter_ns()
        for _ in range(4):
            layer(weights, x, out, into).sum().backward()
        torch.cuda.synchronize()
        times.append(time.perf_counter_ns() - start)
    return {"step_ns": sorted(times)[len(times) // 2], "bytes_sent": 0}


def step():
    return moe(60)


def latency():
    x = torch.zeros(dist.get_world_size() * 256, device="cuda")
    y = torch.empty_like(x)
    times = []
    for _ in range(2000):
        start = time.perf_counter_ns()
        dist.all_to_all_single(y, x)
        torch.cuda.synchronize()
        times.append(time.perf_counter_ns() - start)
    return {"step_ns": sorted(times)[len(times) // 2]}


def alltoall():
    out, into = splits()
    x = torch.full((sum(out), 64), float(dist.get_rank()), device="cuda")
    sent = 0
    for _ in range(8):
        y = exchange(x, out, into)
        sent += x.numel() * 4
    torch.cuda.synchronize()
    at = 0
    for rank, n in enumerate(into):
        assert bool((y[at:at + n] == rank).all()), f"wrong data from rank {rank}"
        at += n
    return {"bytes_sent": sent}


def graph():
    x = torch.ones(dist.get_world_size() * 1024, device="cuda")
    y = torch.empty_like(x)
    dist.all_to_all_single(y, x)
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        dist.all_to_all_single(y, x)
        x2 = y * 2
        dist.all_to_all_single(y, x2)
    for _ in range(20):
        g.replay()
    torch.cuda.synchronize()
    return {"replays": 20}


def profiled():
    moe(2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as p:
        moe(3)
    names = [e.name for e in p.events() if "nccl" in e.name.lower() and "kernel" in e.name.lower()]
    return {"nccl_kernels": len(names)}


def main():
    what = {f.__name__: f for f in (moe, step, latency, alltoall, graph, profiled)}[sys.argv[1]]
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
    result = what()
    dist.barrier()
    dist.destroy_process_group()
    with open(os.environ["JOB_RESULT"], "w", encoding="utf-8") as f:
        json.dump(result, f)


if __name__ == "__main__":
    main()

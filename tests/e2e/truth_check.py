# SPDX-License-Identifier: Apache-2.0
"""Compares the workload's own ground truth (--truth) with what expected.py computes."""
import json


def peer_bytes(cells, size):
    out = [0] * size
    for peer, nbytes in cells:
        out[peer] += nbytes
    return out


def spell(call, size):
    """The members that the truth's line must have."""
    line = {"comm": call.comm, "role": call.role, "op": call.op, "comm_size": size, **call.where}
    if not line.pop("captured"):
        line["captured"] = None
    else:
        line["captured"] = True
    if call.op != "empty":
        line["datatype"] = call.datatype
    line["count"] = call.count
    line["local_expert"] = call.local_expert
    line["expert_tokens"] = call.expert_tokens
    line["calls"] = call.calls
    for name, cells in (("send", call.sends), ("recv", call.recvs)):
        has = call.op in ("sendrecv", "ncclAlltoAll")
        line[f"{name}_bytes"] = peer_bytes(cells, size) if has else None
        single = 0 if call.op == "ncclAlltoAll" else len(cells or [])
        line[f"{name}s"] = single if has else None
        line[f"{name}_list"] = [list(c) for c in cells] if has and single > size else None
    return line


def comm_size(job, comm):
    if comm == "dp" or (comm == "pp" and job.ep_groups == 1):
        return job.ranks
    return job.ep_groups if comm in ("pp", "moe_dp") else job.ep


def check(job, expected, path):
    """Returns a list of differences, at most a few."""
    got = [[] for _ in range(job.ranks)]
    launches = [0] * job.ranks
    with open(path, encoding="utf-8") as f:
        for text in f:
            line = json.loads(text)
            if line["op"] == "cudaGraphLaunch":
                launches[line["rank"]] += 1
            else:
                got[line["rank"]].append(line)
    wrong = []
    for rank in range(job.ranks):
        if len(got[rank]) != len(expected[rank]):
            wrong.append(f"truth: rank {rank} made {len(got[rank])} calls, not {len(expected[rank])}")
        if launches[rank] != job.graph:
            wrong.append(f"truth: rank {rank} launched the graph {launches[rank]} times, not {job.graph}")
        for n, (line, call) in enumerate(zip(got[rank], expected[rank])):
            want = spell(call, comm_size(job, call.comm))
            for key, value in want.items():
                if line.get(key) != value:
                    wrong.append(f"truth: rank {rank}, call {n} ({call.role}, {call.where}): {key} is "
                                 f"{line.get(key)}, expected {value}")
                    break
            if len(wrong) > 5:
                return wrong
    return wrong

# SPDX-License-Identifier: Apache-2.0
"""The captured observe grid against its inputs, computed here from the .npy and .csv files alone.

    skewscope observe --json OUT/*/ > ANSWER.json
    python3 tests/analysis/observecheck.py ANSWER.json

For each real cell: the four metrics of experts and of ranks, mean over layers and calls, and the tokens a call, from the
ids (gpt-oss, FLAME) or from the counts as the workload lays them out (OLMoE, Mixtral: docs/workload.md, computed again by
tests/e2e/routings.py), which must add up to the file's counts. For each mock cell: the closed forms of chance."""
import csv
import json
import math
import sys

import routingdata
from observecapture import DEGREES, FLAME, SHAPES, TOKENS
from observegrid import COUNTED, DATA, requests_of

import npy
import routings

METRICS = ("gini", "max_mean", "cv", "entropy")


def metrics(loads):
    n, total = len(loads), sum(loads)
    mean, ordered = total / n, sorted(loads)
    gini = sum((2 * i - n + 1) * x for i, x in enumerate(ordered)) / (n * total)
    sd = math.sqrt(sum((x - mean) ** 2 for x in loads) / n)
    entropy = -sum(x / total * math.log(x / total) for x in loads if x) / math.log(n)
    return dict(zip(METRICS, (gini, ordered[-1] / mean, sd / mean, entropy)))


def grouped(loads, ranks):
    size = len(loads) // ranks
    return [sum(loads[i:i + size]) for i in range(0, len(loads), size)]


def counts_of(experts, ids):
    counts = [0] * experts
    for e in ids:
        counts[e] += 1
    return counts


def token(ids, n, k):
    return ids.values[n * k:(n + 1) * k]


def gptoss_calls(domain, batch):
    """[layer][call] counts of 32 experts; calls of `batch` positions of each request, whole ones only."""
    ids, rows = npy.load(DATA / "gptoss20b_decode_topk.npy"), requests_of()[domain]
    _, tokens, layers, k = ids.shape
    for layer in range(layers):
        chosen = {(row, t): token(ids, (row * tokens + t) * layers + layer, k) for row in rows for t in range(tokens)}
        yield [counts_of(32, (e for row in rows for t in range(start, start + batch) for e in chosen[row, t]))
               for start in range(0, tokens - batch + 1, batch)]


def flame_calls(batch):
    """Calls of `positions` positions of each of the sequences that the stream of tokens is cut into."""
    ids, (sequences, length) = npy.load(DATA / "flame290m_prefill_topk.npy"), FLAME
    layers, tokens, k = ids.shape
    positions = batch // sequences
    for layer in range(layers):
        chosen = [token(ids, layer * tokens + n, k) for n in range(tokens)]
        yield [counts_of(64, (e for q in range(sequences) for t in range(start, start + positions) for e in chosen[q * length + t]))
               for start in range(0, length, positions)]


class CountedJob:
    def __init__(self, select, topk, ranks):
        self.counts_select, self.topk, self.ranks, self.seed, self.tokens = select, topk, ranks, 1, TOKENS // ranks


def counted_calls(name, domain, ranks):
    """As the workload lays tokens out; checked to add up to the file's counts."""
    model, topk = next((m, k) for m, (n, k, _) in COUNTED.items() if n == name)
    job = CountedJob(f"model={model},domain={domain}", topk, ranks)
    routing = routings.Counts(job, DATA / "olmoe_mixtral_expert_counts.csv")
    for layer, total in enumerate(routing.counts):
        calls = []
        for block in range(-(-routing.total // TOKENS) + 1):
            ids = [e for rank in range(ranks) for token in routing.ids(block, layer, rank) for e in token]
            if ids:
                calls.append(counts_of(len(total), ids))
        if [sum(column) for column in zip(*calls)] != total:
            sys.exit(f"{name} {domain}, layer {layer}: the calls do not add up to the counts of the file")
        yield calls


def calls_of(labels):
    model, domain, batch, ranks = labels["model"], labels["data"], int(labels["batch"]), int(labels["ep"])
    if model == "gpt-oss-20b":
        return list(gptoss_calls(domain, batch))
    if model == "flame-290m":
        return list(flame_calls(batch))
    return list(counted_calls(model, domain, ranks))


def compare(cell, what, found, want, relative):
    if abs(found - want) > relative * abs(want):
        sys.exit(f"{cell['cell']}: {what} is {found}, and {want} by the inputs")


def check_real(cell, cache):
    """Calls of other degrees than that of the counted models are the same: computed once."""
    labels = cell["labels"]
    key = (labels["model"], labels["data"], labels["batch"], labels["ep"] if int(labels["batch"]) == TOKENS else "")
    if key not in cache:
        cache.clear()
        cache[key] = calls_of(labels)
    layers, ranks, topk = cache[key], int(labels["ep"]), SHAPES[labels["model"]][2]
    for side, of in (("expert", lambda c: c), ("rank", lambda c: grouped(c, ranks))):
        all_calls = [metrics(of(c)) for calls in layers for c in calls]
        for metric in METRICS:
            want = sum(m[metric] for m in all_calls) / len(all_calls)
            compare(cell, f"{side} {metric}", cell[side][metric]["observed"]["value"], want, 1e-9)
    compare(cell, "tokens", cell["tokens_call"], sum(map(sum, layers[0])) / topk / len(layers[0]), 1e-9)
    if (cell["layers"], cell["calls"], cell["topk"]) != (len(layers), len(layers[0]), topk) or cell["layers_mixed"]:
        sys.exit(f"{cell['cell']}: {cell['layers']} layers, {cell['calls']} calls, k = {cell['topk']}")
    return 2 * len(METRICS) + 4


def check_mock(cell):
    """Uniform tokens are what chance gives. CV2 of a call is nearly a chi-square of items - 1: within 5 standard errors."""
    _, experts, topk, layers = SHAPES[cell["labels"]["model"]]
    tokens, ranks = cell["tokens_call"], int(cell["labels"]["ep"])
    for side, items, cv2 in (("expert", experts, (experts - topk) / (topk * tokens)),
                             ("rank", ranks, (ranks - 1) * (experts - topk) / ((experts - 1) * topk * tokens))):
        error = math.sqrt(2 / ((items - 1) * cell["calls"] * layers))
        compare(cell, f"{side} CV2", cell[side]["cv2"]["observed"], cv2, 5 * error)
        compare(cell, f"{side} CV2 of chance", cell[side]["cv2"]["chance"], cv2, 1e-9)
    if experts == 64: # the closed form of Gini is good to 3 % there, and to 5 % with few experts
        gini = math.sqrt((experts - topk) / (topk * tokens) / math.pi * (experts - 1) / experts)
        compare(cell, "expert Gini", cell["expert"]["gini"]["observed"]["value"], gini, 0.03)
    if cell["beyond_chance"]:
        sys.exit(f"{cell['cell']}: uniform tokens are said to be beyond chance")
    return 5


def check_changes(answer):
    """The same tokens at two degrees: experts cannot change, whatever their router does."""
    grid, same = {c["cell"]: c for c in answer["cells"]}, 0
    for change in answer["changes"]:
        a, b = (grid[change[end]][change["side"]][change["metric"]]["observed"]["value"] for end in ("from", "to"))
        if abs(change["ratio"]["value"] - b / a) > 1e-9:
            sys.exit(f"{change['from']} to {change['to']}: the ratio is {change['ratio']['value']} and not {b / a}")
        if change["verdict"] == "same":
            same += 1
            if abs(b / a - 1) > 1e-12:
                sys.exit(f"{change['from']} to {change['to']}: said to be the same, {a} and {b}")
    return same


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        answer = json.load(f)
    numbers, cells, cache = 0, {"real": 0, "mock": 0}, {}
    there = [c for c in answer["cells"] if c["runs_usable"]]
    for cell in sorted(there, key=lambda c: (c["labels"]["model"], c["labels"]["data"], int(c["labels"]["batch"]))):
        kind = cell["labels"]["tokens"]
        numbers += check_real(cell, cache) if kind == "real" else check_mock(cell)
        cells[kind] += 1
    degrees = sorted({int(c["labels"]["ep"]) for c in there})
    if degrees != list(DEGREES):
        sys.exit(f"the grid has EP {degrees} only")
    with open(DATA / "olmoe_mixtral_expert_counts.csv", newline="", encoding="utf-8") as f:
        domains = {(COUNTED[r["model"]][0], r["domain"]) for r in csv.DictReader(f)
                   if r["model"] in COUNTED and r["domain"] in COUNTED[r["model"]][2]}
    missing = domains - {(c["labels"]["model"], c["labels"]["data"]) for c in there}
    if missing:
        sys.exit(f"not captured: {sorted(missing)}")
    print(f"ok: {numbers} numbers of {cells['real']} real and {cells['mock']} mock cells; ratios of {len(answer['changes'])} changes,"
          f" {check_changes(answer)} of them the same by construction")


if __name__ == "__main__":
    routingdata.need_data()
    main()

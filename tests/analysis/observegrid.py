# SPDX-License-Identifier: Apache-2.0
"""Traces of the observe grid, from the real data through `skewscope import` and from `skewscope synth`.

    SKEWSCOPE_TOOL=build/tools/skewscope python3 tests/analysis/observegrid.py OUT     # all of it
    skewscope observe --ep 4,8,16,32 OUT/*.db

The same routing driven through the workload and captured: observecapture.py.
Three models: gpt-oss-20b (decode, in time), FLAME-MoE-290M (prefill, in time), OLMoE-1B-7B and Mixtral-8x7B (counts
only), each by domain where the data tell domains, and uniform mock traces of the same shape."""
import csv
import os
import pathlib
import subprocess
import sys

import routingdata
from routingdata import DATA

import npy

TOOL = os.environ.get("SKEWSCOPE_TOOL", "skewscope")
GROUPS = {"gpqa": "gpqa", "mmlu-pro": "mmlu_pro", "mmlu": "mmlu_"} # first that the data set's name begins with
COUNTED = {"OLMoE-1B-7B-0924": ("olmoe", 8, ["arxiv", "book", "c4", "github", "tulu", "wikipedia"]),
           "Mixtral-8x7B-v0.1": ("mixtral", 2, ["arxiv", "book", "c4", "github", "wikipedia"])}


def tool(*arguments):
    clean = {key: value for key, value in os.environ.items() if key != "SKEWSCOPE_TOOL"}
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, check=False, env=clean)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]}: {done.stderr}")


def labels(**values):
    return [part for key, value in values.items() for part in ("--label", f"{key}={value}")]


def requests_of():
    """Name of a group → rows of gptoss20b_decode_topk.npy; "all" among them."""
    groups = {"all": []}
    with open(DATA / "gptoss20b_decode_requests.csv", newline="") as f:
        for row in csv.DictReader(f):
            groups["all"].append(int(row["request"]))
            for name, prefix in GROUPS.items():
                if row["dataset"].startswith(prefix):
                    groups.setdefault(name, []).append(int(row["request"]))
                    break
    return groups


def slice_requests(ids, rows, path):
    """The requests `rows` of [request, token, layer, k]."""
    size = len(ids.values) // ids.shape[0]
    values = ids.values[:0]
    for row in rows:
        values += ids.values[row * size:(row + 1) * size]
    npy.save(path, npy.Npy((len(rows), *ids.shape[1:]), values))


def gptoss(out, domains, ranks, batches):
    """`batches`: tokens of each request in a call. Trace g-DOMAIN-BATCH-RANKS.db; ranks 0: none."""
    ids = npy.load(DATA / "gptoss20b_decode_topk.npy")
    made = []
    for domain in domains:
        source = out / f"gptoss-{domain}.npy"
        slice_requests(ids, requests_of()[domain], source)
        for batch in batches:
            for r in ranks:
                path = out / f"g-{domain}-{batch}-{r}.db"
                tool("import", "topk", source, "--axes", "request,token,layer,k", "--experts", 32, "--stage", "decode",
                     "--step-tokens", batch, "--by", "step", *(["--ranks", r] if r else []), "-o", path,
                     *labels(model="gpt-oss-20b", mixer="gqa", data=domain, tokens="real", batch=batch))
                made.append(path)
        source.unlink()
    return made


def flame(out, batches):
    """`batches`: tokens in a call."""
    made = []
    for batch in batches:
        path = out / f"f-{batch}.db"
        tool("import", "topk", DATA / "flame290m_prefill_topk.npy", "--axes", "layer,token,k", "--experts", 64,
             "--stage", "prefill", "--step-tokens", batch, "--layer-base", 2, "-o", path,
             *labels(model="flame-290m", mixer="mha", data="pile", tokens="real", batch=batch))
        made.append(path)
    return made


def counted(out, models=tuple(COUNTED), domains=None):
    made = []
    for model in models:
        name, topk, all_domains = COUNTED[model]
        for domain in all_domains:
            if domains and domain not in domains:
                continue
            path = out / f"c-{name}-{domain}.db"
            tool("import", "counts", DATA / "olmoe_mixtral_expert_counts.csv", "--where", f"model={model}", "--where",
                 f"domain={domain}", "--topk", topk, "-o", path,
                 *labels(model=name, mixer="gqa" if name == "mixtral" else "mha", data=domain, tokens="real", batch="all"))
            made.append(path)
    return made


def mock(out, model, mixer, batch, experts, topk, layers, ranks, tokens, steps, seed):
    """Uniform routing; `tokens` a rank and call."""
    path = out / f"m-{model}-{batch}-{ranks}-{seed}.db"
    tool("synth", "-q", "-o", path, "--routing", "uniform", "--experts", experts, "--topk", topk, "--layers", layers,
         "--ranks", ranks, "--tokens", tokens, "--steps", steps, "--seed", seed, "--no-device-time",
         *labels(model=model, mixer=mixer, data="uniform", tokens="mock", batch=batch))
    return path


def build(out):
    made = gptoss(out, ["all"], [4, 8, 16, 32], [16])
    made += gptoss(out, ["all"], [8], [1, 4])
    made += gptoss(out, list(GROUPS), [0], [16])
    made += flame(out, [16, 32, 64])
    made += counted(out)
    for ranks in (4, 8, 16, 32):
        made.append(mock(out, "gpt-oss-20b", "gqa", 16, 32, 4, 24, ranks, 1024 // ranks, 32, ranks))
    for batch in (1, 4):
        made.append(mock(out, "gpt-oss-20b", "gqa", batch, 32, 4, 24, 8, 8 * batch, 504 // batch, batch))
    for batch in (16, 32, 64):
        made.append(mock(out, "flame-290m", "mha", batch, 64, 6, 8, 8, batch // 8, 2048 // batch, batch))
    return made


if __name__ == "__main__":
    routingdata.need_data()
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for trace in build(directory):
        print(trace, flush=True)

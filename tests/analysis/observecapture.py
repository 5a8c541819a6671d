# SPDX-License-Identifier: Apache-2.0
"""The observe grid captured: real routing driven through the workload on the stand-in NCCL, under the library.

    SKEWSCOPE_TOOL=build/tools/skewscope python3 tests/analysis/observecapture.py OUT build/tools/workload/skewscope-workload
    skewscope observe --json OUT/*/ > ANSWER.json
    python3 tests/analysis/observecheck.py ANSWER.json
    python3 tests/analysis/observepage.py ANSWER.json

gpt-oss-20b (all 24 layers, all requests and by benchmark), FLAME-MoE-290M (8 layers), OLMoE-1B-7B and Mixtral-8x7B (3
layers each, by domain) and uniform mock traces of the same shapes, at EP 4, 8, 16 and 32; Mixtral, which has 8 experts, at
4 and 8. What is there already is left as it is, so a run that was stopped goes on where it was: a trace gets its name
only once it is whole. `--only WORD` makes those whose name holds the word."""
import argparse
import os
import pathlib
import shutil
import time

import routingdata
from observegrid import COUNTED, DATA, GROUPS, labels, requests_of, slice_requests, tool

import npy

DEGREES = (4, 8, 16, 32)
FLAME = (32, 64)                                     # its sequences, and tokens of each
TOKENS = 4096                                        # a call, of what has no order but the workload's
SHAPES = {"gpt-oss-20b": ("gqa", 32, 4, 24), "flame-290m": ("mha", 64, 6, 8), "olmoe": ("mha", 64, 8, 3),
          "mixtral": ("gqa", 8, 2, 3)}               # mixer, experts, top-k, layers


class Capture:
    """One trace that is to be: the workload's arguments and the labels."""

    def __init__(self, model, data, tokens, batch, ranks, arguments):
        mixer, _, topk, layers = SHAPES[model]
        self.name = f"{model}-{data}-{batch}-ep{ranks:02}"
        self.labels = dict(model=model, mixer=mixer, data=data, tokens=tokens, batch=batch, topk=topk)
        self.arguments = ["--ranks", ranks, "--topk", topk, "--layers", layers, "--steps", "all", *arguments]
        self.ranks = ranks

    def make(self, out, workload):
        """Whether it was made: not if it was there."""
        path, part = out / self.name, out / (self.name + ".part")
        if (path / "trace.db").exists():
            return False
        shutil.rmtree(part, ignore_errors=True)
        tool("run", "--quiet", "--standin", "-o", part, *labels(**self.labels), "--", workload, "--brief", "--mode", "infer",
             "--bias-allreduce", *self.arguments, *(["--share-gpu"] if self.ranks > 8 else []))
        # Saved once here, or every look at the grid would find labels and counts again.
        tool("label", "--save", part)
        tool("routing", "--save", part)
        part.rename(path)
        return True


def flame_by_sequence(path):
    """[layer, token, k] as [sequence, token, layer, k]: a call is then of the same tokens at every EP degree."""
    ids = npy.load(DATA / "flame290m_prefill_topk.npy")
    layers, tokens, k = ids.shape
    values = ids.values[:0]
    for token in range(tokens):
        for layer in range(layers):
            at = (layer * tokens + token) * k
            values += ids.values[at:at + k]
    npy.save(path, npy.Npy((*FLAME, layers, k), values))


def real(inputs, ranks):
    for domain, batch in [(domain, 16) for domain in ("all", *GROUPS)] + [("all", 4), ("all", 1)]:
        yield Capture("gpt-oss-20b", domain, "real", batch, ranks,
                      ["--routing", f"npy:{inputs}/gptoss-{domain}.npy", "--experts", 32, "--tokens", batch])
    for positions in (1, 2):
        yield Capture("flame-290m", "pile", "real", positions * FLAME[0], ranks,
                      ["--routing", f"npy:{inputs}/flame.npy", "--experts", 64, "--tokens", positions])
    for model, (name, _, domains) in COUNTED.items():
        for domain in domains:
            yield Capture(name, domain, "real", TOKENS, ranks,
                          ["--routing", f"counts:{DATA}/olmoe_mixtral_expert_counts.csv", "--counts-select",
                           f"model={model},domain={domain}", "--tokens", TOKENS // ranks])


def mock(ranks):
    """As many tokens a call as the real trace of the same batch has, of other tokens at each EP degree."""
    for model, batch, tokens, steps in (("gpt-oss-20b", 16, 1024, 31), ("gpt-oss-20b", 4, 256, 126),
                                        ("gpt-oss-20b", 1, 64, 504), ("flame-290m", 32, 32, 64),
                                        ("flame-290m", 64, 64, 32), ("olmoe", TOKENS, TOKENS, 51),
                                        ("mixtral", TOKENS, TOKENS, 51)):
        yield Capture(model, "uniform", "mock", batch, ranks,
                      ["--routing", "uniform", "--experts", SHAPES[model][1], "--tokens", tokens // ranks, "--steps", steps,
                       "--seed", ranks])


def plan(inputs):
    return [c for ranks in DEGREES for c in (*real(inputs, ranks), *mock(ranks))
            if SHAPES[c.labels["model"]][1] % ranks == 0]


def prepare(inputs):
    inputs.mkdir(parents=True, exist_ok=True)
    ids, groups = npy.load(DATA / "gptoss20b_decode_topk.npy"), requests_of()
    for domain, rows in groups.items():
        slice_requests(ids, rows, inputs / f"gptoss-{domain}.npy")
    flame_by_sequence(inputs / "flame.npy")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("workload", type=os.path.abspath)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    inputs = asked.out.with_name(asked.out.name + ".inputs")
    prepare(inputs)
    asked.out.mkdir(parents=True, exist_ok=True)
    captures = [c for c in plan(inputs) if asked.only in c.name]
    for n, capture in enumerate(captures, 1):
        start = time.monotonic()
        made = capture.make(asked.out, asked.workload)
        print(f"{n} of {len(captures)}: {capture.name}: {f'{time.monotonic() - start:.1f} s' if made else 'is there'}", flush=True)


if __name__ == "__main__":
    routingdata.need_data()
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`skewscope hang` names who is missing, which sizes disagree and where both sides called, for jobs that stand
still in a known way (hang_job.c). usage: test_hang.py JOB SKEWSCOPE"""
import json
import os
import subprocess
import sys

from harness import temporary

WHO, WHEN, RANKS = 2, 3, 4


def trace(job, skewscope, kind, directory):
    out = os.path.join(directory, kind)
    env = {k: v for k, v in os.environ.items() if not k.startswith("SKEWSCOPE_")}
    env["SKEWSCOPE_STANDIN_TIMEOUT"] = "2"
    subprocess.run([skewscope, "run", "--standin", "--quiet", "--out", out, "--", job, kind], env=env,
                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    return out


def hang(skewscope, out, status):
    text = subprocess.run([skewscope, "hang", out], capture_output=True, text=True, check=False)
    machine = subprocess.run([skewscope, "hang", "--json", out], capture_output=True, text=True, check=False)
    if (text.returncode, machine.returncode) != (status, status) or text.stderr:
        sys.exit(f"{out}: exit status {text.returncode}, {machine.returncode}, expected {status}: "
                 f"{text.stdout}{text.stderr}{machine.stderr}")
    return text.stdout, json.loads(machine.stdout)["findings"]


def expect(what, found, **wanted):
    for key, value in wanted.items():
        if found[key] != value:
            sys.exit(f"{what}: {key} is {found[key]!r}, expected {value!r}: {found}")


def call_is(what, call, op, seq, function):
    if call is None or (call["op"], call["seq"]) != (op, seq) or function not in (call["call_site"] or ""):
        sys.exit(f"{what}: {call}, expected {op} {seq} in {function}")


def says(what, text, *words):
    for word in words:
        if word not in text:
            sys.exit(f"{what}: does not say '{word}':\n{text}")


def main():
    job, skewscope = sys.argv[1:3]
    with temporary() as directory:
        text, found = hang(skewscope, trace(job, skewscope, "fine", directory), 0)
        says("fine", text, "every send met its receive")

        for kind, process in (("missing", "exited"), ("killed", "killed")):
            text, found = hang(skewscope, trace(job, skewscope, kind, directory), 1)
            expect(kind, found[0], kind="absent", rank=WHO, waiting=RANKS - 1, process=process,
                   sent_bytes=4096 * (WHO + 1), expected_bytes=4096 * (found[0]["other_rank"] + 1))
            call_is(kind, found[0]["other_call"], "sendrecv", WHEN, "exchange_tokens")
            call_is(kind, found[0]["call"], "sendrecv", WHEN - 1, "exchange_tokens")
            call_is(kind, found[0]["last_call"], "allreduce", WHEN - 1, "reduce_gradients")
            says(kind, text, f"rank {WHO} never came", "exchange_tokens", f"{4096 * (WHO + 1)} bytes")
            if any(f["rank"] != WHO for f in found):
                sys.exit(f"{kind}: an innocent rank is named: {found}")

        text, found = hang(skewscope, trace(job, skewscope, "size", directory), 1)
        expect("size", found[0], kind="size", rank=3, other_rank=WHO, sent_bytes=4 * 4096 + 512,
               expected_bytes=4 * 4096)
        call_is("size", found[0]["call"], "sendrecv", WHEN, "exchange_tokens")
        call_is("size", found[0]["other_call"], "sendrecv", WHEN, "exchange_tokens")
        says("size", text, f"rank {WHO} sends 16896 bytes to rank 3, which expects 16384")
        if len(found) != 1:
            sys.exit(f"size: more than the one pair: {found}")

        text, found = hang(skewscope, trace(job, skewscope, "reduce", directory), 1)
        expect("reduce", found[0], kind="behind", rank=WHO, waiting=RANKS - 1)
        call_is("reduce", found[0]["other_call"], "allreduce", WHEN, "reduce_gradients")
        call_is("reduce", found[0]["last_call"], "sendrecv", WHEN, "exchange_tokens")

        text, found = hang(skewscope, trace(job, skewscope, "count", directory), 1)
        expect("count", found[0], kind="differs", rank=WHO)
        expect("count", found[0]["call"], count=512)
        expect("count", found[0]["other_call"], count=256)


if __name__ == "__main__":
    main()

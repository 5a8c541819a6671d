# SPDX-License-Identifier: Apache-2.0
"""What the e2e tests share: running the workload on the stand-ins, skipping, and failing."""
import os
import random
import subprocess
import sys
import tempfile

import expect_matrix
import npy

HERE = os.path.dirname(os.path.abspath(__file__))
# Beside the project's root, or where SKEWSCOPE_TEST_DATA says.
DATA = os.environ.get("SKEWSCOPE_TEST_DATA") or os.path.join(HERE, "..", "..", "..", "shared", "data")


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def data(name):
    """A file of the real routing data, or None where it is absent."""
    path = os.path.normpath(os.path.join(DATA, name))
    return path if os.path.exists(path) else None


class Workload:
    """The built workload and the libraries that it runs on."""

    def __init__(self, program, libraries):
        for path in (program, os.path.join(libraries, "libnccl.so.2"),
                     os.path.join(libraries, "libcudart.so.13")):
            if not os.path.exists(path):
                skip(f"{path} is not there: build the workload and the stand-ins first")
        self.program, self.libraries = os.path.abspath(program), os.path.abspath(libraries)

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items()
               if not k.startswith(("SKEWSCOPE_", "NCCL_")) and
               k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LD_PRELOAD")}
        env["LD_LIBRARY_PATH"] = self.libraries
        env.update({k: str(v) for k, v in more.items()})
        return env

    def run(self, options, prefix=(), **env):
        return subprocess.run([*prefix, self.program, *options], env=self.environment(**env),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def must_succeed(result, what):
    if result.returncode != 0:
        sys.exit(f"{what}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    if result.stderr:
        sys.exit(f"{what}: unexpected words on stderr: {result.stderr}")


def must_fail(result, status, words, what):
    if result.returncode != status:
        sys.exit(f"{what}: exit status {result.returncode}, expected {status}\n{result.stderr}")
    for word in words:
        if word not in result.stderr:
            sys.exit(f"{what}: stderr does not say '{word}': {result.stderr}")


def check_truth(workload, options, directory, **env):
    """Runs the workload and compares its truth with the recomputation. Returns its stdout."""
    truth = os.path.join(directory, "truth.jsonl")
    result = workload.run([*options, "--truth", truth], **env)
    must_succeed(result, " ".join(options))
    wrong, calls, cells = expect_matrix.check([*options, "--truth", truth])
    if wrong:
        sys.exit("\n".join([" ".join(options), *wrong]))
    left = [n for n in os.listdir(directory) if ".part" in n]
    if left:
        sys.exit(f"parts of the truth were left behind: {left}")
    print(f"ok: {' '.join(options)}: {calls} calls, {cells} cells")
    return result.stdout


def random_topk(path, shape, experts, seed):
    """Writes an .npy of top-k ids [..., k], distinct within a token."""
    rng, values = random.Random(seed), []
    tokens = 1
    for n in shape[:-1]:
        tokens *= n
    for _ in range(tokens):
        values += rng.sample(range(experts), shape[-1])
    npy.save(path, npy.Npy(shape, values))
    return path


def temporary():
    return tempfile.TemporaryDirectory(prefix="skewscope-e2e-")

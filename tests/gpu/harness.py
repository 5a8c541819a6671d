# SPDX-License-Identifier: Apache-2.0
"""Where the things are that tests/gpu/run needs, and starting job.py with and without skewscope."""
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import cost

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
JOB = HERE / "job.py"
# Ranks of one GPU: each has a host of its own, as far as NCCL can see, and few blocks, so that all fit on the device at once.
ONE_GPU = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_NET": "Socket", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1",
           "NCCL_MNNVL_ENABLE": "0", "NCCL_NVLS_ENABLE": "0", "NCCL_MAX_CTAS": "2", "NCCL_MAX_P2P_NCHANNELS": "1",
           "NCCL_MULTI_RANK_GPU_ENABLE": "1"}
FOREIGN = ("SKEWSCOPE_", "NCCL_", "TORCH_NCCL_", "CUDA_DEVICE_MAX", "CUDA_LAUNCH", "LD_PRELOAD", "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_")
SHARED_SIZE = {"rows": 1024, "calls": 6}  # of ranks that share a GPU, and talk through sockets
DRY_SIZE = {"tokens": 256, "hidden": 64, "ffn": 64, "layers": 2, "steps": 3, "rows": 64, "replays": 5, "calls": 3, "small": 16}
PROBE = """import json, torch
assert torch.cuda.is_available(), "torch sees no GPU"
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "nccl": ".".join(map(str, torch.cuda.nccl.version())),
                  "gpu": torch.cuda.get_device_name(0)}))"""


class Missing(Exception):
    """Something that the machine lacks: the run is skipped, and says so."""


# ---- skewscope itself ----

def works(tool):
    """None, or why this build cannot be used here."""
    if not tool.exists():
        return f"{tool} is not there"
    done = subprocess.run([tool, "--version"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"{tool} does not start here: {done.stderr.strip()}"


def bundle(build):
    """Copies the libraries that the command needs beside it (its run path looks there first): for a machine that has not got
    them. The C library itself stays out: it must be the machine's own."""
    tool, into = build / "tools" / "skewscope", build / "tools" / "bundle"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    own = ("linux-vdso", "ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so")
    for line in subprocess.run(["ldd", tool], capture_output=True, text=True, check=True).stdout.splitlines():
        name, _, path = line.strip().partition(" => ")
        if path and not Path(name).name.startswith(own):
            shutil.copy(path.split(" (")[0], into / Path(name).name)
    return sorted(p.name for p in into.iterdir())


ADVICE = """Build it where its libraries are (CUDA is not needed), let it bring them along, and copy three things:
    meson setup build && ninja -C build && tests/gpu/run --bundle
    build/tools/skewscope  build/tools/bundle/  build/interpose/libskewscope.so"""


def build_here(build):
    """With what the machine has, and nothing that it lacks."""
    lacking = [name for name in ("meson", "ninja", "cc") if not shutil.which(name)]
    if lacking:
        raise Missing(f"{', '.join(lacking)}: not here, so nothing can be built. {ADVICE}")
    for command in (["meson", "setup", build, ROOT], ["ninja", "-C", build, "tools/skewscope", "interpose/libskewscope.so"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing(f"{' '.join(map(str, command))} failed here:\n{(done.stdout + done.stderr)[-600:]}\n{ADVICE}")


def find_build(build, named):
    """The directory to use; a missing one is made where that is possible, one that was named must work."""
    why = works(build / "tools" / "skewscope")
    if why and (named or build.exists()):
        raise Missing(f"{why}. {ADVICE}")
    if why:
        build_here(build)
    return build.resolve()


def driver():
    done = None
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    return done.stdout.strip().splitlines()[0] if done and done.returncode == 0 and done.stdout.strip() else "unknown"


# ---- jobs ----

class Bench:
    def __init__(self, build, dry, seed):
        self.build, self.dry, self.seed = build, dry, seed
        self.skewscope = build / "tools" / "skewscope"
        self.top = Path(tempfile.mkdtemp(prefix="skewscope-gpu-"))
        self.shared = {}

    def close(self):
        shutil.rmtree(self.top, ignore_errors=True)

    def machine(self):
        """Versions; or Missing."""
        try:
            done = subprocess.run([sys.executable, "-c", PROBE], env=self.environment(), capture_output=True, text=True, timeout=180)
        except subprocess.TimeoutExpired as e:
            raise Missing("importing torch took more than 180 s") from e
        if done.returncode != 0:
            raise Missing("no GPU, or no PyTorch that can use it: " + (done.stderr.strip().splitlines() or ["?"])[-1])
        version = subprocess.run([self.skewscope, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        return {**json.loads(done.stdout), "driver": "stand-in" if self.dry else driver(), "skewscope": version, "cores": os.cpu_count(),
                "machine": platform.machine(), "python": platform.python_version(), "standin": self.dry}

    def environment(self, ranks=1, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", TMPDIR=str(self.top))
        if self.dry:
            env.update(PYTHONPATH=str(HERE / "dry"), LD_LIBRARY_PATH=str(self.build / "tests" / "standin" / "lib"))
        env["JOB_SIZE"] = json.dumps(DRY_SIZE if self.dry else SHARED_SIZE if ranks > 1 else {})
        env.update({k: str(v) for k, v in more.items()})
        return env

    def command(self, works, timing, out):
        """job.py, under skewscope unless `timing` is None."""
        command = [sys.executable, str(JOB), *works]
        if timing is None:
            return command
        return [str(self.skewscope), "run", "--quiet", *(["--standin"] if self.dry else []), f"--timing={timing}", "-o", str(out / "trace"),
                "--", *command]

    def job(self, works, timing=None, ranks=1, seconds=150, **env):
        """Runs it to its end. Returns a Result."""
        out = Path(tempfile.mkdtemp(dir=self.top))
        processes, base = [], self.environment(ranks, JOB_DIR=out, WORLD_SIZE=ranks, **(ONE_GPU if ranks > 1 else {}), **env)
        for rank in range(ranks):
            mine = dict(base, RANK=str(rank), **({"NCCL_HOSTID": f"host{rank}"} if ranks > 1 else {}))
            with open(out / f"log.{rank}", "w", encoding="utf-8") as log:
                processes.append(subprocess.Popen(self.command(works, timing, out), env=mine, stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=subprocess.STDOUT, start_new_session=True))
        try:
            for process in processes:
                process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for rank, process in enumerate(processes):
            log = (out / f"log.{rank}").read_text(encoding="utf-8", errors="replace")
            assert process.returncode == 0, (f"{' '.join(works)}, timing {timing}, rank {rank} of {ranks}: exit status {process.returncode}"
                                             f"{' (out of time)' if process.returncode == -9 else ''}; {log[-1500:]}")
        return Result(self, out, ranks, timing is not None)

    def once(self, *arguments, **more):
        """The same job for several cases of one run."""
        key = json.dumps([arguments, more])
        if key not in self.shared:
            self.shared[key] = self.job(*arguments, **more)
        return self.shared[key]

    def arm(self, name):
        """A process that serves blocks: see cost.py."""
        out = Path(tempfile.mkdtemp(dir=self.top))
        timing = None if name in (cost.OFF, cost.AGAIN) else name
        return cost.Arm(name, self.command(["serve"], timing, out), self.environment(JOB_DIR=out), out / "log")


class Trace:
    """A directory that skewscope has written."""

    def __init__(self, bench, directory):
        self.bench, self.trace = bench, directory
        subprocess.run([bench.skewscope, "collect", directory], check=True, capture_output=True, text=True)
        files = sorted(directory.glob("trace*.db"))
        assert len(files) == 1, f"{len(files)} databases in {directory.name}"
        self.path = files[0]
        self.db = sqlite3.connect(self.path)
        self.db.row_factory = sqlite3.Row

    def rows(self, sql, *values):
        return self.db.execute(sql, values).fetchall()

    def one(self, sql, *values):
        [row] = self.rows(sql, *values)
        return row[0] if len(row) == 1 else row

    def skewscope(self, *arguments, accept=(0,)):
        done = subprocess.run([self.bench.skewscope, *map(str, arguments)], capture_output=True, text=True, timeout=120)
        assert done.returncode in accept, f"skewscope {' '.join(map(str, arguments))}: exit status {done.returncode}: {done.stderr[-500:]}"
        return done.stdout


class Result(Trace):
    """What a job said itself (by rank), and its trace, if it was traced."""

    def __init__(self, bench, out, ranks, traced):
        self.out, self.ranks = out, ranks
        self.said = [json.loads((out / f"result.{rank}").read_text()) for rank in range(ranks)]
        if traced:
            super().__init__(bench, out / "trace")

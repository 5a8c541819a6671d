# SPDX-License-Identifier: Apache-2.0
"""What the benchmark drivers share: statistics, and running one arm of a comparison.

All results are ratios or differences between arms that took turns in the same run, as medians with
bootstrap 95 % intervals: the machines that these run on are never quiet. No verdict is a pass or a
failure; the promise is printed beside the result.
"""
import array
import os
import platform
import random
import signal
import subprocess
import time

SKIP = 77  # what Meson takes for "skipped"
RESAMPLES = 1000


def quantile(values, q):
    """Linear between the neighbours (type 7); `values` in any order."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def median(values):
    return quantile(values, 0.5)


def bootstrap(units, statistic, seed=2):
    """(estimate, low, high): `statistic` of the list `units`, and its 95 % percentile interval when the
    units (rounds, or pairs) are drawn again with replacement. What is paired stays together."""
    rng = random.Random(seed)
    drawn = sorted(statistic(rng.choices(units, k=len(units))) for _ in range(RESAMPLES))
    return statistic(units), quantile(drawn, 0.025), quantile(drawn, 0.975)


def interval(result, unit="", digits=2):
    value, low, high = result
    return f"{value:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def read_ns(path):
    values = array.array("d")
    with open(path, "rb") as f:
        values.frombytes(f.read())
    return values


def cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            for line in f:
                if line.lower().startswith(("model name", "cpu part")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def is_virtual():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return " hypervisor" in f.read()
    except OSError:
        return False


def load():
    return " ".join(f"{x:.2f}" for x in os.getloadavg())


def describe_machine():
    kind = "a virtual machine" if is_virtual() else "a machine"
    cpus = sorted(os.sched_getaffinity(0))
    print(f"machine: {cpu_model()}, {kind} with {len(cpus)} cores, Linux {platform.release()}, no GPU used; "
          f"load before the run {load()}; {time.strftime('%Y-%m-%d %H:%M')}")


def cores():
    """The core that is measured on and the one for everybody else (the same where there is only one)."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[-1]


def run_on(core, argv, env, **kwargs):
    """Runs one arm to its end on one core. A failure ends the benchmark with its message."""
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                          preexec_fn=lambda: os.sched_setaffinity(0, {core}), **kwargs)
    if done.returncode != 0:
        raise SystemExit(f"{argv[0]} ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def start_on(core, argv, env, log):
    """Starts a helper process of this benchmark; end it with stop()."""
    with open(log, "ab") as out:
        return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                preexec_fn=lambda: os.sched_setaffinity(0, {core}))


def stop(process, seconds=30):
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def turns(arms, number):
    """The arms in an order that rotates and alternates in direction, so that none is always first."""
    shift = number % len(arms)
    order = arms[shift:] + arms[:shift]
    return order if number % 2 == 0 else order[::-1]

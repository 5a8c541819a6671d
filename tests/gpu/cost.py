# SPDX-License-Identifier: Apache-2.0
"""What recording adds: processes with and without it, alive side by side and driven in turns.

An arm is one process of job.py that serves blocks (so many training steps, or so many small all-to-alls), with the library
at one tier or without it. In each round every arm runs one block, in random order, while the others wait in a read; so on
and off are within a second or two of each other, whatever clocks and temperatures do over minutes. The ratio of an arm to
the arm `off` of the same round is one pair. `off again` is a second process without the library: what it "adds" is noise,
and the least that can be told. Processes are started anew now and then (fleets), since each has memory and threads of its
own that favour it or not.
"""
import json
import math
import os
import random
import selectors
import signal
import statistics
import subprocess
import time

OFF, AGAIN = "off", "off again"


class Arm:
    """One process of job.py, at rest unless asked."""

    def __init__(self, name, command, env, log):
        self.name, self.log, self.out = name, log, log.parent
        with open(log, "w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                            text=True, start_new_session=True)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def answer(self, seconds):
        """The next line of the process, as JSON."""
        if not self.selector.select(seconds):
            raise AssertionError(f"arm {self.name}: no answer in {seconds} s; {self.tail()}")
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"arm {self.name}: ended with status {self.process.wait(30)}; {self.tail()}")
        return json.loads(line)

    def ask(self, seconds=60, **what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.answer(seconds)

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()[-1500:]

    def close(self):
        """Asks it to end, and ends what does not."""
        try:
            self.process.stdin.write('{"end": true}\n')
            self.process.stdin.close()
            self.process.wait(60)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            pass
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
        self.selector.close()
        return self.process.returncode


def student(df, level=0.95):
    """The two-sided quantile of Student's t: its density integrated (Simpson) and bisected."""
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)

    def inside(t, steps=2000):
        h = t / steps
        values = [(1 + (i * h) ** 2 / df) ** (-(df + 1) / 2) for i in range(steps + 1)]
        return 2 * scale * h / 3 * (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]))
    low, high = 0.0, 1.0
    while inside(high) < level:
        low, high = high, high * 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return high


def summarise(ratios, fleets):
    """ratios: of each pair, what is added; fleets: of which fleet each is. In percent."""
    mean = statistics.mean(ratios)
    half = student(len(ratios) - 1) * statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else math.inf
    each = [100 * statistics.mean(r for r, f in zip(ratios, fleets) if f == fleet) for fleet in sorted(set(fleets))]
    return {"pairs": len(ratios), "added_percent": 100 * mean, "low_95_percent": 100 * (mean - half),
            "high_95_percent": 100 * (mean + half), "median_percent": 100 * statistics.median(ratios),
            "by_fleet_percent": each}


def judge(found, promise_percent):
    """What the interval says of a promise that less is added than this."""
    if found["high_95_percent"] < promise_percent:
        return "met"
    return "not met" if found["low_95_percent"] >= promise_percent else "not shown"


class Measurement:
    def __init__(self, start, tiers, what, pairs, fleets, block_seconds, seed):
        """start(name): an Arm, for "off", "off again" and each tier."""
        self.start, self.names, self.what = start, [OFF, AGAIN, *tiers], what
        self.pairs, self.fleets, self.block_seconds = pairs, fleets, block_seconds
        self.random = random.Random(seed)
        self.rounds = []  # (fleet, {name: ns})
        self.ended = []  # arms of all fleets

    def fleet(self, number, rounds, deadline):
        arms, whole = [], False
        try:
            for name in self.names:
                arms.append(self.start(name))
            for arm in arms:
                arm.answer(180)  # ready
            one = arms[0].ask(what=self.what, n=3, warm=3)["ns"]
            n = max(1, round(self.block_seconds * 1e9 / one))
            for arm in arms:
                arm.ask(what=self.what, n=n, warm=3)  # all are warm before anything counts
            for _ in range(rounds):
                if time.monotonic() > deadline:
                    break
                times = {arm.name: arm.ask(what=self.what, n=n, warm=max(1, n // 20))["ns"]
                         for arm in self.random.sample(arms, len(arms))}
                self.rounds.append((number, times))
            whole = True
        finally:
            codes = {arm.name: arm.close() for arm in arms}
            self.ended += arms
        bad = {name: code for name, code in codes.items() if code != 0}
        assert whole and not bad, f"ended with another status than 0: {bad}"
        return n

    def run(self, seconds):
        deadline, n = time.monotonic() + seconds, 0
        for number in range(self.fleets):
            left = self.fleets - number
            n = self.fleet(number, -(-(self.pairs - len(self.rounds)) // left), deadline)
        assert len(self.rounds) > 1, f"not one pair in {seconds} s"
        return n

    def added(self, name):
        return summarise([t[name] / t[OFF] - 1 for _, t in self.rounds], [f for f, _ in self.rounds])

    def off_ns(self):
        return statistics.median(t[OFF] for _, t in self.rounds)

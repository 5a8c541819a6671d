#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The parts of tests/gpu/run that need no GPU, and all of it on the stand-ins (group dry).

usage: test_run.py BUILD GROUP      GROUP: parts, dry, page
"""
import importlib.machinery
import importlib.util
import json
import math
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import types

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
import cases  # noqa: E402
import cost  # noqa: E402
import fixture  # noqa: E402
import harness  # noqa: E402
import report  # noqa: E402

BUILD = pathlib.Path(sys.argv[1]).resolve()
# Stands in for job.py: its blocks last as long as argv says, and it writes down when it worked.
FAKE = """import json, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("end"):
        break
    begin = time.monotonic_ns()
    time.sleep(0.001)
    with open(sys.argv[2], "a") as f:
        f.write(json.dumps([begin, time.monotonic_ns(), asked]) + "\\n")
    print(json.dumps({"ns": float(sys.argv[1])}), flush=True)
"""


def run_module():
    loader = importlib.machinery.SourceFileLoader("gpu_run", str(HERE / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_run", loader))
    loader.exec_module(module)
    return module


def call(*arguments, **env):
    done = subprocess.run([sys.executable, HERE / "run", *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **env})
    return done.returncode, done.stdout + done.stderr


def raises(text, function, *arguments):
    try:
        function(*arguments)
    except (AssertionError, harness.Missing) as e:
        assert text in str(e), f"{text!r} is not in {str(e)!r}"
        return
    raise AssertionError(f"nothing was raised that says {text!r}")


# ---- parts ----

def case_intervals(top):
    """Student's t against tables; mean and interval against a sample worked out by hand."""
    for df, wanted in ((1, 12.7062), (2, 4.3027), (5, 2.5706), (29, 2.0452), (35, 2.0301), (100, 1.9840)):
        assert abs(cost.student(df) - wanted) < 1e-3, (df, cost.student(df), wanted)
    got = cost.summarise([0.001, 0.002, 0.003, 0.006], [0, 0, 1, 1])  # mean 0.003, sd 0.0021602, t(3) 3.18245
    half = 100 * 3.18245 * 0.00216025 / 2
    assert abs(got["added_percent"] - 0.3) < 1e-9 and abs(got["high_95_percent"] - 0.3 - half) < 1e-4, got
    assert abs(got["low_95_percent"] - 0.3 + half) < 1e-4 and abs(got["median_percent"] - 0.25) < 1e-9, got
    assert [round(f, 9) for f in got["by_fleet_percent"]] == [0.15, 0.45] and got["pairs"] == 4, got
    assert cost.summarise([0.1], [0])["high_95_percent"] == math.inf
    verdicts = [cost.judge({"low_95_percent": low, "high_95_percent": high}, 0.3) for low, high in ((-1, 0.29), (0.1, 0.31), (0.3, 0.4))]
    assert verdicts == ["met", "not shown", "not met"], verdicts


def case_arms_take_turns(top):
    """The ratios that come out are those of the arms; while one works, no other has been asked; orders differ."""
    speed = {cost.OFF: 1000.0, cost.AGAIN: 1010.0, "auto": 1200.0}

    def start(name):
        log = top / f"{name}.log"
        return cost.Arm(name, [sys.executable, "-c", FAKE, str(speed[name]), str(top / f"{name}.times")], dict(os.environ), log)
    m = cost.Measurement(start, ["auto"], "step", 12, 3, 0.00001, seed=7)
    n = m.run(60)
    assert n == 10, n  # a block of 10 µs of steps of 1 µs
    auto, again = m.added("auto"), m.added(cost.AGAIN)
    assert abs(auto["added_percent"] - 20) < 1e-9 and abs(again["added_percent"] - 1) < 1e-9, (auto, again)
    assert auto["pairs"] == 12 and len(auto["by_fleet_percent"]) == 3 and m.off_ns() == 1000, auto
    blocks = sorted((*json.loads(line), path.stem) for path in top.glob("*.times") for line in path.read_text().splitlines())
    for one, other in zip(blocks, blocks[1:]):
        assert one[1] <= other[0], f"{one} and {other} ran at the same time"
    counted = [b[3] for b in blocks if b[2]["n"] == n]
    # after one warm block of each, every round has each arm once
    orders = {tuple(counted[i:i + 3]) for fleet in range(3) for i in range(15 * fleet + 3, 15 * fleet + 15, 3)}
    assert all(set(order) == set(speed) for order in orders), orders
    assert len(orders) > 1, "the order was the same in all rounds"


def case_arms_that_fail(top):
    """One that dies is told with what it said; one that does not answer is ended; neither leaves a process."""
    dies = cost.Arm("dies", [sys.executable, "-c", "import sys; sys.exit('no memory for this')"], dict(os.environ), top / "a")
    raises("no memory for this", dies.answer, 60)
    assert dies.close() == 1
    silent = cost.Arm("silent", [sys.executable, "-c", "import time; print(flush=True); time.sleep(1000)"], dict(os.environ), top / "b")
    silent.process.stdout.readline()
    raises("no answer in 0.05 s", silent.answer, 0.05)
    os.killpg(silent.process.pid, 9)
    assert silent.close() == -9

    def start(name):
        text = FAKE if name == cost.OFF else FAKE + "sys.exit(3)"
        return cost.Arm(name, [sys.executable, "-c", text, "1000", str(top / "t")], dict(os.environ), top / "c")
    raises("ended with another status than 0", cost.Measurement(start, ["auto"], "step", 2, 1, 0.00001, 1).run, 60)


def case_results_are_kept(top):
    """What failed is written down with its reason, and has its turn behind what has not run; what passed is not run again."""
    run = run_module()

    def broken(_):
        raise AssertionError("two bytes are missing")

    def worse(_):
        return {}["nothing"]
    keep = dict(cases.CASES)
    try:
        cases.CASES.clear()
        broken.__doc__ = worse.__doc__ = good = "text"
        cases.CASES.update(broken=broken, worse=worse, good=lambda _: {"n": 1})
        cases.CASES["good"].__doc__ = good
        o = types.SimpleNamespace(case=[], again=False, budget=100, seconds=100, dry=True, out=top)
        it = types.SimpleNamespace(on="here", machine={"standin": True}, now=run.Run.now)
        it.case = lambda name: run.Run.case(it, name)
        record = {"results": {}}
        assert run.left_to_do(o, record, "here") == ["broken", "worse", "good"]
        assert run.run_cases(o, it, top, record) == 2
        kept = json.loads((top / "gpu.json").read_text())["results"]
        assert kept["broken"]["outcome"] == "failed" and kept["broken"]["found"] == "two bytes are missing", kept
        assert "KeyError" in kept["worse"]["found"] and kept["good"]["found"] == {"n": 1}, kept
        assert run.left_to_do(o, record, "here") == ["broken", "worse"]
        assert run.left_to_do(o, record, "elsewhere") == ["broken", "worse", "good"]
        o.again = True
        assert run.left_to_do(o, record, "here") == ["good", "broken", "worse"]
        o.dry, o.budget = False, 1
        before = json.dumps(record)
        assert run.run_cases(o, it, top, record) == 0 and json.dumps(record) == before, "a case was begun without time for it"
        text = (top / "gpu.md").read_text()
        assert "two bytes are missing" in text and "dry run on the stand-ins" in text, text
    finally:
        cases.CASES.clear()
        cases.CASES.update(keep)


def case_what_is_missing_is_told(top):
    status, text = call("--build", top / "nothing", "--out", top)
    assert status == 77 and "is not there" in text and "--bundle" in text, (status, text)
    status, text = call("--dry")
    assert status == 2 and "--out" in text, (status, text)
    status, text = call("--out", top, "no_such_case")
    assert status == 2 and "single_rank_events" in text, (status, text)
    status, text = call("--tiers", "host", "--out", top)
    assert status == 2 and "auto" in text, (status, text)
    # a build that is there but does not start
    tools = top / "broken" / "tools"
    tools.mkdir(parents=True)
    (tools / "skewscope").write_text("#!/bin/sh\necho 'libjansson.so.4: not found' >&2\nexit 127\n")
    (tools / "skewscope").chmod(0o755)
    status, text = call("--build", top / "broken", "--out", top)
    assert status == 77 and "libjansson.so.4" in text and "meson setup" in text, (status, text)
    raises("meson", lambda: with_path("", harness.build_here, top / "b"))
    # a torch that sees no GPU
    (top / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    status, text = call("--build", BUILD, "--out", top, PYTHONPATH=str(top))
    assert status == 77 and "torch sees no GPU" in text, (status, text)
    assert not (top / "gpu.json").exists()


def with_path(path, function, *arguments):
    before, os.environ["PATH"] = os.environ["PATH"], path
    try:
        return function(*arguments)
    finally:
        os.environ["PATH"] = before


def case_bundle(top):
    """A copy elsewhere finds its libraries beside it."""
    away = top / "away"
    shutil.copytree(BUILD / "tools", away / "tools", ignore=lambda d, names: [n for n in names if n != "skewscope"])
    names = harness.bundle(away)
    assert any(n.startswith("libsqlite3") for n in names) and not any(n.startswith(("libc.so", "ld-linux")) for n in names), names
    resolved = subprocess.run(["ldd", away / "tools" / "skewscope"], capture_output=True, text=True, check=True).stdout
    beside = [line for line in resolved.splitlines() if f"{away}/tools/bundle/" in line]
    assert len(beside) == len(names), resolved
    assert harness.works(away / "tools" / "skewscope") is None


def case_fixtures_are_clean(top):
    """Names of machines, paths and people do not get into a fixture; what is replayed has the same rows."""
    db = sqlite3.connect(top / "t.db")
    db.executescript(fixture.SCHEMA.read_text(encoding="utf-8"))
    db.execute("INSERT INTO meta VALUES ('host', 'secret-host'), ('node', 'feedfeed'), ('version', '0')")
    db.execute("INSERT INTO run (key, command, cwd) VALUES ('r', '[\"/home/someone/train.py\"]', '/home/someone')")
    db.execute("INSERT INTO run_label VALUES (1, 'model', 'secret-model')")
    db.execute("INSERT INTO run_env VALUES (1, 'USER', 'someone')")
    db.execute("INSERT INTO process (key, pid, host, exe, cmdline, cwd, nccl_path, started_ns, started_real_ns) VALUES ('k', 77,"
               " 'secret-host', '/home/someone/python', '[]', '/home/someone', '/home/someone/libnccl.so.2', 1, 1)")
    columns = [r[1] for r in db.execute("PRAGMA table_info(diagnostic)")]
    values = {"text": "/home/someone/lib/x.so: it''s odd", "severity": "info", "code": "c", "process_id": 1, "diagnostic_id": 1}
    used = [c for c in columns if c in values]
    db.execute(f"INSERT INTO diagnostic ({', '.join(used)}) VALUES ({', '.join('?' * len(used))})", [values[c] for c in used])
    db.execute("INSERT INTO vector VALUES (1, 2, 3, 2, 1, 1, 0, 0, x'0102', NULL)")
    db.commit()
    count = fixture.export(top / "t.db", top / "f.sql", {"name": "f", "nested": {"a": [1, None]}})
    text = (top / "f.sql").read_text()
    for word in ("secret", "someone", "feedfeed", "77"):
        assert word not in text, f"{word}: {text}"
    about = fixture.load(top / "f.sql", top / "back.db")
    assert about == {"name": "f", "nested": {"a": [1, None]}}, about
    back = sqlite3.connect(top / "back.db")
    assert back.execute("SELECT sizes, peers FROM vector").fetchall() == [(b"\1\2", None)] and count == 7, count
    assert back.execute("SELECT text FROM diagnostic").fetchall() == [("x.so: it''s odd",)]


# ---- all of it ----

def case_dry_run(top):
    """Every case, on the stand-ins; then nothing is left to do; then one again. Its fixtures replay."""
    options = ("--dry", "--build", BUILD, "--out", top, "--pairs", 3, "--fleets", 2, "--block", 0.01)
    (top / "tmp").mkdir()
    os.environ["TMPDIR"] = str(top / "tmp")
    status, text = call(*options)
    assert status == 0, text
    record = json.loads((top / "gpu.json").read_text())
    outcomes = {n: r["outcome"] for n, r in record["results"].items()}
    assert outcomes == {n: "passed" for n in cases.CASES}, outcomes
    assert all(r["standin"] and "stand-in" in r["on"] for r in record["results"].values()), "a result does not say that it is a stand-in's"
    assert (top / "gpu.md").read_text().startswith("# On a GPU (dry run on the stand-ins: nothing here is a measurement)\n")
    for case in ("cost_on_step", "cost_on_small_alltoall"):
        found = record["results"][case]["found"]
        assert found["noise"]["pairs"] == found["auto"]["pairs"] == len(found["rounds_ns"]) == 3, found
        ratios = [t["auto"] / t["off"] - 1 for _, t in found["rounds_ns"]]
        assert abs(100 * statistics.mean(ratios) - found["auto"]["added_percent"]) < 0.01, (ratios, found["auto"])
        assert len(found["cupti"]["of_each_fleet"]) == 2 and found["verdict"] == "stand-in: not judged", found
    before = (top / "gpu.json").read_text()
    status, text = call(*options)
    assert status == 0 and not [l for l in text.splitlines() if l.startswith(("passed", "failed"))], text
    assert (top / "gpu.json").read_text() == before
    status, text = call(*options, "--again", "nonblocking")
    assert status == 0 and "passed   nonblocking" in text and "torch_profiler," not in text, text
    replay = subprocess.run([sys.executable, HERE / "test_fixtures.py", BUILD / "tools" / "skewscope", top / "fixtures"],
                            capture_output=True, text=True)
    assert replay.returncode == 0, replay.stdout + replay.stderr
    kept = sorted(p.stem for p in (top / "fixtures").glob("*.sql"))
    assert kept == ["events_beside_profiler", "single_rank_cupti", "single_rank_events", "two_ranks_on_one_gpu"], kept
    # a fixture that says something else than the analyses is noticed
    path = top / "fixtures" / "single_rank_events.sql"
    path.write_text(path.read_text().replace('"findings": 0', '"findings": 1'))
    replay = subprocess.run([sys.executable, HERE / "test_fixtures.py", BUILD / "tools" / "skewscope", top / "fixtures"],
                            capture_output=True, text=True)
    assert replay.returncode == 1 and "FAIL  single_rank_events expectations" in replay.stdout, replay.stdout
    left = list((top / "tmp").iterdir())
    assert not left, f"left behind: {left}"


def case_page_is_current(top):
    """docs/measurements/gpu.md is what gpu.json beside it says: tests/gpu/run --page."""
    out = ROOT / "docs" / "measurements"
    wanted = report.page(report.read(out / "gpu.json"))
    assert (out / "gpu.md").read_text(encoding="utf-8") == wanted, "docs/measurements/gpu.md is not current: tests/gpu/run --page"


GROUPS = {"parts": [case_intervals, case_arms_take_turns, case_arms_that_fail, case_results_are_kept, case_what_is_missing_is_told,
                    case_bundle, case_fixtures_are_clean],
          "dry": [case_dry_run], "page": [case_page_is_current]}


def main():
    failed = 0
    for case in GROUPS[sys.argv[2]]:
        name = case.__name__.removeprefix("case_").replace("_", " ")
        with tempfile.TemporaryDirectory(prefix="skewscope-test-gpu-") as top:
            try:
                case(pathlib.Path(top))
                print(f"ok    {name}", flush=True)
            except AssertionError as e:
                failed += 1
                print(f"FAIL  {name}: {e}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""gpu.json and, made from it, gpu.md."""
import json

from cases import CASES, DEFAULT, PROMISE

COMMAND = "tests/gpu/run"
COST_CASES = {"cost_on_step": "step", "cost_on_small_alltoall": "alltoall"}


def read(path):
    """What earlier runs found; nothing yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"results": {}}


def number(value, digits=3):
    return f"{value:.{digits}f}"


def added(found):
    return f"{number(found['added_percent'])} % [{number(found['low_95_percent'])}, {number(found['high_95_percent'])}]"


def short(value):
    """A result on one line: without what has tables of its own, or is only for machines."""
    left_out = {"rounds_ns", "own_cost", "names", "records", "unknown_kernels", "seed", "of_each_fleet"}
    if not isinstance(value, dict):
        return str(value)
    shown = {k: short(v) if isinstance(v, dict) else v for k, v in value.items() if k not in left_out}
    return "; ".join(f"{k.replace('_', ' ')} {round(v, 4) if isinstance(v, float) else v}" for k, v in shown.items()
                     if v not in (None, "", []))


def cost_table(name, result):
    found, what = result["found"], "a training step" if name == "cost_on_step" else "a small all-to-all, waited for"
    lines = [f"## Added to {what}", "",
             f"{number(found['off_ns'] / 1e3, 1)} µs without the library (median); blocks of {found['in_a_block']}. The promise, that the upper end",
             f"of the default tier's interval is below {found['promise_percent']} %: **{found['verdict']}**.", "",
             "| arm | pairs | added, mean [95 % interval] | median | mean of each set of processes |", "|---|---|---|---|---|"]
    for arm in ["noise", *[k for k in found if isinstance(found[k], dict) and k != "noise"]]:
        f = found[arm]
        label = "without, again (noise)" if arm == "noise" else arm + (" (default)" if arm == DEFAULT else "")
        lines.append(f"| {label} | {f['pairs']} | {added(f)} | {number(f['median_percent'])} % |"
                     f" {', '.join(number(v) for v in f['by_fleet_percent'])} |")
    return lines + [""]


NOT_RUN = """**Not run.** Nothing of skewscope has been run on a GPU so far: not real NCCL with the tap or the events tier, not real CUPTI, not PyTorch
with torch.profiler beside it, and no cost of any tier. What the other pages state about device times was found on the stand-ins.
"""
HOW = f"""The one command, on a machine with one GPU and PyTorch:

    {COMMAND}

It installs nothing, needs no network, writes its results here after each case, and goes on with what is left when it is called again (`--budget
SECONDS` ends it early). Where skewscope cannot be built, `--build DIR` names a build from another machine, to which `{COMMAND} --bundle` has
added the libraries that it needs. `--dry --out DIR` runs the same cases on the stand-ins in a minute and measures nothing; `meson test gpu-dry`
does so with few pairs, so that the script cannot rot.
"""
COSTS = """Costs: processes with and without the library live side by side and take turns block by block, in random order within each round, the others
waiting in a read. A pair is the ratio to the block without the library in the same round; the interval is Student's over the pairs. `without,
again` is a second process without it: less than its interval cannot be told. All of it is one rank that exchanges with itself through NCCL's
kernel, since ranks that share a GPU have no latencies that mean anything. Short captures become `tests/gpu/fixtures/*.sql`, which `meson test
gpu-fixtures` replays."""


def promises(ran):
    lines = ["## Promises", "", "| | interval's upper end | judged |", "|---|---|---|"]
    for case, what in COST_CASES.items():
        upper, verdict = "", "not measured"
        if case in ran:
            found = ran[case]["found"]
            upper, verdict = f"{number(found[DEFAULT]['high_95_percent'])} %", found["verdict"]
        name = "training step" if what == "step" else "small all-to-all that is waited for"
        lines.append(f"| the default tier adds less than {PROMISE[what]} % to a {name} | {upper} | {verdict} |")
    return lines + [""]


def case_line(name, case, result):
    shown = f"| `{name}` | {' '.join(case.__doc__.split())} |"
    if not result:
        return f"{shown} not run | `{COMMAND} {name}` |"
    above = name in COST_CASES and result["outcome"] == "passed"
    text = "see above" if above else short(result["found"]).replace("|", "\\|").replace("\n", " ")
    return f"{shown} {result['outcome']}, {result['date'][:10]} | {text[:900]} |"


def page(record):
    results = record["results"]
    standin = any(r["standin"] for r in results.values())
    lines = ["# On a GPU" + (" (dry run on the stand-ins: nothing here is a measurement)" if standin else ""), ""]
    if results:
        machines = sorted({f"- {r['on']}, {r['date'][:10]}" for r in results.values()})
        lines += [f"Made by `{COMMAND}` from `gpu.json` beside it, which has every number. On:", "", *machines, ""]
    else:
        lines += NOT_RUN.split("\n")
    costs = {n: r for n, r in results.items() if n in COST_CASES and r["outcome"] == "passed"}
    lines += HOW.split("\n") + promises(costs)
    for name, result in costs.items():
        lines += cost_table(name, result)
    lines += ["## Cases", "", "| case | what it shows | | |", "|---|---|---|---|"]
    lines += [case_line(name, case, results.get(name)) for name, case in CASES.items()]
    return "\n".join(lines + ["", COSTS]) + "\n"


def write(out, record):
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json.part").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "gpu.json.part").rename(out / "gpu.json")
    (out / "gpu.md").write_text(page(record), encoding="utf-8")

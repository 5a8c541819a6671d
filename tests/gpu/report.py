# SPDX-License-Identifier: Apache-2.0
"""gpu.json and, made from it, gpu.md."""
import json

from cases import CASES, DEFAULT, PROMISE

COMMAND = "tests/gpu/run"


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
    return "; ".join(f"{k.replace('_', ' ')} {round(v, 4) if isinstance(v, float) else v}" for k, v in shown.items() if v not in (None, "", []))


def cost_table(name, result):
    found, what = result["found"], "a training step" if name == "cost_on_step" else "a small all-to-all, waited for"
    lines = [f"## Added to {what}", "",
             f"{number(found['off_ns'] / 1e3, 1)} µs without the library (median); blocks of {found['in_a_block']}; the promise: the upper end of the"
             f" default tier's interval is below {found['promise_percent']} %: **{found['verdict']}**.", "",
             "| arm | pairs | added, mean [95 % interval] | median | mean of each set of processes |", "|---|---|---|---|---|"]
    for arm in ["noise", *[k for k in found if isinstance(found[k], dict) and k != "noise"]]:
        f = found[arm]
        label = "without, again (noise)" if arm == "noise" else arm + (" (default)" if arm == DEFAULT else "")
        lines.append(f"| {label} | {f['pairs']} | {added(f)} | {number(f['median_percent'])} % |"
                     f" {', '.join(number(v) for v in f['by_fleet_percent'])} |")
    return lines + [""]


def page(record):
    results = record["results"]
    ran = {n: r for n, r in results.items() if r["outcome"] in ("passed", "failed")}
    machines = sorted({r["on"] for r in ran.values()})
    standin = any(r.get("standin") for r in ran.values())
    lines = ["# On a GPU" + (" (dry run on the stand-ins: nothing here is a measurement)" if standin else ""), ""]
    if not ran:
        lines += ["**Not run.** Nothing of skewscope has been run on a GPU so far: not real NCCL with the tap or the events tier, not real CUPTI, not PyTorch",
                  "with torch.profiler beside it, and no cost of any tier. What the other pages state about device times was found on the stand-ins.", ""]
    else:
        lines += [f"Made by `{COMMAND}` from `gpu.json` beside it, which has every number. On:", ""] + [f"- {m}" for m in machines] + [""]
    lines += ["The one command, on a machine with one GPU and PyTorch; it builds nothing that is missing there, needs no network, writes its results here after",
              "each case, and goes on with what is left when called again (`--budget SECONDS` ends it early):", "", f"    {COMMAND}", "",
              "`--build DIR` names a build from another machine (`--bundle` there makes it bring its libraries along). `--dry` runs the same on the stand-ins, in two",
              "minutes; `meson test gpu-dry` does so with few pairs, so that the script cannot rot.", ""]
    lines += ["## Promises", "", "| | interval's upper end | judged |", "|---|---|---|"]
    for case, what in (("cost_on_step", "step"), ("cost_on_small_alltoall", "alltoall")):
        text = f"| the default tier adds less than {PROMISE[what]} % to a {'training step' if what == 'step' else 'small all-to-all'} |"
        done = ran.get(case)
        if done and done["outcome"] == "passed":
            lines.append(f"{text} {number(done['found'][DEFAULT]['high_95_percent'])} % | {done['found']['verdict']} |")
        else:
            lines.append(f"{text} | not measured |")
    lines += [""]
    for name in ("cost_on_step", "cost_on_small_alltoall"):
        if name in ran and ran[name]["outcome"] == "passed":
            lines += cost_table(name, ran[name])
    lines += ["## Cases", "", "| case | what it shows | | |", "|---|---|---|---|"]
    for name, case in CASES.items():
        shown = " ".join(case.__doc__.split())
        result = results.get(name)
        if not result or result["outcome"] == "not run":
            lines.append(f"| `{name}` | {shown} | not run | `{COMMAND} {name}` |")
        else:
            text = short(result["found"]).replace("|", "\\|").replace("\n", " ")
            lines.append(f"| `{name}` | {shown} | {result['outcome']}, {result['date'][:10]} | {text[:900]} |")
    lines += ["", "Costs: processes with and without the library live side by side and take turns block by block, in random order within each round, the others waiting in a",
              "read; a pair is the ratio to the block without it in the same round, the interval is Student's over the pairs. `without, again` is a second process",
              "without the library: less than its interval cannot be told. Short captures become `tests/gpu/fixtures/*.sql`, which `meson test gpu-fixtures` replays."]
    return "\n".join(lines) + "\n"


def write(out, record):
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json.part").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "gpu.json.part").rename(out / "gpu.json")
    (out / "gpu.md").write_text(page(record), encoding="utf-8")

# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/measurements/observe-grid.md, and the numbers that its text is of, from the answer over the captured grid.

    skewscope observe --json OUT/*/ > ANSWER.json
    python3 tests/analysis/observepage.py ANSWER.json

Experts are shown at EP 8, which every model has; ranks at each degree. Intervals are printed where the answer has them."""
import collections
import json
import sys

from observecapture import DEGREES, TOKENS

SHOWN = "8"
VERDICTS = ("same", "equivalent", "different", "undecided", "untested")
ROW = ("model", "data", "batch")


def number(value, digits):
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def estimate(e, digits):
    ends = f" [{number(e['low'], digits)}, {number(e['high'], digits)}]" if e.get("low") is not None else ""
    return number(e["value"], digits) + ends


def beside_chance(metric, digits):
    return f"{number(metric['observed']['value'], digits)} ({number(metric['chance'], digits)})"


def table(name, head, rows):
    print(f"\n{name}\n\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def row_name(labels):
    """Without the batch of what has no order but the workload's: it has only one."""
    data = labels["data"] + (" (mock)" if labels["tokens"] == "mock" else "")
    return ", ".join([labels["model"], data] + ([labels["batch"]] if labels["batch"] != str(TOKENS) else []))


def by_row(cells):
    """(model, data, batch) → {EP: cell}: real before mock, batches by size."""
    rows = collections.defaultdict(dict)
    for c in cells:
        rows[tuple(c["labels"][key] for key in ROW)][c["labels"]["ep"]] = c
    return dict(sorted(rows.items(), key=lambda item: (item[0][0], item[0][1] == "uniform", item[0][1], int(item[0][2]))))


def print_cells(rows):
    lines = []
    for degrees in rows.values():
        c = degrees[SHOWN]
        expert = c["expert"]
        line = [row_name(c["labels"]), number(c["tokens_call"], 0), str(c["calls"]), estimate(expert["gini"]["observed"], 3),
                number(expert["gini"]["chance"], 3), estimate(expert["gini"]["persistent"], 3), beside_chance(expert["entropy"], 3),
                beside_chance(expert["max_mean"], 2)]
        line += [beside_chance(degrees[str(r)]["rank"]["max_mean"], 2) if str(r) in degrees else "–" for r in DEGREES]
        lines.append([*line, c.get("band") or "–"])
    table("Cells: experts at EP 8, ranks at each degree", ["model, data, batch", "N", "calls", "expert Gini", "chance", "persists",
          "entropy", "expert max/mean", *(f"rank max/mean EP {r}" for r in DEGREES), "band"], lines)
    cells = [c for degrees in rows.values() for c in degrees.values()]
    for kind in ("real", "mock"):
        of = [c for c in cells if c["labels"]["tokens"] == kind]
        print(f"\n{kind}: {len(of)} cells; beyond chance {sum(c['beyond_chance'] for c in of)}, persists {sum(c['persists'] for c in of)}")
    for why, n in collections.Counter(c.get("band_why") for c in cells if not c.get("band")).items():
        print(f"no band in {n} cells: {why}")
    for key, degrees in rows.items():
        bands = {c.get("band") or "–" for c in degrees.values()}
        if len(bands) > 1:
            print(f"band of {', '.join(key)} by EP: " + ", ".join(f"{r} {c.get('band') or '–'}" for r, c in degrees.items()))


def print_verdicts(changes, grid):
    counts = collections.defaultdict(collections.Counter)
    for c in changes:
        group = (grid[c["from"]]["labels"]["tokens"], c["side"], "the same" if c["same_tokens"] else "others")
        counts[group][c["verdict"]] += 1
    unknown = {v for n in counts.values() for v in n} - set(VERDICTS)
    if unknown:
        sys.exit(f"verdicts that the table has no column for: {sorted(unknown)}")
    table("EP pairs (from EP 4 to each other; Gini and max/mean)", ["router input", "level", "tokens at both", "pairs", *VERDICTS],
          [[*group, str(sum(n.values())), *(str(n[v]) for v in VERDICTS)] for group, n in sorted(counts.items(), reverse=True)])


def print_changes(answer):
    grid = {c["cell"]: c for c in answer["cells"]}
    of = {kind: [c for c in answer["changes"] if c["kind"] == kind] for kind in ("ep", "mock", "batch")}

    def name(c):
        a, b = grid[c["from"]]["labels"], grid[c["to"]]["labels"]
        moved = [f"{key} {a[key]} → {b[key]}" for key in ("data", "batch", "ep") if a[key] != b[key]]
        return [row_name(a), "; ".join(moved), f"{c['side']} {c['metric']}"]

    def step(c, digits):
        return f"{number(c['from_observed'], digits)} → {number(c['to_observed'], digits)}"

    print_verdicts(of["ep"], grid)
    table("EP: ranks' max/mean, and experts of other tokens", ["from", "to", "of", "observed", "ratio", "chance", "verdict"],
          [[*name(c), step(c, 3), estimate(c["ratio"], 3), number(c["chance_ratio"], 3), c["verdict"]] for c in of["ep"]
           if (c["side"], c["metric"]) == ("rank", "max_mean") or c["side"] == "expert" and not c["same_tokens"]])
    shown = {kind: [c for c in of[kind] if grid[c["from"]]["labels"]["ep"] == SHOWN] for kind in ("mock", "batch")}
    table("Mock over real, EP 8", ["from", "to", "of", "N", "observed", "ratio", "chance", "persists"],
          [[*name(c), f"{number(c['from_tokens_call'], 0)} → {number(c['to_tokens_call'], 0)}", step(c, 3), estimate(c["ratio"], 3),
            number(c["chance_ratio"], 3), estimate(c["persistent_ratio"], 3)] for c in shown["mock"]])
    table("Batch, EP 8", ["from", "to", "of", "observed", "exponent", "of chance", "CV²",
          "CV² beyond chance", "CV² persistent"],
          [[*name(c), step(c, 3), estimate(c["exponent"], 2), number(c["chance_exponent"], 2), estimate(c["cv2_change"], 3),
            estimate(c["cv2_beyond_change"], 3), estimate(c["cv2_persistent_change"], 3)] for c in shown["batch"]
           if c["metric"] == "gini"])


def print_page(answer):
    rows = by_row([c for c in answer["cells"] if c["runs_usable"]])
    lacking = [", ".join(key) for key, degrees in rows.items() if SHOWN not in degrees]
    if lacking:
        sys.exit(f"not captured at EP {SHOWN}: {'; '.join(lacking)}")
    print_cells(rows)
    print_changes(answer)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print_page(json.load(file))

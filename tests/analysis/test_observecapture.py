# SPDX-License-Identifier: Apache-2.0
"""A part of the captured observe grid, end to end: routing through the workload, captured, and the cells against the
inputs. The whole grid is a command (observecapture.py), whose answer observecheck.py checks in the same way."""
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import observecapture
import observecheck
import observepage
import routingdata

TOOL, WORKLOAD = os.environ["SKEWSCOPE_TOOL"], os.environ["SKEWSCOPE_WORKLOAD"]
PART = ("flame-290m-pile-64-ep04", "flame-290m-pile-64-ep08", "flame-290m-uniform-64-ep08", "mixtral-c4-4096-ep08",
        "gpt-oss-20b-mmlu-pro-16-ep16")


class Grid(unittest.TestCase):
    def test_part(self):
        with tempfile.TemporaryDirectory() as directory:
            inputs, out = pathlib.Path(directory) / "inputs", pathlib.Path(directory) / "grid"
            out.mkdir()
            observecapture.prepare(inputs)
            plan = observecapture.plan(inputs)
            self.assertEqual(len({c.name for c in plan}), len(plan))
            captures = [c for c in plan if c.name in PART]
            self.assertEqual(len(captures), len(PART))
            (out / (captures[0].name + ".part")).mkdir() # left by one that was stopped
            for capture in captures:
                self.assertTrue(capture.make(out, WORKLOAD))
            self.assertFalse(captures[0].make(out, WORKLOAD)) # is there already
            self.assertEqual(sorted(p.name for p in out.iterdir()), sorted(PART))
            done = subprocess.run([TOOL, "observe", "--json", *(str(out / name) for name in PART)], capture_output=True,
                                  text=True, check=True)
        answer, cache = json.loads(done.stdout), {}
        cells = [c for c in answer["cells"] if c["runs_usable"]]
        self.assertEqual((len(cells), answer["warnings"]), (len(PART), []))
        for cell in cells:
            if cell["labels"]["tokens"] == "real":
                observecheck.check_real(cell, cache)
            else:
                observecheck.check_mock(cell)
        # One pair of EP degrees of the same tokens: Gini and max/mean of experts cannot move.
        self.assertEqual(observecheck.check_changes(answer), 2)
        wrong = json.loads(json.dumps(cells[0]))
        wrong["rank"]["gini"]["observed"]["value"] *= 1.000001
        with self.assertRaises(SystemExit):
            observecheck.check_real(wrong, cache)
        self.check_page(answer)

    def check_page(self, answer):
        """Which is of experts at EP 8, so a model without that is refused."""
        with self.assertRaisesRegex(SystemExit, "not captured at EP 8: gpt-oss-20b, mmlu-pro, 16"):
            observepage.print_page(answer)
        cells = [c for c in answer["cells"] if c["labels"]["model"] != "gpt-oss-20b"]
        page = io.StringIO()
        with contextlib.redirect_stdout(page):
            observepage.print_page({**answer, "cells": cells})
        row = next(line for line in page.getvalue().splitlines() if line.startswith("| flame-290m, pile, 64 | 64 | 32 |")).split(" | ")
        ep4, ep8 = (next(c for c in cells if c["cell"] == f"flame-290m/mha/pile/real/64/{ranks}") for ranks in (4, 8))
        gini = ep8["expert"]["gini"]["observed"]
        self.assertEqual(row[3], "{value:.3f} [{low:.3f}, {high:.3f}]".format(**gini))
        self.assertEqual([cell.split(" (")[0] for cell in row[8:12]],
                         [f"{c['rank']['max_mean']['observed']['value']:.2f}" for c in (ep4, ep8)] + ["–", "–"])
        self.assertIn("real | rank | the same | 2 |", page.getvalue())


if __name__ == "__main__":
    routingdata.need_data()
    if not os.path.exists(WORKLOAD):
        print("skipped: the workload is not built")
        sys.exit(routingdata.SKIP)
    unittest.main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/coverage.md is what the API lists make of it. usage: coverage_page.py GENERATOR PAGE LIST…"""
import subprocess
import sys
import tempfile
from pathlib import Path

generator, page, *lists = sys.argv[1:]
with tempfile.TemporaryDirectory() as directory:
    made = Path(directory) / "coverage.md"
    subprocess.run([sys.executable, generator, "coverage", made, *lists], check=True)
    if made.read_text() != Path(page).read_text():
        sys.exit(f"{page} is not current; run: python3 {generator} coverage {page} {' '.join(lists)}")

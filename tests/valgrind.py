#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a test under valgrind: `meson test --setup valgrind`. usage: valgrind.py COMMAND…

A test program is run under it directly. A driver in Python is not: it reads SKEWSCOPE_TEST_VALGRIND and puts valgrind in
front of the programs that it starts.
"""
import os
import sys
from pathlib import Path

SUPPRESSIONS = Path(__file__).resolve().parent / "preload/valgrind.supp"

command = sys.argv[1:]
if any(word.endswith("/fuzz_spool") for word in command[:1]):
    command = ["20" if word == "500" else word for word in command]  # mutations: each takes fifty times as long here
if not any(word.endswith(".py") for word in command[:2]):
    command = ["valgrind", "--quiet", "--error-exitcode=98", "--leak-check=full", f"--suppressions={SUPPRESSIONS}",
               *command]
os.execvp(command[0], command)

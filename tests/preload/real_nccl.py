#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The real NCCL under the library, as far as that goes without a GPU: names, errors, group rules, calls to itself.

usage: real_nccl.py LIBRARY BUILD_DIRECTORY NCCL_API

Skipped where there is no libnccl.so.2 (SKEWSCOPE_TEST_NCCL names one).
"""
import glob
import os
import re
import subprocess
import sys
from pathlib import Path

from harness import UNDER_VALGRIND, Bench, arguments, run_cases, skip

LIBRARY, BUILD, NCCL_API = arguments()
BUILD = Path(BUILD)
PLACES = [os.environ.get("SKEWSCOPE_TEST_NCCL", ""), *glob.glob("/usr/local/cuda*/lib*/libnccl.so.2"),
          *glob.glob("/usr/lib/*/libnccl.so.2"), *glob.glob("/usr/lib64/libnccl.so.2")]
NCCL = next((p for p in PLACES if p and os.path.exists(p)), "")
if not NCCL:
    skip("no libnccl.so.2 here")
if UNDER_VALGRIND:
    skip("the real NCCL under valgrind says nothing about us")
bench = Bench(LIBRARY).__enter__()
PATH = {"LD_LIBRARY_PATH": os.path.dirname(NCCL)}

# Helpers of the device API and of debugging, which launch nothing (docs/coverage.md names them).
NOT_WRAPPED = re.compile(r"nccl(Team|Lsa|Gin|LLA2A|GetLsa|GetPeer|GetLocal|GetMulti|CommQueryProperties|ParamDumpAll"
                         r"|ResetDebugInit)\w*")


def case_every_function_is_wrapped_or_known():
    exported = re.findall(r" [TW] (nccl\w+)$", subprocess.run(["nm", "-D", NCCL], capture_output=True, text=True,
                                                              check=True).stdout, re.M)
    listed = set(re.findall(r"\b(nccl\w+)\(", Path(NCCL_API).read_text()))
    missing = [name for name in exported if name not in listed and not NOT_WRAPPED.fullmatch(name)]
    assert exported and not missing, f"{NCCL} has functions that we neither wrap nor know: {missing}"


def case_answers_are_the_same():
    plain = bench.run([BUILD / "real"], preload="", **PATH)
    result = bench.run([BUILD / "real"], **PATH)
    assert result.out == plain.out, f"without us:\n{plain.out}\nwith us:\n{result.out}"
    assert "ncclSend(NULL, 1, ncclInt8, 0, NULL, NULL): 4" in plain.out, plain.out
    for spool in result.spools:
        assert not spool.groups and not spool.loss, spool.lines()


def case_a_failing_call_fails_its_group():
    """The rule on which the fast path of sends stands."""
    lines = bench.run([BUILD / "real"], preload="", **PATH).out.splitlines()
    at = lines.index("ncclSend(NULL, 1, ncclInt8, 0, NULL, NULL): 4")
    assert lines[at:at + 3] == ["ncclSend(NULL, 1, ncclInt8, 0, NULL, NULL): 4",
                                "ncclRecv(NULL, 1, ncclInt8, 0, NULL, NULL): 4", "ncclGroupEnd(): 4"], lines


def case_absent_stays_absent():
    names = ["ncclSend", "ncclAlltoAll", "ncclAllToAllv", "ncclAlltoAllConfig", "ncclPutSignal", "ncclCommGrow",
             "ncclParamGetI64", "ncclCommShrink", "pncclSend"]
    asks = [word for name in names for word in ("has", "a", name)]
    command = [BUILD / "route", "open", "a", NCCL, "local", *asks]
    plain, result = bench.run(command, preload=""), bench.run(command)
    assert result.out == plain.out, f"without us:\n{plain.out}\nwith us:\n{result.out}"


def case_by_ctypes():
    script = (f"import ctypes\nlib = ctypes.CDLL({NCCL!r})\nv = ctypes.c_int()\nprint(lib.ncclGetVersion("
              "ctypes.byref(v)), v.value, lib.ncclGroupEnd(), lib.ncclBcast(None, 1, 0, 0, None, None))")
    plain = bench.run([sys.executable, "-c", script], preload=bench.preload(library=""))
    result = bench.run([sys.executable, "-c", script])
    assert result.out == plain.out and result.out.split()[0] == "0", (plain.out, result.out, result.err)


def case_named():
    command = [BUILD / "route", "open", "us", LIBRARY, "local", "has", "us", "ncclSend", "has", "us", "ncclAllToAllv"]
    result = bench.run(command, preload=bench.preload(library=""), SKEWSCOPE_NCCL=NCCL)
    assert result.out == "ncclSend yes\nncclAllToAllv no: the message names it\n", result.out


if __name__ == "__main__":
    with bench:
        run_cases([f for n, f in list(globals().items()) if n.startswith("case_")])

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what NCCL libraries export against the API list.

usage: check_exports.py GEN_API NCCL_API GEN_EXPORTS (VERSION LIBRARY)... [--real]

Each stand-in LIBRARY must export exactly what NCCL of VERSION has: a weak ncclX and a pncclX at the
same address, without symbol versions, and depend on no CUDA library. With --real, the installed
libnccl.so.2 must export every function of its own version, and the stand-ins must call exported
functions through the PLT only where the real one does. Exit status 77: there is no real one.
"""
import ctypes
import glob
import importlib.util
import subprocess
import sys

# Through its PLT the real library also calls these, for device communicators and on paths that the
# stand-in does not have.
NOT_IN_STANDIN = {"ncclDevCommDestroy"}
# Called through the PLT only by versions before 2.25, which the stand-in can pretend to be.
OLD_REENTRY = {"ncclGroupStart", "ncclGroupEnd"}


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def exports(path):
    """{name: (address, type)}; a name with @ has a version."""
    rows = (line.split() for line in run("nm", "-D", "--defined-only", path).splitlines())
    return {r[2]: (r[0], r[1]) for r in rows if len(r) == 3}


def reentered(path, names):
    """Listed functions that the library calls through its own PLT."""
    slots = (line.split() for line in run("readelf", "-rW", path).splitlines())
    return {s[4].split("@")[0] for s in slots if len(s) > 4 and "JUMP_SLO" in s[2]} & set(names)


def check_standin(path, wanted):
    problems = []
    found = exports(path)
    expected = set(wanted) | {"p" + n for n in wanted}
    problems += [f"exports {n}, which this version lacks" for n in sorted(set(found) - expected)]
    problems += [f"does not export {n}" for n in sorted(expected - set(found))]
    for n in wanted:
        if n in found and "p" + n in found:
            if found[n][1] != "W" or found["p" + n][1] != "T":
                problems.append(f"{n} is {found[n][1]} and p{n} is {found['p' + n][1]}, not W and T")
            if found[n][0] != found["p" + n][0]:
                problems.append(f"{n} and p{n} have different addresses")
    dynamic = run("readelf", "-dW", path)
    for bad in ("SYMBOLIC", "cudart", "libcuda", "VERDEF"):
        if bad in dynamic:
            problems.append(f"dynamic section has {bad}")
    return problems


def find_real():
    paths = [line.split("=>")[1].strip() for line in run("/sbin/ldconfig", "-p").splitlines()
             if "libnccl.so.2 " in line and "=>" in line]
    return paths + sorted(glob.glob("/usr/local/cuda*/lib*/libnccl.so.2"))


def check_real(path, gen_exports, functions, standins):
    version = ctypes.c_int()
    ctypes.CDLL(path).ncclGetVersion(ctypes.byref(version))
    code = version.value
    number = f"{code // 10000}.{code // 100 % 100}"
    names = gen_exports.exported(functions, number)
    found = exports(path)
    problems = [f"{path} ({code}) does not export {n}, which is listed since {number} or before"
                for n in names for n in (n, "p" + n) if n not in found]
    real = reentered(path, names)
    for standin_version, standin in standins:
        if standin_version == number:
            ours = reentered(standin, names) - OLD_REENTRY
            problems += [f"{standin}: real NCCL calls {n} through its PLT, the stand-in does not"
                         for n in sorted(real - ours - NOT_IN_STANDIN)]
            problems += [f"{standin}: calls {n} through its PLT, real NCCL does not"
                         for n in sorted(ours - real)]
    print(f"real NCCL {code} at {path}: {len(names)} listed functions, re-enters {', '.join(sorted(real))}")
    return problems


def main():
    sys.dont_write_bytecode = True
    args = [a for a in sys.argv[1:] if a != "--real"]
    functions = load("gen_api", args[0]).parse_list(args[1])
    gen_exports = load("gen_exports", args[2])
    standins = list(zip(args[3::2], args[4::2]))
    problems = []
    if "--real" in sys.argv:
        paths = find_real()
        if not paths:
            print("skipped: there is no libnccl.so.2 on this machine")
            return 77
        problems = check_real(paths[0], gen_exports, functions, standins)
    else:
        for version, path in standins:
            wanted = gen_exports.exported(functions, version)
            problems += [f"{path}: {p}" for p in check_standin(path, wanted)]
            print(f"{version}: {len(wanted)} functions")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

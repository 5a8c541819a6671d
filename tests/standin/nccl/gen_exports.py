#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the version script of one build of the stand-in NCCL.

usage: gen_exports.py GEN_API NCCL_API VERSION OUTPUT     VERSION: 2.28, or 2.28+rccl

It exports each function of the list that NCCL (or, with +rccl, also RCCL) of that version has, as
ncclX and pncclX, without a version node: real NCCL has no symbol versions.
"""
import importlib.util
import sys


def load_gen_api(path):
    spec = importlib.util.spec_from_file_location("gen_api", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gen_api"] = module
    spec.loader.exec_module(module)
    return module


def key(version):
    return tuple(int(x) for x in version.split("."))


def exported(functions, version):
    number, _, extra = version.partition("+")
    return [f.name for f in functions
            if (extra == "rccl" if f.since == "rccl" else key(f.since) <= key(number))]


def main():
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    sys.dont_write_bytecode = True
    names = exported(load_gen_api(sys.argv[1]).parse_list(sys.argv[2]), sys.argv[3])
    with open(sys.argv[4], "w", encoding="utf-8") as f:
        f.write("{\n  global:\n")
        for name in names:
            f.write(f"    {name};\n    p{name};\n")
        f.write("  local: *;\n};\n")


if __name__ == "__main__":
    main()

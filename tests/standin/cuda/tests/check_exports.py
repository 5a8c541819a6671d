#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check the exports and callback ids of the stand-ins against the real CUDA 13 libraries.

usage: check_exports.py CUDA_DIR GEN_CUDA DRIVER_API RUNTIME_API LIBCUDA LIBCUDART LIBCUPTI

What the stand-ins export, with its symbol version, must exist in the real libraries, but for our
own standin_... hooks; libcudart must export all that the real one does. Ends with 77, which Meson
counts as skipped, where there is nothing to compare with.
"""

import importlib.util
import os
import re
import subprocess
import sys


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def exports(path):
    try:
        text = subprocess.run(["nm", "-D", "--with-symbol-versions", path], check=True,
                              capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        skip(f"nm cannot read {path}: {error}")
    return {line.split()[2] for line in text.splitlines() if len(line.split()) == 3
            and line.split()[1] in "TtWi"}


def compare(name, ours, real, complete):
    ours = {s for s in exports(ours) if not s.startswith("standin_")}
    wanted = exports(real)
    extra, missing = sorted(ours - wanted), sorted(wanted - ours)
    print(f"{name}: {len(ours)} exports, of {len(wanted)} of the real one")
    if extra:
        print(f"{name} exports what the real one does not: {' '.join(extra)}")
    if complete and missing:
        print(f"{name} lacks: {' '.join(missing)}")
    return not extra and not (complete and missing)


def callback_ids(header):
    with open(header, encoding="utf-8") as file:
        return {m[1]: int(m[2]) for m in re.finditer(r"TRACE_CBID_(\w+)\s*=\s*(\d+)", file.read())}


def check_ids(functions, ids, runtime):
    wrong = []
    for function in functions:
        for symbol, cbid in ((function.symbol, function.cbid),
                             (f"{function.symbol}{function.suffix or ''}", function.suffix_cbid)):
            if not cbid:
                continue
            if runtime: # cudaMalloc_v3020, cudaMemcpy_ptds_v7000
                base, suffix = re.match(r"(\w+?)(_pt[sd][sz])?$", symbol).groups()
                pattern = re.compile(rf"{base}(_v\d+)?{suffix or ''}(_v\d+)?$")
                known = {value for name, value in ids.items() if pattern.match(name)}
            else:
                known = {ids.get(symbol)}
            if cbid not in known:
                wrong.append(f"{symbol} has callback id {cbid}, the real header says {known}")
    print("\n".join(wrong))
    return not wrong


def main():
    cuda, generator, driver_api, runtime_api, libcuda, libcudart, libcupti = sys.argv[1:]
    lib = os.path.join(cuda, "lib64")
    real = {"libcuda": f"{lib}/stubs/libcuda.so", "libcudart": f"{lib}/libcudart.so.13",
            "libcupti": f"{lib}/libcupti.so.13"}
    if not all(os.path.exists(path) for path in real.values()):
        skip(f"{cuda} has no libcudart.so.13, libcupti.so.13 and stubs/libcuda.so")
    spec = importlib.util.spec_from_file_location("gen_cuda", generator)
    gen = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    spec.loader.exec_module(gen)
    good = [compare("libcuda", libcuda, real["libcuda"], False),
            compare("libcudart", libcudart, real["libcudart"], True),
            compare("libcupti", libcupti, real["libcupti"], False)]
    for api, list_file, header in ((True, driver_api, "cupti_driver_cbid.h"),
                                   (False, runtime_api, "cupti_runtime_cbid.h")):
        path = os.path.join(cuda, "include", header)
        if os.path.exists(path):
            good.append(check_ids(gen.read(list_file, api), callback_ids(path), not api))
        else:
            print(f"callback ids not compared: there is no {path}")
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()

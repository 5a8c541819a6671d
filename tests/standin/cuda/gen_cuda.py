#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generate the exported functions of the stand-in CUDA from an API list (driver.api, runtime.api).

usage: gen_cuda.py driver|runtime impl|decl|wrap|map|protos LIST [UNSUPPORTED] -o FILE
       gen_cuda.py cupti wrap|map UNSUPPORTED -o FILE

  impl    prototypes of the bodies, drv_... or rt_...
  decl    prototypes of the exported functions, for callers without CUDA headers
  wrap    the exported functions around them, and (driver) the table behind cuGetProcAddress
  map     the linker's version script
  protos  the same functions declared again, to be compiled after the real headers

A line of a list is: symbol, first CUDA version (driver only), CUPTI callback id, traits joined by
commas or '-', and the parameters. Traits: noinit, unsafe (see driver/call.h), noctx, nolatch (see
runtime/rt.h), ptsz=ID or ptds=ID (a spelling whose stream 0 is the thread's own, with its callback
id), to=SYMBOL (runtime only: the body does nothing but call that driver function).
"""

import argparse
import re
import sys


class Function:
    def __init__(self, path, number, line, driver):
        head, brace, params = line.partition("(")
        words = head.split()
        if not brace or not params.endswith(")") or len(words) != (4 if driver else 3):
            sys.exit(f"{path}:{number}: expected 'symbol {'since ' if driver else ''}cbid traits "
                     f"(parameters)', found: {line}")
        self.symbol = words[0]
        self.since = int(words[1]) if driver else 0
        self.cbid = int(words[-2])
        self.traits, self.suffix, self.suffix_cbid, self.forward = [], None, 0, None
        for trait in words[-1].split(","):
            name, _, value = trait.partition("=")
            if name in ("ptsz", "ptds"):
                self.suffix, self.suffix_cbid = "_" + name, int(value)
            elif name == "to":
                self.forward = value
            elif name in ("noinit", "unsafe", "noctx", "nolatch"):
                self.traits.append(name)
            elif name != "-":
                sys.exit(f"{path}:{number}: unknown trait '{name}'")
        self.params = params[:-1].strip()
        self.names = []
        if self.params != "void":
            for param in self.params.split(","):
                self.names.append(re.search(r"(\w+)$", param.strip())[1])

    @property
    def base(self):
        return re.sub(r"_v\d+$", "", self.symbol)


def read(path, driver):
    functions = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.split("#")[0].strip()
            if line:
                functions.append(Function(path, number, line, driver))
    return functions


def traits(function, prefix, per_thread):
    names = [f"{prefix}_{t.upper()}" for t in function.traits]
    if per_thread:
        names.append(f"{prefix}_PER_THREAD")
    return " | ".join(names) or "0"


def forwarder(function):
    """The body of a runtime function that is one of the driver's."""
    arguments = [f"rt_stream({name})" if re.match(r"\s*cudaStream_t \w", param) else name
                 for name, param in zip(function.names, function.params.split(","))]
    return [f"cudaError_t rt_{function.symbol}({function.params})", "{",
            f"    return rt_driver.{function.forward}({', '.join(arguments)});", "}", ""]


def wrapper(function, lower, result, per_thread):
    """One exported function: enter, body, leave."""
    prefix = lower.upper()
    symbol = function.symbol + (function.suffix if per_thread else "")
    cbid = function.suffix_cbid if per_thread else function.cbid
    out = [f"SI_EXPORT {result} {symbol}({function.params});",
           f"SI_EXPORT {result} {symbol}({function.params})", "{",
           f"    struct {lower}_call call;"]
    if function.names:
        fields = [p.strip() for p in function.params.split(",")]
        out.append("    struct {")
        out += [f"        {field};" for field in fields]
        out.append(f"    }} params = {{{', '.join(function.names)}}};")
    pointer = "&params" if function.names else "NULL"
    out += [f"    {result} result = {lower}_enter(&call, {cbid}, \"{symbol}\", {pointer}, "
            f"{traits(function, prefix, per_thread)});",
            "    if (result == 0)",
            f"        result = {lower}_{function.symbol}({', '.join(function.names)});",
            f"    return {lower}_leave(&call, result);", "}", ""]
    return out


def wrap(functions, unsupported, driver):
    lower, result = ("drv", "CUresult") if driver else ("rt", "cudaError_t")
    header = "driver/call.h" if driver else "runtime/rt.h"
    out = [f"/* Generated from the API list by gen_cuda.py: the exported {lower} functions. */",
           f'#include "{header}"', f'#include "{lower}_impl.h"']
    if driver:
        out.append('#include "driver/proc.h"')
    out.append("")
    for function in functions:
        if function.forward:
            out += forwarder(function)
        for per_thread in (False, True) if function.suffix else (False,):
            out += wrapper(function, lower, result, per_thread)
    for symbol in unsupported:
        out += [f"SI_EXPORT {result} {symbol}(void);", f"SI_EXPORT {result} {symbol}(void)", "{",
                f"    return {lower}_unsupported();", "}", ""]
    if driver:
        rows = []
        for function in functions:
            thread = function.symbol + function.suffix if function.suffix else "NULL"
            rows.append((function.base, function.since, function.symbol, thread))
        out.append("const struct si_proc si_procs[] = {")
        out += [f"    {{\"{n}\", {s}, (void *){f}, (void *){t}}}," for n, s, f, t in sorted(rows)]
        out += ["};", f"const unsigned si_proc_count = {len(rows)};"]
    return out


def impl(functions, driver):
    lower, result = ("drv", "CUresult") if driver else ("rt", "cudaError_t")
    out = [f"/* Generated from the API list by gen_cuda.py: bodies of the {lower} functions. */",
           "#pragma once", f'#include "abi/{"driver" if driver else "runtime"}.h"']
    return out + [f"{result} {lower}_{f.symbol}({f.params});" for f in functions]


def decl(functions, driver):
    result = "CUresult" if driver else "cudaError_t"
    out = ["/* Generated from the API list by gen_cuda.py. */", "#pragma once",
           f'#include "abi/{"driver" if driver else "runtime"}.h"']
    for function in functions:
        for suffix in ("", function.suffix) if function.suffix else ("",):
            out.append(f"{result} {function.symbol}{suffix}({function.params});")
    if not driver:
        out += ["const char *cudaGetErrorName(cudaError_t error);",
                "const char *cudaGetErrorString(cudaError_t error);"]
    return out


def version_map(functions, unsupported, driver, node):
    out = [f"{node} {{" if node else "{", "    global:"]
    for function in functions:
        out.append(f"        {function.symbol};")
        if function.suffix:
            out.append(f"        {function.symbol}{function.suffix};")
    out += [f"        {symbol};" for symbol in unsupported]
    out.append("        standin_*;" if driver else "        __cuda*;")
    if not driver:
        out += ["        cudaGetErrorString;", "        cudaGetErrorName;"]
    return out + ["    local: *;", "};"]


def protos(functions, driver):
    result = "CUresult" if driver else "cudaError_t"
    return ['extern "C" {'] + [f"{result} {f.symbol}({f.params});" for f in functions] + ["}"]


def read_names(path):
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def cupti(what, names, node):
    """CUPTI is written by hand but for what it refuses."""
    if what == "map":
        return [f"{node} {{", "    global: cupti*;", "    local: *;", "};"]
    out = ['#include "cupti/cupti.h"', ""]
    for name in names:
        out += [f"SI_EXPORT CUptiResult {name}(void);", f"SI_EXPORT CUptiResult {name}(void)", "{",
                "    return CUPTI_ERROR_NOT_SUPPORTED;", "}", ""]
    return out


def write(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("api", choices=["driver", "runtime", "cupti"])
    parser.add_argument("what", choices=["impl", "decl", "wrap", "map", "protos"])
    parser.add_argument("list")
    parser.add_argument("unsupported", nargs="?")
    parser.add_argument("-o", dest="output", required=True)
    parser.add_argument("--node", default="")
    args = parser.parse_args()
    if args.api == "cupti":
        write(args.output, cupti(args.what, read_names(args.list), args.node))
        return
    driver = args.api == "driver"
    functions = read(args.list, driver)
    unsupported = read_names(args.unsupported) if args.unsupported else []
    lines = {"impl": lambda: impl(functions, driver),
             "decl": lambda: decl(functions, driver),
             "wrap": lambda: wrap(functions, unsupported, driver),
             "map": lambda: version_map(functions, unsupported, driver, args.node),
             "protos": lambda: protos(functions, driver)}[args.what]()
    write(args.output, lines)


if __name__ == "__main__":
    main()

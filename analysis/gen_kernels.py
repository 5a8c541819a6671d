#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the table of known CUDA kernels from schema/kernels.json, and checks the file.

usage: gen_kernels.py INPUT OUTPUT
"""
import json
import sys

DOES = ["dispatch", "combine", "fused", "count", "barrier", "permute", "transfer", "experts", "collective"]
ARGUMENTS = ["ranks", "experts", "topk", "hidden", "hidden_bytes", "max_tokens"]
KEYS = {"backend", "does", "bytes", "names", "template", "source"}


def text(value):
    return "NULL" if value is None else json.dumps(value, ensure_ascii=True)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        table = json.load(f)
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write("/* Made by analysis/gen_kernels.py from schema/kernels.json. */\n")
        words = ", ".join(text(w) for w in table["suspicious"] + [None])
        f.write(f"static const char *const suspicious[] = {{{words}}};\n")
        f.write("static const struct known kernels[] = {\n")
        for entry in table["kernels"]:
            unknown = set(entry) - KEYS
            template = entry.get("template", {})
            if unknown or not entry["names"] or not entry["source"] or entry["does"] not in DOES:
                sys.exit(f"kernels.json: {entry}: needs names, a source and one of {DOES}; unknown: {unknown}")
            if not all(position.isdigit() and what in ARGUMENTS for position, what in template.items()):
                sys.exit(f"kernels.json: {entry}: template arguments are a position and one of {ARGUMENTS}")
            names = ", ".join(text(n) for n in entry["names"] + [None])
            places = ", ".join(f"[SKEW_KERNEL_{'EXPERT_COUNT' if what == 'experts' else what.upper()}] = {int(position) + 1}"
                               for position, what in sorted(template.items()))
            f.write(f"    {{{text(entry['backend'])}, SKEW_KERNEL_{entry['does'].upper()}, "
                    f"{'true' if entry.get('bytes', False) else 'false'},\n"
                    f"     (const char *const[]){{{names}}}, {{{places or '0'}}}}},\n")
        f.write("};\n")


main()

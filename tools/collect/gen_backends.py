#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the table of known libraries from schema/backends.json, and checks the file.

usage: gen_backends.py INPUT OUTPUT
"""
import json
import sys


def text(value):
    return "NULL" if value is None else json.dumps(value, ensure_ascii=True)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        backends = json.load(f)["backends"]
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write("/* Made by tools/collect/gen_backends.py from schema/backends.json. */\n")
        f.write("static const struct skew_backend backends[] = {\n")
        for entry in backends:
            unknown = set(entry) - {"role", "name", "patterns", "unseen", "source"}
            if unknown or not entry["patterns"] or not entry["source"]:
                sys.exit(f"backends.json: entry {entry.get('name')}: needs patterns and source; unknown: {unknown}")
            if (entry["role"] == "device_backend") != ("unseen" in entry):
                sys.exit(f"backends.json: entry {entry['name']}: device_backend and unseen go together")
            patterns = ", ".join(text(p) for p in entry["patterns"] + [None])
            f.write(f"    {{{text(entry['role'])}, {text(entry['name'])}, {text(entry.get('unseen'))},\n"
                    f"     (const char *const[]){{{patterns}}}}},\n")
        f.write("};\n")


main()

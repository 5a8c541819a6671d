#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a C header that holds a text file as a string, so that the tool needs no data files.

usage: embed.py INPUT NAME OUTPUT
"""
import sys


def main():
    source, name, output = sys.argv[1:4]
    with open(source, encoding="utf-8") as f:
        lines = f.read().splitlines()
    with open(output, "w", encoding="utf-8") as f:
        f.write(f"/* Made by tools/collect/embed.py from {source.rsplit('/', 1)[-1]}. */\n")
        f.write(f"static const char {name}[] =\n")
        for line in lines:
            escaped = line.replace("\\", "\\\\").replace('"', '\\"')
            f.write(f'    "{escaped}\\n"\n')
        f.write("    ;\n")


main()

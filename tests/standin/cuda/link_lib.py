#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Collect the stand-in libraries under their sonames in one directory, for LD_LIBRARY_PATH.

usage: link_lib.py STAMP DIRECTORY SONAME=FILE...
"""

import os
import sys


def main():
    stamp, directory, pairs = sys.argv[1], sys.argv[2], sys.argv[3:]
    os.makedirs(directory, exist_ok=True)
    for pair in pairs:
        soname, _, file = pair.partition("=")
        link = os.path.join(directory, soname)
        target = os.path.relpath(os.path.abspath(file), os.path.abspath(directory))
        if os.path.islink(link) or os.path.exists(link):
            os.unlink(link)
        os.symlink(target, link)
    with open(stamp, "w", encoding="utf-8"):
        pass


if __name__ == "__main__":
    main()

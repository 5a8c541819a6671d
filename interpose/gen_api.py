#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes everything that follows from the API list (interpose/nccl.api).

usage: gen_api.py LIST KIND OUTPUT      KIND: decls
"""
import re
import sys
from dataclasses import dataclass


@dataclass
class Function:
    """One line of the list."""
    since: str
    cls: str
    record: str
    ret: str
    name: str
    args: list  # of (type, name, array suffix)

    def prototype(self, name=None):
        inner = ", ".join(f"{t}{n}{s}" for t, n, s in self.args) or "void"
        return f"{self.ret}{name or self.name}({inner})"

    def call(self):
        return ", ".join(n for _, n, _ in self.args)


def parse_arg(text, where):
    m = re.fullmatch(r"(.*?[\s*])(\w+)(\[\])?", text.strip())
    if not m:
        raise SystemExit(f"{where}: cannot read the argument '{text}'; write 'type name'")
    return m.group(1), m.group(2), m.group(3) or ""


def parse_list(path):
    functions = []
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            where = f"{path}:{number}"
            cells = [c.strip() for c in line.split("|")]
            if len(cells) != 4:
                raise SystemExit(f"{where}: need 'since | class | record | prototype'")
            m = re.fullmatch(r"(.*?[\s*])(\w+)\((.*)\)", cells[3])
            if not m:
                raise SystemExit(f"{where}: cannot read the prototype '{cells[3]}'")
            inner = m.group(3).strip()
            args = [] if inner == "void" else [parse_arg(a, where) for a in inner.split(",")]
            functions.append(Function(*cells[:3], m.group(1), m.group(2), args))
    names = [f.name for f in functions]
    for name in set(names):
        if names.count(name) > 1:
            raise SystemExit(f"{path}: {name} is listed twice")
    return functions


HEAD = "/* Made by interpose/gen_api.py from interpose/nccl.api: edit the list, not this file. */\n"


def gen_decls(functions):
    out = [HEAD, "#ifndef SKEW_NCCL_DECLS_H\n#define SKEW_NCCL_DECLS_H\n\n#include \"nccl_abi.h\"\n\n"]
    out += [f.prototype() + ";\n" for f in functions]
    out.append("\n#endif\n")
    return "".join(out)


GENERATORS = {"decls": gen_decls}


def main():
    if len(sys.argv) != 4 or sys.argv[2] not in GENERATORS:
        raise SystemExit(__doc__)
    text = GENERATORS[sys.argv[2]](parse_list(sys.argv[1]))
    with open(sys.argv[3], "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()

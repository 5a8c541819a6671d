#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/schema.md from schema/trace.sql, spool.h (loss reasons) and schema/schema_head.md.

usage: gen_schema_doc.py TRACE.SQL SPOOL.H HEAD.MD OUTPUT

The tables, columns and views are documented where they are defined; this lists them, so that neither can go stale.
"""
import re
import sys


def listed(header, name):
    """(name, text) of each X(ID, "name", "text") in a list of spool.h; a text may be written in pieces."""
    body = re.search(rf"#define {name}\(X\)(.*?)\n\n", header, re.S).group(1).replace("\\\n", "\n")
    found = re.findall(r'X\(\w+,\s*"(\w+)",((?:\s*"[^"]*")+)\)', body)
    if len(found) != body.count("X("):
        sys.exit(f"{name}: {len(found)} of {body.count('X(')} entries can be read")
    return [(n, "".join(re.findall(r'"([^"]*)"', pieces))) for n, pieces in found]


def comment_before(lines, index):
    out = []
    while index > 0 and lines[index - 1].startswith("--") and not lines[index - 1].startswith("-- ---"):
        index -= 1
        out.insert(0, lines[index][2:].strip())
    return " ".join(out)


def columns(body):
    rows, last = [], None
    for line in body:
        text, _, note = line.partition("--")
        text, note = text.strip().rstrip(","), note.strip()
        m = re.match(r"(\w+)\s+(INTEGER|TEXT|REAL|BLOB)\b(.*)", text)
        if m:
            rest = m.group(3)
            extra = []
            ref = re.search(r"REFERENCES (\w+)", rest)
            if "PRIMARY KEY" in rest:
                extra.append("primary key")
            if ref:
                extra.append(f"→ `{ref.group(1)}`")
            if "NOT NULL" not in rest and "PRIMARY KEY" not in rest:
                extra.append("may be NULL")
            last = [m.group(1), m.group(2).lower(), ", ".join(extra), note]
            rows.append(last)
        elif not text and note and last:
            last[3] += " " + note
        elif text.startswith(("PRIMARY KEY", "UNIQUE")):
            rows.append([None, None, None, text])
    return rows


def main():
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    sql, spool, head, output = sys.argv[1:]
    lines = open(sql, encoding="utf-8").read().splitlines()
    out = [open(head, encoding="utf-8").read().rstrip(), ""]
    views = []
    for i, line in enumerate(lines):
        section = re.match(r"-- -{20,} (.*)", line)
        if section and section.group(1) != "views":
            out += [f"## {section.group(1).capitalize()}", ""]
        table = re.match(r"CREATE TABLE (\w+) \((.*)", line)
        if table:
            body = []
            if not table.group(2).rstrip().endswith(");"):
                j = i + 1
                while not lines[j].startswith(")"):
                    body.append(lines[j])
                    j += 1
            else:
                body = [c.strip() for c in table.group(2).rstrip(");").split(",")]
            out += [f"### {table.group(1)}", ""]
            text = comment_before(lines, i)
            out += [text, ""] if text else []
            out += ["| column | type | | |", "|---|---|---|---|"]
            keys = []
            for name, kind, extra, note in columns(body):
                if name is None:
                    keys.append(note)
                else:
                    out.append(f"| `{name}` | {kind} | {extra} | {note} |")
            out += [""] + ([f"{'; '.join(keys)}.", ""] if keys else [])
        view = re.match(r"CREATE VIEW (\w+) AS", line)
        if view:
            views.append((view.group(1), comment_before(lines, i)))
    out += ["## Views", "", "Plain `sqlite3` can query all of them; no extension is needed.", "", "| view | |", "|---|---|"]
    out += [f"| `{name}` | {text} |" for name, text in views]
    out += ["", "## Why something is missing: `loss.reason`", "", "| reason | |", "|---|---|"]
    header = open(spool, encoding="utf-8").read()
    out += [f"| `{n}` | {t} |" for n, t in listed(header, "SKEW_LOSS_LIST")]
    out += ["", "## What became of count exchanges: `tap_count.outcome`", "", "| outcome | |", "|---|---|"]
    out += [f"| `{n}` | {t} |" for n, t in listed(header, "SKEW_TAP_COUNT_LIST")]
    with open(output, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()

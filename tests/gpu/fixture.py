# SPDX-License-Identifier: Apache-2.0
"""Short captures from a GPU as text, for tests where there is none.

A fixture is a file of INSERT statements over schema/trace.sql. Its first lines are comments, the members of a JSON object: where it
comes from, what is to be expected of it, and, where torch.profiler ran beside, the kernels that it saw. Names of people's
machines, paths, commands and environments are left out.
"""
import json
import pathlib
import re
import sqlite3

SCHEMA = pathlib.Path(__file__).resolve().parents[2] / "schema" / "trace.sql"
MOST_ROWS = 400  # of what grows with the run
HEAD = "-- fixture: "
# What is not needed, or is not ours to show.
LEFT_OUT = {"run_env", "process_env", "run_package", "module", "frame", "clock_anchor", "spool_progress", "codec", "ordinal",
            "time_source", "op_name", "metric", "exchange_label", "operation_label"}
SCRUBBED = {
    ("run", "command"): "[]", ("run", "cwd"): "/", ("process", "host"): "gpu",
    ("process", "exe"): "python3", ("process", "cmdline"): "[]", ("process", "cwd"): "/", ("thread", "name"): "",
    ("process", "nccl_path"): "libnccl.so.2",
}
META = {"min_reader_version", "version", "created_real_ns"}


def tables(db):
    return [r[0] for r in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
                                     " ORDER BY rowid")]


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def clean(text):
    """Paths become their last part: a diagnostic names files."""
    return re.sub(r"(?<![\w.])/[\w./+-]*/", "", text) if isinstance(text, str) else text


def rows_of(db, table):
    """(columns, rows) of what goes into the fixture."""
    columns = [r[1] for r in db.execute(f"PRAGMA table_info({table})")]
    order = " ORDER BY start_ns" if table == "kernel" else ""
    rows = [list(r) for r in db.execute(f"SELECT * FROM {table}{order}")]
    if table == "meta":
        rows = [r for r in rows if r[0] in META] + [["node", "0" * 16], ["host", "gpu"]]
    elif table == "run_label":
        rows = [r for r in rows if r[columns.index("key")] == "standin"]
    elif table == "kernel":
        rows = rows[:MOST_ROWS]
    for row in rows:
        for i, column in enumerate(columns):
            row[i] = SCRUBBED.get((table, column), row[i]) if row[i] is not None else None
            if table == "diagnostic":
                row[i] = clean(row[i])
            if column == "key" and table in ("process", "run"):
                row[i] = f"{table}-{row[0]}"
            if (table, column) == ("process", "pid"):
                row[i] = 1000 + row[0]
    return columns, rows


def export(trace, path, about):
    """Writes the fixture; returns how many rows it has. about: the object of its first lines."""
    db = sqlite3.connect(f"file:{trace}?mode=ro", uri=True)
    lines, count = [], 0
    for table in tables(db):
        if table in LEFT_OUT:
            continue
        columns, rows = rows_of(db, table)
        count += len(rows)
        lines += [f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(map(literal, row))});" for row in rows]
    names = [r[:2] for r in db.execute("SELECT op, name FROM op_name")]
    lines += [f"INSERT OR IGNORE INTO op_name VALUES ({op}, {literal(name)});" for op, name in names]
    longest = db.execute("SELECT coalesce(max(cells), 0) FROM vector").fetchone()[0]
    lines += [f"INSERT OR IGNORE INTO ordinal VALUES ({n});" for n in range(longest)]
    db.close()
    parts = [f"{json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in sorted(about.items())]
    head = [HEAD + part + ("," if part != parts[-1] else "") for part in parts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("-- SPDX-License-Identifier: Apache-2.0\n" + "\n".join(head + lines) + "\n", encoding="utf-8")
    return count


def said(ask):
    """What the analyses say of a trace, in short. ask(command): its --json, parsed."""
    info, label, hang = ask("info")[0], ask("label"), ask("hang")
    time, overlap = ask("time"), ask("overlap")
    return {"launches": info["timing"][0]["launches"], "timed": info["timing"][0]["timed"],
            "exchanges": sum(e["exchanges"] for e in info["exchanges"]), "bytes": sum(e["send_bytes"] for e in info["exchanges"]),
            "roles": [c["roles"] for c in label["traces"][0]["communicators"]], "findings": len(hang["findings"]),
            "timed_rows": time["timed_rows"], "complete": time["complete"], "untimed_exchanges": overlap["untimed"]}


def load(path, database):
    """Makes the database; returns the object of the first lines."""
    text = path.read_text(encoding="utf-8")
    about = json.loads("{" + "".join(l[len(HEAD):] for l in text.splitlines() if l.startswith(HEAD)) + "}")
    db = sqlite3.connect(database)
    db.executescript(SCHEMA.read_text(encoding="utf-8"))
    db.executescript(text)
    db.commit()
    db.close()
    return about

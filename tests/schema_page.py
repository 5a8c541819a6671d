#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/schema.md is what the schema makes of it, and its SQL runs. usage: schema_page.py ROOT"""
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(sys.argv[1])
parts = [root / "schema" / name for name in ("gen_schema_doc.py", "trace.sql", "spool.h", "schema_head.md")]
page = (root / "docs/schema.md").read_text(encoding="utf-8")
with tempfile.TemporaryDirectory() as directory:
    made = Path(directory) / "schema.md"
    subprocess.run([sys.executable, *parts, made], check=True)
    if made.read_text(encoding="utf-8") != page:
        sys.exit("docs/schema.md is not current; run: python3 schema/gen_schema_doc.py schema/trace.sql schema/spool.h "
                 "schema/schema_head.md docs/schema.md")

# One exchange of two ranks; the page's own queries must find it.
db = sqlite3.connect(":memory:")
db.executescript((root / "schema/trace.sql").read_text(encoding="utf-8"))
db.executescript("""
    INSERT INTO ordinal VALUES (0), (1);
    INSERT INTO op_name VALUES (0, 'sendrecv');
    INSERT INTO process(process_id, key, pid, started_ns, started_real_ns) VALUES (1, 'a', 1, 0, 0);
    INSERT INTO communicator VALUES (1, 'c', 'init_rank', 2, NULL, NULL);
    INSERT INTO member(member_id, comm_id, rank, process_id, local_comm, handle, created_ns)
        VALUES (1, 1, 0, 1, 1, 0, 0), (2, 1, 1, 1, 2, 0, 0);
    INSERT INTO vector VALUES (1, 2, 300, 260, 2, 2, 0, 0, x'01040028', NULL);
    INSERT INTO vector VALUES (2, 2, 14, 7, 1, 0, 1, 1, x'07', x'0100');
    INSERT INTO exchange VALUES (1, 1, 17, 0, 0, 0, 0, 1, 2, 10, 1, NULL, NULL, 1, 1, 0, NULL);
    INSERT INTO exchange VALUES (2, 2, 17, 0, 0, 0, 0, 2, 1, 1, 10, NULL, NULL, 1, 1, 0, NULL);
""")
db.executescript("""
    INSERT INTO nvtx_range VALUES (1, 1, 1, 1, 'range', 0, NULL, NULL, 'step 4', 1), (2, 1, 1, 2, 'range', 1, 1, 'model', 'layer 3', 1);
    INSERT INTO nvtx_change VALUES (1, 1, 0, 2, 0, 0), (1, 1, 2, NULL, 0, 0);
""")
block = re.search(r"```sql\n(.*?)```", page, re.S).group(1)
queries = [q for q in re.sub(r"--.*", "", block).split(";") if q.strip()]
answers = [db.execute(q).fetchall() for q in queries]
assert answers[0] == [(0, 0, 2600), (0, 1, 400)], answers[0]
assert sorted(answers[1]) == [(0, 0, 2600), (0, 1, 400), (1, 0, 7), (1, 1, 7)], answers[1]
assert answers[2] == [(1, 17, 3000 * 2 / 3014)], answers[2]
assert sorted(answers[5]) == [(1, 0, 0, 2600, 7), (1, 0, 1, 400, 2600), (1, 1, 1, 7, 400)], answers[5]
assert answers[6] == [(0, None, "step 4"), (1, "model", "layer 3")], answers[6]

python = re.search(r"```python\n(.*?)```", page, re.S).group(1)
db.row_factory = sqlite3.Row
names = {"db": db}
exec(python, names)  # the page's own words
assert (names["sizes"], list(names["peers"])) == ([2600, 400], [0, 1]), names

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes everything that follows from the API lists (interpose/nccl.api, cuda.api, ep.api).

usage: gen_api.py KIND OUTPUT LIST…     KIND: decls, table, map, wrappers, entries, coverage, null, abi_check
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

    def is_nccl(self):
        return self.cls not in ("graph", "cupti", "proc", "ep", "nvtx")

    def slots(self):
        """How many real functions it is told apart for (interpose/bind.h)."""
        return SLOTS if self.is_nccl() or self.is_driver() else 1

    def is_driver(self):
        """What cuGetProcAddress can answer for."""
        return self.cls in ("graph", "proc") and not self.name.startswith("cuda")

    def returns_text(self):
        return "char" in self.ret

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
            args = [] if inner in ("void", "...") else [parse_arg(a, where) for a in inner.split(",")]
            functions.append(Function(*cells[:3], m.group(1), m.group(2), args))
    names = [f.name for f in functions]
    for name in set(names):
        if names.count(name) > 1:
            raise SystemExit(f"{path}: {name} is listed twice")
    return functions


HEAD = "/* Made by interpose/gen_api.py from the API lists in interpose/: edit these, not this file. */\n"
SLOTS = 2  # SKEW_SLOTS in interpose/internal.h


def gen_decls(functions):
    out = [HEAD, "#ifndef SKEW_NCCL_DECLS_H\n#define SKEW_NCCL_DECLS_H\n\n#include \"nccl_abi.h\"\n\n"]
    out += [f.prototype() + ";\n" for f in functions if f.is_nccl()]
    out.append("\n#endif\n")
    return "".join(out)


def gen_table(functions):
    """Numbers and names of the wrapped functions, sorted by name for the dlsym look-up."""
    out = [HEAD, "#ifndef SKEW_API_TABLE_H\n#define SKEW_API_TABLE_H\n\nenum skew_api {\n"]
    out += [f"    SKEW_API_{f.name},\n" for f in functions]
    out.append("    SKEW_API_COUNT\n};\n\n#define SKEW_API_LIST(X) \\\n")
    out += [f"    X({f.name}, {int(f.is_nccl())}, {int(f.returns_text())}) \\\n" for f in functions]
    out.append("\n\n#endif\n")
    return "".join(out)


def gen_map(functions):
    """Anonymous: a named version node would defeat hooks on cudaGraphLaunch@libcudart.so.13."""
    names = "".join(f"        {f.name};\n" for f in functions)
    return f"{{\n    global:\n{names}        dlsym;\n        InitializeInjectionNvtx2;\n    local:\n        *;\n}};\n"


def data_record(f, name):
    """Arguments of skew_record() after the result: op, count, datatype, peer, comm, stream."""
    args = {n for _, n, _ in f.args}
    count = next((n for n in ("count", "sendcount", "recvcount") if n in args), "0")
    datatype = "datatype" if "datatype" in args else "0"
    peer = next((f"(uint32_t){n}" for n in ("peer", "root") if n in args), "0")
    return f"SKEW_OP_{f.record.upper()}, {count}, (int){datatype}, {peer}, comm, stream"


# Which data types the tap looks at in which calls (interpose/tap_shape.c): as a mask of ncclDataType_t.
TAP = {"send": "SKEW_TAP_INTEGERS", "recv": "SKEW_TAP_INTEGERS", "alltoall": "SKEW_TAP_INTEGERS",
       "allgather": "SKEW_TAP_INTEGERS | SKEW_TAP_BYTES", "broadcast": "SKEW_TAP_INTEGERS",
       "allreduce": "SKEW_TAP_INTEGERS | SKEW_TAP_FLOAT"}


def tap_of(f):
    if f.record not in TAP:
        return ""
    args = {n for _, n, _ in f.args}
    send = next((n for n in ("sendbuff", "buff") if n in args), "NULL")
    recv = next((n for n in ("recvbuff", "buff") if n in args), "NULL")
    count = next(n for n in ("count", "sendcount") if n in args)
    arg = next((f"(uint32_t){n}" for n in ("peer", "root", "op") if n in args), "0")
    return (f"    skew_tap(thread, {TAP[f.record]}, result, SKEW_OP_{f.record.upper()}, {send}, {recv}, {count}, "
            f"(int)datatype, {arg}, comm, stream);\n")


# The bodies of the wrappers. {call} is the real call; each reads like its contract: guard, real call,
# record, the real result.
DATA = """    struct skew_thread *thread = skew_enter();
    if (skew_unlikely(!thread))
        return {call};
    if (skew_unlikely(thread->watch))
        skew_time_before(thread, comm, stream);
    uint64_t call_ns = skew_call_ns(thread, 0);
    ncclResult_t result = {call};
    skew_record(thread, result, call_ns, {record});
    if (skew_unlikely(thread->watch))
        skew_time_after(thread, result);
{tap}    skew_leave(thread);
    return result;
"""
# Send and receive: the hot path in front, and what DATA says out of line behind it.
P2P = """    struct skew_thread *self = skew_self;
    if (skew_cell_fast(self, comm, stream, (int)datatype)) {{
        skew_cell_put_like_last(self, SKEW_OP_{op}, count, (uint32_t)peer);
        return {call};
    }}
    return {slow}({args});
"""
ALLTOALLV = """    struct skew_thread *thread = skew_enter();
    if (skew_unlikely(!thread))
        return {call};
    if (skew_unlikely(thread->watch))
        skew_time_before(thread, comm, stream);
    uint64_t call_ns = skew_call_ns(thread, 0);
    ncclResult_t result = {call};
    if (skew_likely(skew_result_ok(result))) {{
        skew_put_alltoallv(thread, sendcounts, recvcounts, (int)datatype, comm, stream);
        if (thread->depth == 0)
            skew_group_commit(thread, call_ns, (uintptr_t)__builtin_return_address(0),
                              (uintptr_t)__builtin_frame_address(0), result);
    }}
    if (skew_unlikely(thread->watch))
        skew_time_after(thread, result);
    skew_leave(thread);
    return result;
"""
GROUP_START = """    struct skew_thread *thread = skew_enter();
    if (skew_unlikely(!thread))
        return {call};
    if (thread->depth == 0)
        skew_group_fetch(thread);
    ncclResult_t result = {call};
    if (skew_likely(result == ncclSuccess) && thread->depth++ == 0)
        skew_group_open(thread);
    skew_leave(thread);
    return result;
"""
GROUP_END = """    struct skew_thread *thread = skew_enter();
    if (skew_unlikely(!thread))
        return {call};
    if (skew_unlikely(thread->watch))
        return {watched}(thread, {args}(uintptr_t)__builtin_return_address(0),
                         (uintptr_t)__builtin_frame_address(0));
    uint64_t call_ns = skew_call_ns(thread, 1);
    ncclResult_t result = {call};
    skew_group_ended(thread, {simulated}, call_ns, (uintptr_t)__builtin_return_address(0),
                     (uintptr_t)__builtin_frame_address(0), result);
    skew_leave(thread);
    return result;
"""
# The same with the device's time taken around the real call, or our own cost measured.
GROUP_END_WATCHED = """    skew_time_before(thread, NULL, NULL);
    uint64_t call_ns = skew_call_ns(thread, 1);
    ncclResult_t result = {call};
    skew_group_ended(thread, {simulated}, call_ns, address, frame, result);
    skew_time_after(thread, result);
    skew_ranges_settle(thread);
    skew_leave(thread);
    return result;
"""
# NCCL asks it by itself too. It says when a non-blocking communicator has launched what it was given.
ASYNC_ERROR = """    skew_bind();
    ncclResult_t result = {call};
    if (skew_unlikely(skew_self->timer != NULL) && result == ncclSuccess && *asyncError == ncclSuccess)
        skew_time_launched(comm);
    return result;
"""
GUARDED = """    struct skew_thread *thread = skew_enter();
    if (skew_unlikely(!thread))
        return {call};
    {before}ncclResult_t result = {call};
    {after}
    skew_leave(thread);
    return result;
"""
CTOR_AFTER = {
    "init_rank": "skew_comm_on_init({slot}, result, comm, nranks, rank, &commId, 1, {config}, SKEW_COMM_INIT_RANK);",
    "init_scalable": "skew_comm_on_init({slot}, result, newcomm, nranks, myrank, commIds, nId, config, SKEW_COMM_INIT_SCALABLE);",
    "init_all": "skew_comm_on_init_all({slot}, result, comm, ndev, devlist);",
    "split": "skew_comm_on_derive(&derive, result, newcomm, config, color == NCCL_SPLIT_NOCOLOR);",
    "shrink": "skew_comm_on_derive(&derive, result, newcomm, config, false);",
    "grow": "skew_comm_on_grow(&derive, result, newcomm, config, nRanks, uniqueId, rank);",
}
CTOR_BEFORE = {
    "init_rank": "skew_comm_settle();\n    ",
    "init_scalable": "skew_comm_settle();\n    ",
    "init_all": "skew_comm_settle();\n    ",
    "split": "struct skew_derive derive = skew_comm_derive({slot}, comm, SKEW_COMM_SPLIT, color, key);\n    ",
    "shrink": "struct skew_derive derive = skew_comm_derive({slot}, comm, SKEW_COMM_SHRINK, 0, 0);\n    ",
    "grow": "struct skew_derive derive = skew_comm_derive({slot}, comm, SKEW_COMM_GROW, 0, 0);\n    ",
}
# The functions of a usual exchange: their code and the pointers to the real ones lie together.
HOT = {"ncclSend": "SKEW_HOT_SEND", "ncclRecv": "SKEW_HOT_RECV", "ncclGroupStart": "SKEW_HOT_START",
       "ncclGroupEnd": "SKEW_HOT_END"}
DTOR_KIND = {"finalize": "FINALIZE", "destroy": "DESTROY", "abort": "ABORT", "revoke": "REVOKE"}
# Graph functions: what to do with the handles once the real call returned 0.
GRAPH_EVENT = {
    "instantiate": "skew_graph_event(SKEW_GRAPH_INSTANTIATED, graph, NULL, *exec_out, 0);",
    "update": "skew_graph_event(SKEW_GRAPH_UPDATED, graph, NULL, exec, 0);",
    "clone": "skew_graph_event(SKEW_GRAPH_CLONED, *graph_out, source, NULL, 0);",
    "child": "skew_graph_event(SKEW_GRAPH_CHILD, graph, source, NULL, 0);",
    "node": "skew_graph_node(graph, params);",
    "graph_end": "skew_graph_event(SKEW_GRAPH_GRAPH_DESTROYED, graph, NULL, NULL, 0);",
    "exec_end": "skew_graph_event(SKEW_GRAPH_EXEC_DESTROYED, NULL, NULL, exec, 0);",
    "capture_end": "skew_graph_event(SKEW_GRAPH_CAPTURED, *graph_out, NULL, NULL, capture);",
}
GRAPH = """    struct skew_thread *thread = skew_graph_enter({slot}, SKEW_API_{name});
    if (!thread)
        return {call};
    {before}int result = {call};
    if (result == 0)
        {after}
    skew_leave(thread);
    return result;
"""

# What the driver answers to who looks its functions up.
PROC = """    {before}int result = {call};
    if (result == 0 && pfn)
        *pfn = skew_proc_answer(symbol, *pfn, version, flags);
    return result;
"""

LAUNCH = """    struct skew_thread *thread = skew_graph_enter({slot}, SKEW_API_{name});
    if (!thread)
        return {call};
    uint64_t call_ns = skew_now(), capture = skew_graph_capture_id({stream});
    if (skew_unlikely(thread->watch && !capture))
        skew_time_graph_before(thread, call_ns, exec);
    int result = {call};
    if (skew_unlikely(thread->watch && !capture))
        skew_time_graph_after(thread, result == 0);
    if (result == 0 && !capture)
        skew_launch_put(thread, call_ns, exec, stream);
    else if (result == 0)
        skew_graph_event(SKEW_GRAPH_LAUNCH_CAPTURED, NULL, NULL, exec, capture);
    skew_leave(thread);
    return result;
"""

# The older NVTX library. Its result is the real one's; what the call said is noted behind it.
NVTX = """    struct skew_thread *thread = skew_nvtx_enter(SKEW_API_{name});
    {keep}{call};
    if (thread)
        skew_nvtx_{record}(thread{args});{give}
"""


def stream_of(f):
    """The stream that is asked about: 0 is another one where each thread has its own (CU_STREAM_PER_THREAD)."""
    return "stream ? stream : (void *)2" if f.name.endswith("_ptsz") else "stream"


def body(f, slot, slow=False):
    hot = HOT.get(f.name)
    table = f"skew_hot.real[{slot}][{hot}]" if hot else f"skew_real[{slot}][SKEW_API_{f.name}]"
    real = f"((skew_fn_{f.name}){table})"
    call = f"{real}({f.call()})"
    args = {n for _, n, _ in f.args}
    if f.cls == "data" and f.record == "alltoallv":
        return ALLTOALLV.format(call=call)
    if f.cls == "data" and f.record in ("send", "recv") and not slow:
        return P2P.format(call=call, op=f.record.upper(), args=f.call(), slow=f"skew_slow_{slot}_{f.name}")
    if f.cls == "data":
        return DATA.format(call=call, record=data_record(f, f.name), tap=tap_of(f))
    if f.cls == "group" and f.record == "group_start":
        return GROUP_START.format(call=call)
    if f.cls == "group":
        simulated = "simInfo != NULL" if args else "false"
        if slow:
            return GROUP_END_WATCHED.format(call=call, simulated=simulated)
        return GROUP_END.format(call=call, simulated=simulated, watched=f"skew_watched_{slot}_{f.name}",
                                args="".join(n + ", " for _, n, _ in f.args))
    if f.name == "ncclCommGetAsyncError":
        return ASYNC_ERROR.format(call=call)
    if f.cls == "ctor":
        config = "config" if "config" in args else "NULL"
        before = CTOR_BEFORE.get(f.record, "").format(slot=slot)
        return GUARDED.format(call=call, before=before,
                              after=CTOR_AFTER[f.record].format(slot=slot, config=config))
    if f.cls == "dtor":
        how = f"SKEW_END_{DTOR_KIND[f.record]}"
        return GUARDED.format(call=call, before=f"struct skew_comm *gone = skew_comm_leaving(comm, {how});\n    ",
                              after=f"skew_comm_left(gone, {how}, result);")
    if f.cls == "reg" and f.record in ("devcomm", "window"):
        flags = "winFlags" if "winFlags" in args else "0"
        return GUARDED.format(call=call, before="",
                              after=f"skew_comm_device_api(result, \"{f.name}\", comm, {flags});")
    if f.cls == "graph" and f.record == "launch":
        return LAUNCH.format(slot=slot, name=f.name, call=call, stream=stream_of(f))
    if f.cls == "proc":
        return PROC.format(call=call, before="" if slot else f"skew_single_bind(SKEW_API_{f.name}, NULL);\n    ")
    if f.cls == "nvtx":
        void = f.ret.strip() == "void"
        return NVTX.format(name=f.name, call=call, record=f.record, keep="" if void else f"{f.ret}level = ",
                           args="".join(", " + n for _, n, _ in f.args), give="" if void else "\n    return level;")
    if f.cls == "cupti":
        return GRAPH.format(slot=slot, name=f.name, call=call, before="skew_time_hand_over();\n    ", after="(void)0;")
    if f.cls == "graph":
        before = (f"uint64_t capture = skew_graph_capture_id({stream_of(f)});\n    "
                  if f.record == "capture_end" else "")
        return GRAPH.format(slot=slot, name=f.name, call=call, before=before, after=GRAPH_EVENT[f.record])
    return f"    skew_bind();\n    return {call};\n"


def inner_of(f):
    return ", ".join(f"{t}{n}{s}" for t, n, s in f.args) or "void"


def gen_wrappers(functions):
    out = [HEAD, '#include "handlers.h"\n#include "hot.h"\n#include "api_table.h"\n#include "bind.h"\n\n',
           "/* The code of a usual exchange begins here, and all of it lies on one page. Meson links generated sources\n"
           " * first; elsewhere the alignment would only cost some bytes. */\n"
           '__asm__(".pushsection skew_hot_text, \\"ax\\", %progbits\\n.p2align 11\\n.popsection");\n\n']
    for f in functions:
        if f.cls == "ep":  # its entry is in assembly
            out.append(f"extern SKEW_EXPORT void {f.name}(void);\n")
            continue
        inner = inner_of(f)
        out.append(f"typedef {f.ret}(*skew_fn_{f.name})({inner});\n")
    for slot in range(SLOTS):
        for f in functions:
            if slot >= f.slots() or f.cls == "ep":
                continue
            name = f.name if slot == 0 else f"skew_{slot}_{f.name}"
            export = "SKEW_EXPORT " if slot == 0 else ""
            if slot == 0 and f.name in HOT:
                export += "SKEW_HOT "
            if f.record in ("send", "recv"):
                # A tail jump too: its return address is the application's.
                out.append(f"\nstatic __attribute__((noinline)) {f.ret}skew_slow_{slot}_{f.name}({inner_of(f)})\n"
                           f"{{\n{body(f, slot, slow=True)}}}\n")
            if f.cls == "group" and f.record != "group_start":
                inner = "".join(f"{t}{n}{s}, " for t, n, s in f.args)
                out.append(f"\nstatic SKEW_COLD {f.ret}skew_watched_{slot}_{f.name}(struct skew_thread *thread, "
                           f"{inner}uintptr_t address,\n        uintptr_t frame)\n{{\n{body(f, slot, slow=True)}}}\n")
            out.append(f"\n{export}{f.prototype(name)};\n{f.prototype(name)}\n{{\n{body(f, slot)}}}\n")
    out.append(f"\nvoid *const skew_wrapper[SKEW_SLOTS][SKEW_API_COUNT] = {{\n")
    for slot in range(SLOTS):
        out.append("    {\n")
        for f in functions:
            name = f.name if slot == 0 or f.slots() == 1 else f"skew_{slot}_{f.name}"
            out.append(f"        [SKEW_API_{f.name}] = (void *){name},\n")
        out.append("    },\n")
    out.append("};\n\nconst uint8_t skew_backend_call_of[SKEW_API_COUNT] = {\n")
    out += [f"    [SKEW_API_{f.name}] = SKEW_BACKEND_CALL_{f.record.upper()},\n" for f in functions if f.cls == "ep"]
    out.append("};\n")
    return "".join(out)


def gen_entries(functions):
    """For interpose/call_entry.S: a line for each function whose prototype is not known, with its number."""
    return HEAD + "".join(f"ENTRY {f.name}, {i}\n" for i, f in enumerate(functions) if f.cls == "ep")


WHAT = {
    "data": "bytes, peers, stream, time", "group": "opens, closes or discards a group",
    "ctor": "identity, ranks, parent", "dtor": "end of the communicator",
    "reg": "passed through; device-side communication is reported", "query": "passed through",
    "graph": "life and launches of CUDA graphs",
    "cupti": "another tool gets CUPTI, if we use it",
    "proc": "answers for the functions above lead to our wrappers",
    "ep": "that it was called, when, by whom; bytes are not observable",
    "nvtx": "in which ranges the thread is",
}


def gen_coverage(functions):
    out = ["<!-- Made by interpose/gen_api.py from interpose/nccl.api and cuda.api; `meson test coverage-page` "
           "checks that it is current. -->\n# What is intercepted\n\n"
           "Every function below is wrapped for each route by which an application can reach it "
           "(see [interception.md](interception.md)). A function that the loaded library lacks stays absent.\n\n"
           "| function | since | class | recorded as | what is kept |\n|---|---|---|---|---|\n"]
    for f in functions:
        owner = "NCCL" if f.is_nccl() else {"ep": "NCCL EP", "nvtx": "NVTX"}.get(f.cls, "CUDA")
        since = {"rccl": "RCCL"}.get(f.since, f"{owner} {f.since}")
        out.append(f"| `{f.name}` | {since} | {f.cls} | {f.record} | {WHAT[f.cls]} |\n")
    out.append(f"\n{len(functions)} functions. Not wrapped, because they launch nothing and take or return structures "
               "by value: `ncclTeam*`, `ncclLsaBarrier*`, `ncclGinBarrier*`, `ncclLLA2A*`, "
               "`ncclCommQueryProperties` and the other helpers of the device API, and `ncclParamDumpAll`. Transfers that kernels start themselves have no host call at all; "
               "`ncclDevCommCreate` and `ncclCommWindowRegister` show that there are some.\n")
    return "".join(out)


def gen_null(functions):
    """A library with NCCL's names that does nothing: what a wrapper costs, and who calls whom."""
    out = [HEAD, '#include "null_nccl.h"\n']
    for f in functions:
        if not f.is_nccl():
            continue
        since = 299 if f.since == "rccl" else int(f.since.split(".")[0]) * 100 + int(f.since.split(".")[1])
        inner = ", ".join(f"{t}{n}{s}" for t, n, s in f.args) or "void"
        unused = "".join(f"    (void){n};\n" for _, n, _ in f.args)
        value = 'return "null";' if f.returns_text() else f"NULL_RESULT({f.name}, {f.cls}, {f.record})"
        special = f"#ifndef NULL_HAS_{f.name}\n" if not f.returns_text() else "#if 1\n"
        out.append(f"#if NULL_VERSION >= {since}\n{special}{f.ret}{f.name}({inner});\n{f.ret}{f.name}({inner})\n"
                   f"{{\n{unused}    {value}\n}}\n#endif\n#endif\n")
    return "".join(out)


def gen_abi_check(functions):
    """Declares the functions again behind the real <nccl.h>: the compiler compares the prototypes."""
    out = [HEAD, "#include <nccl.h>\n\n"]
    for f in functions:
        if not f.is_nccl() or f.since == "rccl":
            continue
        if f.name.startswith("ncclDevComm"):
            out.append(f"/* {f.name}: structures of nccl_device.h that we only pass on, so void * here. */\n")
            continue
        major, minor = f.since.split(".")
        out.append(f"#if NCCL_VERSION_CODE >= NCCL_VERSION({major}, {minor}, 0)\n{f.prototype()};\n#endif\n")
    out.append("\nint main(void)\n{\n    return 0;\n}\n")
    return "".join(out)


GENERATORS = {"decls": gen_decls, "table": gen_table, "map": gen_map, "wrappers": gen_wrappers, "entries": gen_entries,
              "coverage": gen_coverage, "null": gen_null, "abi_check": gen_abi_check}


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in GENERATORS:
        raise SystemExit(__doc__)
    functions = sorted((f for path in sys.argv[3:] for f in parse_list(path)), key=lambda f: f.name)
    if sys.argv[1] in ("decls", "coverage", "abi_check"):  # as the lists have them
        functions = [f for path in sys.argv[3:] for f in parse_list(path)]
    text = GENERATORS[sys.argv[1]](functions)
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()

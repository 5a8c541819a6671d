#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every route by which an application reaches NCCL: what is recorded, and what stays as it is without us.

usage: routes.py LIBRARY BUILD_DIRECTORY [CASE…]     BUILD_DIRECTORY: of tests/preload

Each exchange of a run has a count of its own (exchange_once.h), so that it is known by it in the spool.
"""
import shutil
import subprocess
import sys
from pathlib import Path

from harness import NOT_INSTRUMENTED_MALLOC, UNDER_VALGRIND, Bench, arguments, run_cases

LIBRARY, BUILD, *WANTED = arguments()
BUILD = Path(BUILD)
ROUTE = BUILD / "route"
OLD, NEW, ALL = (BUILD / d / "libnccl.so.2" for d in ("v2.18", "v2.28", "all"))
TORCH = BUILD / "liblinked.so"
PYTHON = shutil.which("python3") or sys.executable

# The exchange of exchange_once.h, by ctypes.
CTYPES = """
import ctypes, sys
def exchange(lib, count):
    id = (ctypes.c_char * 128)()
    class Id(ctypes.Structure):
        _fields_ = [("internal", ctypes.c_char * 128)]
    comm = ctypes.c_void_p()
    assert lib.ncclGetUniqueId(id) == 0
    lib.ncclCommInitRank.argtypes = [ctypes.c_void_p, ctypes.c_int, Id, ctypes.c_int]
    assert lib.ncclCommInitRank(ctypes.byref(comm), 2, Id(id.raw), 0) == 0
    lib.ncclGroupStart()
    for f in (lib.ncclSend, lib.ncclRecv):
        assert f(None, ctypes.c_size_t(count), 2, 1, comm, None) == 0
    assert lib.ncclGroupEnd() == 0
    assert lib.ncclCommDestroy(comm) == 0
"""


def exchanges(result):
    """The counts of all exchanges that were recorded; each has to be one send and one receive."""
    found = []
    for spool in result.spools:
        for line in spool.group_lines():
            send, recv = line.partition(" | ")[2].split(", ")
            count = send.split()[1]
            assert (send, recv) == (f"send {count} int32 1", f"recv {count} int32 1"), line
            found.append(int(count))
        assert not any("unidentified" in l for l in spool.comm_lines()), spool.comm_lines()
    return found


def expect(result, counts, route=None):
    got = exchanges(result)
    assert got == counts, f"recorded {got}, expected {counts}; {result.out} {result.err}"
    assert not result.err, result.err
    if route:
        text = result.spool.texts["nccl"]
        assert text.endswith(f" {route}"), f"the route is '{text}', expected {route}"
    return result


def has(result):
    """The answers of `route has` as a dictionary; every "no" must carry a sensible message."""
    answers = {}
    for line in result.out.splitlines():
        symbol, _, answer = line.partition(" ")
        assert answer in ("yes", "no: the message names it"), line
        answers[symbol] = answer == "yes"
    return answers


bench = Bench(LIBRARY).__enter__()


def plain_and_with(command, **env):
    """Runs without and with the library: the output must be the same."""
    # With a sanitizer its run-time library is in both runs.
    plain = bench.run(command, preload=bench.preload(library=""), **env)
    result = bench.run(command, **env)
    assert result.out == plain.out, f"without us:\n{plain.out}\nwith us:\n{result.out}"
    return result


# ---- routes that are recorded ---------------------------------------------------------------------

def case_linked():
    result = expect(bench.run([BUILD / "linked", 11]), [11], "next")
    assert result.spool.texts["nccl"].split()[0] == "22800"
    assert result.spool.texts["nccl"].split()[1] == str(NEW), result.spool.texts["nccl"]


def case_dlsym_of_a_local_handle():
    expect(bench.run([ROUTE, "open", "a", NEW, "local", "use", "a", 12]), [12], "handle")


def case_dlsym_of_a_global_handle():
    expect(bench.run([ROUTE, "open", "a", NEW, "global", "use", "a", 13]), [13], "next")


def case_dlsym_default():
    expect(bench.run([ROUTE, "open", "a", NEW, "global", "use", "default", 14]), [14])


def case_dlsym_of_the_program_itself():
    expect(bench.run([ROUTE, "open", "a", NEW, "global", "open", "self", "-", "local", "use", "self", 15]), [15])


def case_library_with_its_own_nccl():
    """torch: a library with DT_NEEDED libnccl.so.2 and an RPATH, opened RTLD_LOCAL."""
    expect(bench.run([ROUTE, "open", "torch", TORCH, "local", "call", "torch", 16]), [16], "handle")


def case_library_and_handle():
    """torch and pynccl: both reach the same NCCL, by different routes."""
    expect(bench.run([ROUTE, "open", "torch", TORCH, "local", "open", "a", NEW, "local",
                      "use", "a", 17, "call", "torch", 18, "use", "torch", 19]), [17, 18, 19])


def case_handle_before_library():
    expect(bench.run([ROUTE, "open", "a", NEW, "local", "use", "a", 20, "open", "torch", TORCH, "local",
                      "call", "torch", 21]), [20, 21])


def case_ctypes():
    for mode in ("RTLD_LOCAL", "RTLD_GLOBAL"):
        script = f"{CTYPES}\nexchange(ctypes.CDLL({str(NEW)!r}, ctypes.{mode}), 22)"
        expect(bench.run([PYTHON, "-c", script]), [22], "handle" if mode == "RTLD_LOCAL" else "next")


def case_ctypes_default():
    script = f"{CTYPES}\nctypes.CDLL({str(NEW)!r}, ctypes.RTLD_GLOBAL)\nexchange(ctypes.CDLL(None), 23)"
    expect(bench.run([PYTHON, "-c", script]), [23])


def case_exported_by_the_program():
    """The program itself defines NCCL: its own calls do not leave it, but dlsym users are seen."""
    result = bench.run([BUILD / "static_exported", 24])
    assert not result.spools and not result.err


# ---- named as the NCCL library --------------------------------------------------------------------

def named(*commands, preload="", **env):
    return bench.run([ROUTE, "open", "us", LIBRARY, "local", *commands], preload=preload or bench.preload(library=""),
                     **env)


def case_named():
    expect(named("use", "us", 31, SKEWSCOPE_NCCL=NEW), [31], "named")


def case_named_finds_libnccl_by_its_name():
    expect(named("use", "us", 32, LD_LIBRARY_PATH=NEW.parent), [32], "named")


def case_named_by_ctypes():
    script = f"{CTYPES}\nexchange(ctypes.CDLL({LIBRARY!r}), 33)"
    expect(bench.run([PYTHON, "-c", script], preload=bench.preload(library=""), SKEWSCOPE_NCCL=NEW), [33], "named")


def case_named_with_nccl_loaded_already():
    result = bench.run([ROUTE, "open", "torch", TORCH, "local", "open", "us", LIBRARY, "local",
                        "use", "us", 34, "call", "torch", 35], preload=bench.preload(library=""))
    expect(result, [34], "handle")  # torch's own calls are bound already: only a preload sees them


def case_named_with_another_nccl_loaded_already():
    """Who names the real library means that one, and not whatever else is loaded."""
    result = bench.run([ROUTE, "open", "torch", TORCH, "local", "open", "us", LIBRARY, "local", "use", "us", 36,
                        "has", "us", "ncclSend", "has", "us", "ncclAlltoAll"],
                       preload=bench.preload(library=""), SKEWSCOPE_NCCL=OLD)
    expect(result, [36], "named")
    assert has(result) == {"ncclSend": True, "ncclAlltoAll": False}, result.out


def case_named_global():
    script = (f"{CTYPES}\nlib = ctypes.CDLL({LIBRARY!r}, ctypes.RTLD_GLOBAL)\n"
              "exchange(lib, 37)\nassert not hasattr(lib, 'ncclAlltoAll')")
    expect(bench.run([PYTHON, "-c", script], preload=bench.preload(library=""), SKEWSCOPE_NCCL=OLD), [37], "named")


def case_named_hides_what_the_real_one_lacks():
    result = named("has", "us", "ncclSend", "has", "us", "ncclAlltoAll", "has", "us", "ncclAllToAll",
                   SKEWSCOPE_NCCL=OLD)
    assert has(result) == {"ncclSend": True, "ncclAlltoAll": False, "ncclAllToAll": False}, result.out


def case_named_without_a_real_one():
    """The application's own error message names the symbol; ours says what to do, on one line."""
    result = named("has", "us", "ncclGetVersion", SKEWSCOPE_NCCL="/nonexistent/libnccl.so.2")
    assert has(result) == {"ncclGetVersion": False}, result.out
    assert result.err.count("\n") == 1 and "SKEWSCOPE_NCCL" in result.err, result.err


def case_preloaded_and_named():
    expect(named("use", "us", 38, preload=bench.preload(), SKEWSCOPE_NCCL=NEW), [38])
    expect(named("use", "us", 39, preload=bench.preload(), LD_LIBRARY_PATH=NEW.parent), [39])


def case_preloaded_and_named_beside_another():
    """torch's NCCL is a newer one than that which the job names for pynccl."""
    result = bench.run([ROUTE, "open", "torch", TORCH, "local", "call", "torch", 40, "open", "us", LIBRARY, "local",
                        "use", "us", 41, "has", "us", "ncclAlltoAll", "has", "torch", "ncclAlltoAll"],
                       SKEWSCOPE_NCCL=OLD)
    expect(result, [40, 41])
    assert result.out.splitlines() == ["ncclAlltoAll no: the message names it", "ncclAlltoAll yes"], result.out


# ---- several NCCLs ------------------------------------------------------------------------------------

def case_two_ncclls_in_one_process():
    result = bench.run([ROUTE, "open", "a", OLD, "local", "open", "b", NEW, "local", "use", "a", 51, "use", "b", 52,
                        "use", "a", 53, "has", "a", "ncclAlltoAll", "has", "b", "ncclCommShrink"])
    expect(result, [51, 52, 53])
    assert has(result) == {"ncclAlltoAll": False, "ncclCommShrink": True}, result.out


def case_second_nccl_beside_a_linked_one():
    expect(bench.run([ROUTE, "open", "torch", TORCH, "local", "call", "torch", 54, "open", "b", OLD, "local",
                      "use", "b", 55, "call", "torch", 56]), [54, 55, 56])


def case_copy_of_the_same_nccl():
    """Two copies of one file are two libraries, with state of their own."""
    directory = bench.directory()
    copy = shutil.copy(NEW, directory / "another-nccl.so")
    expect(bench.run([ROUTE, "open", "a", NEW, "local", "open", "b", copy, "local", "use", "a", 57, "use", "b", 58]),
           [57, 58])


def case_third_nccl_is_passed_through():
    result = bench.run([ROUTE, "open", "a", OLD, "local", "open", "b", NEW, "local", "open", "c", ALL, "local",
                        "use", "a", 59, "use", "b", 60, "use", "c", 61])
    expect(result, [59, 60])
    diags = [text for name, text in result.spool.diags if name == "second_nccl"]
    assert len(diags) == 1 and "passed" in diags[0], diags


def case_third_nccl_first_used():
    """The diagnostic waits until there is a trace to carry it."""
    result = bench.run([ROUTE, "open", "a", OLD, "local", "open", "b", NEW, "local", "open", "c", ALL, "local",
                        "has", "a", "ncclSend", "has", "b", "ncclSend", "use", "c", 62, "use", "b", 63])
    expect(result, [63])
    assert any(name == "second_nccl" for name, _ in result.spool.diags), result.spool.diags


def case_closed_and_opened_again():
    """A library that we point into is never unloaded under us, whatever takes its place."""
    expect(bench.run([ROUTE, "open", "a", OLD, "local", "use", "a", 64, "close", "a", "open", "b", NEW, "local",
                      "use", "b", 65, "close", "b", "open", "c", OLD, "local", "use", "c", 66]), [64, 65, 66])


# ---- nothing to be seen, nothing broken ---------------------------------------------------------------

def case_static_nccl():
    result = plain_and_with([BUILD / "static_hidden", 71])
    assert not result.spools and not result.err, "a statically linked NCCL cannot be recorded"


def case_dlsym_off():
    """What the loader binds is still seen."""
    off = {"SKEWSCOPE_DLSYM": "off"}
    expect(bench.run([ROUTE, "open", "a", NEW, "local", "use", "a", 72], **off), [])
    expect(bench.run([BUILD / "linked", 73], **off), [73])


def case_enable_off():
    off = {"SKEWSCOPE_ENABLE": "off"}
    for command in ([BUILD / "linked", 74], [ROUTE, "open", "a", NEW, "local", "use", "a", 75],
                    [ROUTE, "open", "us", LIBRARY, "local", "use", "us", 76]):
        result = bench.run(command, SKEWSCOPE_NCCL=NEW, **off)
        assert not list(result.directory.rglob("*.spool")) and not (result.directory / "out").exists()
        assert not result.err, result.err


def case_direct_pnccl():
    """The profiling aliases are left to profilers: they are neither wrapped nor hidden."""
    result = plain_and_with([ROUTE, "open", "a", NEW, "local", "has", "a", "pncclSend", "has", "default", "pncclSend"])
    assert has(result) == {"pncclSend": False}


# ---- absent stays absent --------------------------------------------------------------------------------

SYMBOLS = ("ncclSend", "ncclGetVersion", "ncclAlltoAll", "ncclAllToAll", "ncclAllToAllv", "ncclCommShrink",
           "ncclCommInitRankScalable", "ncclAlltoAllConfig", "ncclNoSuchThing", "cudaGraphLaunch", "malloc")


def asking(*handles):
    return [word for h in handles for s in SYMBOLS for word in ("has", h, s)]


def case_absent_in_an_old_nccl():
    for nccl in (OLD, NEW, ALL):
        result = plain_and_with([ROUTE, "open", "a", nccl, "local", *asking("a")])
        assert has(result)["ncclAlltoAll"] == (nccl != OLD) and has(result)["ncclAllToAllv"] == (nccl == ALL)
        plain_and_with([ROUTE, "open", "a", nccl, "global", *asking("default", "a")])
        plain_and_with([ROUTE, "open", "a", nccl, "global", "open", "self", "-", "local", *asking("self")])


def case_absent_without_any_nccl():
    for option in ({}, {"SKEWSCOPE_DLSYM": "off"}, {"SKEWSCOPE_ENABLE": "off"}):
        result = plain_and_with([ROUTE, "open", "self", "-", "local", *asking("default", "self")], **option)
        assert not any(has(result)[s] for s in SYMBOLS if s != "malloc")


def case_visible_to_its_own_library_only():
    """RTLD_DEFAULT of a library that has NCCL among its dependencies, and of everybody else."""
    result = plain_and_with([ROUTE, "open", "torch", TORCH, "local", *asking("default", "torch"), "ask", "torch",
                             "ncclSend", "ask", "torch", "ncclAllToAllv", "call", "torch", 77])
    assert result.out.endswith("ncclSend seen by a library 1\nncclAllToAllv seen by a library 0\n"), result.out
    expect(result, [77])


def case_absent_for_ctypes():
    script = ("import ctypes, sys\nlib = ctypes.CDLL(sys.argv[1])\nall = ctypes.CDLL(None)\n"
              "for s in sys.argv[2:]: print(s, hasattr(lib, s), hasattr(all, s))\n")
    for nccl in (OLD, NEW, ALL):
        plain_and_with([PYTHON, "-c", script, nccl, *SYMBOLS])


def case_absent_for_weak_references():
    for program in ("weak", "weak_no_pie", "weak_now"):
        for nccl in (OLD, NEW):
            plain_and_with([BUILD / program], LD_LIBRARY_PATH=nccl.parent)
    result = plain_and_with([BUILD / "weak_alone"])
    assert " 1" not in result.out, result.out


def case_absent_when_nccl_comes_later():
    """Before an NCCL is loaded nothing is there; what comes with it is there from then on."""
    result = plain_and_with([ROUTE, *asking("default"), "open", "a", OLD, "global", *asking("default")])
    assert result.out.count("ncclSend yes") == 1


def case_what_is_called_though_absent():
    """A program that is linked to functions which its NCCL lacks."""
    result = bench.run([PYTHON, "-c", f"import ctypes\nlib = ctypes.CDLL({LIBRARY!r})\n"
                                      "assert lib.ncclCommDestroy(None) == 0"], SKEWSCOPE_NCCL=OLD)
    assert not result.err


# ---- other preloads -----------------------------------------------------------------------------------------

def hook(kind, level):
    return BUILD / f"libhook_{kind}_O{level}.so"


def hook_says(result, kind, level):
    line = [l for l in result.out.splitlines() if l.startswith(f"hook_{kind}_O{level}:")]
    assert len(line) == 1, result.out
    return line[0].partition(": ")[2]


def case_another_wrapper_of_send():
    """It sees each call once, and so do we, whoever comes first."""
    for level in "02":
        for order in ("before", "after"):
            preload = bench.preload(**{order: [hook("send", level)]})
            result = expect(bench.run([BUILD / "linked", 81], preload=preload), [81])
            assert hook_says(result, "send", level).startswith("sends 1, inits 1"), result.out
            # dlsym users come by the other tool as well, since we call what the loader would have bound.
            result = expect(bench.run([ROUTE, "open", "a", NEW, "global", "use", "default", 82, "use", "a", 83],
                                      preload=preload), [82, 83])
            assert hook_says(result, "send", level).startswith("sends 2, inits 2"), result.out


def case_another_wrapper_of_malloc():
    """dlsym(RTLD_NEXT) is relative to its caller, as if we were not there."""
    if bench.runtime in ("asan", "tsan") or UNDER_VALGRIND:
        return NOT_INSTRUMENTED_MALLOC
    for level in "02":
        for order in ("before", "after"):
            preload = bench.preload(**{order: [hook("malloc", level)]})
            for command, counts in (([BUILD / "linked", 83], [83]),
                                    ([ROUTE, "open", "a", NEW, "local", "use", "a", 84], [84])):
                result = expect(bench.run(command, preload=preload), counts)
                assert hook_says(result, "malloc", level).endswith("allocations some"), result.out
    return None


def case_another_dl_iterate_phdr():
    """It asks dlsym for the real one: in there we must not come back to it."""
    for level in "02":
        for order in ("before", "after"):
            preload = bench.preload(**{order: [hook("phdr", level)]})
            for command, counts in (([BUILD / "linked", 89], [89]),
                                    ([ROUTE, "open", "a", NEW, "local", "use", "a", 90], [90])):
                result = expect(bench.run(command, preload=preload), counts)
                assert hook_says(result, "phdr", level).endswith("allocations some"), result.out


def case_another_dlsym():
    for level in "02":
        for order in ("before", "after"):
            preload = bench.preload(**{order: [hook("dlsym", level)]})
            expect(bench.run([BUILD / "linked", 85], preload=preload), [85])
            result = bench.run([ROUTE, "open", "a", NEW, "local", "use", "a", 86], preload=preload)
            assert hook_says(result, "dlsym", level).startswith("sends 0, inits 0, lookups some") == (order == "before")
            # In front of us it asks the C library by symbol version, past us: such look-ups are not seen.
            expect(result, [] if order == "before" else [86])


def case_another_dlsym_and_everything():
    """One library that interposes dlsym and wraps functions by RTLD_NEXT itself."""
    if bench.runtime in ("asan", "tsan") or UNDER_VALGRIND:
        return NOT_INSTRUMENTED_MALLOC
    for level in "02":
        for order in ("before", "after"):
            preload = bench.preload(**{order: [hook("all", level)]})
            result = expect(bench.run([BUILD / "linked", 87], preload=preload), [87])
            assert hook_says(result, "all", level).startswith("sends 1, inits 1"), result.out
            for third in (hook("malloc", "0"), hook("malloc", "2")):
                preload = bench.preload(**{order: [hook("dlsym", "2"), third]})
                result = expect(bench.run([BUILD / "linked", 88], preload=preload), [88])
                assert "allocations some" in result.out, result.out
    return None


if __name__ == "__main__":
    with bench:
        run_cases([f for n, f in list(globals().items())
                   if n.startswith("case_") and (not WANTED or n.removeprefix("case_") in WANTED)])

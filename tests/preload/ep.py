#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calls of NCCL EP are noted, whatever their prototypes, and nothing of them changes.

usage: ep.py LIBRARY BUILD_DIRECTORY     BUILD_DIRECTORY: of tests/preload
"""
import collections
from pathlib import Path

from harness import UNDER_VALGRIND, Bench, arguments, run_cases

LIBRARY, BUILD = arguments()
BUILD = Path(BUILD)
ROUTE = BUILD / "route"
NAMES = [f"ncclEp{n}" for n in ("CreateGroup", "GroupDestroy", "CreateHandle", "InitHandle", "UpdateHandle", "HandleDestroy",
                                "Dispatch", "Combine", "Complete", "GetVersion")]
bench = Bench(LIBRARY).__enter__()


def library(revision):
    return BUILD / f"ep_{revision}" / "libnccl_ep.so"


def plain_and_with(command, **env):
    """Runs without and with the library: the output must be the same."""
    plain = bench.run(command, preload=bench.preload(library=""), **env)
    result = bench.run(command, **env)
    assert result.out == plain.out, f"without us:\n{plain.out}\nwith us:\n{result.out}"
    assert not result.err, result.err
    return result


def noted(result):
    """What is in the spool against what ep_calls.c does; the counts in its head agree with the records."""
    spool = result.spool
    wide = "complete " in result.out  # not on a processor without AVX
    expected = (["ncclEpCreateGroup", "ncclEpCreateHandle"] +
                3 * (["ncclEpDispatch", "ncclEpCombine"] + ["ncclEpComplete"] * wide) +
                ["ncclEpHandleDestroy", "ncclEpGroupDestroy"])
    calls = [c[1] for c in spool.calls]
    # the last two stand in one call of printf(), whose arguments may be evaluated in either order
    assert calls[:-2] == expected[:-2] and set(calls[-2:]) == set(expected[-2:]), calls
    counts = {n: c for n, c in spool.call_counts.items() if c}
    assert counts == dict(collections.Counter(calls)), counts
    handles = {c[2] for c in spool.calls if c[1] in ("ncclEpCombine", "ncclEpHandleDestroy")}
    assert handles == {0x7001}, handles
    times = [c[0] for c in spool.calls]
    assert all(spool.created_ns <= t for t in times) and times == sorted(times)
    assert {c[4] for c in spool.calls} == {spool.pid}, "not the thread that called"
    # a call site each: three of the round trip are called three times over
    sites = {(c[1], c[3]) for c in spool.calls}
    assert len(sites) == len(set(calls)) and all(s in spool.sites for _, s in sites), sites
    # what the library asked NCCL for, in the middle of a call of ours, is recorded like any other exchange
    assert spool.group_lines() == ["group C1/0x0:0:0 | send 4242 int32 1, recv 4242 int32 1"], spool.group_lines()
    assert not spool.loss and not spool.unknown, (spool.loss, spool.unknown)


def case_linked():
    for revision in ("old", "new", "odd"):
        noted(plain_and_with([BUILD / f"ep_linked_{revision}", "linked"]))


def case_dlsym_of_a_handle():
    for revision in ("old", "new", "odd"):
        noted(plain_and_with([BUILD / f"ep_calls_{revision}", "handle", library(revision)]))


def case_dlsym_default():
    """nccl4py: opened RTLD_GLOBAL, then asked for by RTLD_DEFAULT."""
    for revision in ("old", "new", "odd"):
        noted(plain_and_with([BUILD / f"ep_calls_{revision}", "default", library(revision)]))


def case_arguments_pass():
    """The comparison above is one of texts that really hold the arguments, those on the stack and in vector registers too."""
    said = plain_and_with([BUILD / "ep_linked_odd", "linked"]).out
    for text in ("create_group errno 71 0x11 0x12 0x13 0x14",
                 "dispatch errno 70 0x7001 -1 -2 -3 4 101 6 7 -8 | 1.5 2.5 3.5 4.5 5.5 6.5 7.5 8.5 9.5 10.5 | 11 14 17 | 12345.5",
                 "combine 0x7001 0.25 0.5 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15", "dispatch returned 33 51, errno",
                 "combine returned 119.75"):
        assert text in said, f"'{text}' is not in\n{said}"
    if "complete " in said:
        assert "complete 0x7001 3.5 2.5 3.5 4.5, 2 3 4 5" in said and "complete returned 7 7.5 14 22.5" in said, said
    said = plain_and_with([BUILD / "ep_linked_old", "linked"]).out
    assert "dispatch errno 70 0x7001 0x10002 1 0x10012 2 0x10022 3 4 0x10032 0x51" in said, said
    assert "combine returned 7" in said, said  # ncclInProgress comes back as it is


def asking(*handles):
    return [word for h in handles for s in NAMES for word in ("has", h, s)]


def answers(result):
    found = {}
    for line in result.out.splitlines():
        name, _, answer = line.partition(" ")
        assert answer in ("yes", "no: the message names it"), line
        found.setdefault(name, []).append(answer == "yes")
    return found


def case_absent_without_it():
    for option in ({}, {"SKEWSCOPE_DLSYM": "off"}, {"SKEWSCOPE_ENABLE": "off"}):
        result = plain_and_with([ROUTE, "open", "self", "-", "local", *asking("default", "self")], **option)
        assert not any(a for both in answers(result).values() for a in both), result.out
    result = plain_and_with([ROUTE, "open", "a", BUILD / "all" / "libnccl.so.2", "global", *asking("default", "a")])
    assert not any(a for both in answers(result).values() for a in both), result.out


def case_absent_where_its_revision_lacks_it():
    """An old library has neither ncclEpInitHandle nor ncclEpUpdateHandle."""
    for mode, handles in (("local", ("a",)), ("global", ("default", "a"))):
        for revision, later in (("old", False), ("new", True)):
            found = answers(plain_and_with([ROUTE, "open", "a", library(revision), mode, *asking(*handles)]))
            assert found["ncclEpDispatch"] == [True] * len(handles), found
            assert found["ncclEpInitHandle"] == found["ncclEpUpdateHandle"] == [later] * len(handles), found
    # opened RTLD_LOCAL it is nobody else's
    found = answers(plain_and_with([ROUTE, "open", "a", library("new"), "local", *asking("default")]))
    assert not any(a for one in found.values() for a in one), found


def case_weak_references_of_the_program():
    assert plain_and_with([BUILD / "ep_weak"]).out == "ncclEpDispatch 0\nncclEpUpdateHandle 0\n"
    assert plain_and_with([BUILD / "ep_weak_linked"]).out == "ncclEpDispatch 1\nncclEpUpdateHandle 0\n"


def case_weak_references_of_a_library_that_comes_later():
    """The limit that docs/interception.md names: such a one is bound to us, and the call says that it is not possible."""
    script = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).weak_dispatch())"
    command = ["python3", "-c", script, BUILD / "libep_weak_library.so"]
    assert bench.run(command, preload=bench.preload(library="")).out == "-1\n"
    result = bench.run(command)
    assert result.out == "5\n" and not result.err and not result.spools, (result.out, result.err)


def case_off():
    for option, counted in (("SKEWSCOPE_ENABLE", False), ("SKEWSCOPE_DLSYM", True)):
        linked = plain_and_with([BUILD / "ep_linked_odd", "linked"], **{option: "off"})
        handle = plain_and_with([BUILD / "ep_calls_odd", "handle", library("odd")], **{option: "off"})
        if counted:
            noted(linked)  # the loader binds it to us all the same
            assert not handle.spool.calls and not any(handle.spool.call_counts.values())
        else:
            assert not linked.spools and not handle.spools


def case_what_finds_no_room_is_counted():
    """A spool of one megabyte: every call counts, those that were stored and those that were not."""
    if UNDER_VALGRIND:
        return "not under valgrind, which needs larger segments"
    command = ["python3", "-c", f"""
import ctypes
nccl = ctypes.CDLL({str(BUILD / 'all' / 'libnccl.so.2')!r}, ctypes.RTLD_GLOBAL)
ep = ctypes.CDLL({str(library('old'))!r})
class Id(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_char * 128)]
id, comm = Id(), ctypes.c_void_p()
nccl.ncclGetUniqueId(ctypes.byref(id))
nccl.ncclCommInitRank.argtypes = [ctypes.c_void_p, ctypes.c_int, Id, ctypes.c_int]
nccl.ncclCommInitRank(ctypes.byref(comm), 2, id, 0)
for _ in range(40000):
    ep.ncclEpGroupDestroy(None)
"""]
    result = bench.run(command, SKEWSCOPE_SEGMENT_KB=16, SKEWSCOPE_SPOOL_MB=1)
    spool = result.spool
    assert spool.call_counts["ncclEpGroupDestroy"] == 40000, spool.call_counts
    stored = len(spool.calls)
    assert 1000 < stored < 40000 and spool.loss["spool_full"]["cells"] == 40000 - stored, (stored, spool.loss)
    return f"{stored} of 40000 stored"


if __name__ == "__main__":
    with bench:
        run_cases([f for n, f in list(globals().items()) if n.startswith("case_")])

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Forks, threads, signals and what else hosts do to a process.

usage: processes.py LIBRARY BUILD_DIRECTORY [CASE…]     BUILD_DIRECTORY: of tests/preload
"""
import os
import pwd
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import spool
from groups import USUAL
from harness import UNDER_VALGRIND, Bench, arguments, run_cases, same

LIBRARY, BUILD, *WANTED = arguments()
BUILD = Path(BUILD)
PROGRAM = BUILD / "processes"
NCCL = {"LD_LIBRARY_PATH": BUILD / "all"}
SMALL = {"SKEWSCOPE_SEGMENT_KB": 16}  # many segments: the slow paths are taken often
bench = Bench(LIBRARY).__enter__()


def images(text):
    """What each process image expects: a list of lines for each, in order; "any": its groups in any order."""
    found = {}
    for line in text.splitlines():
        pid, _, rest = line.partition(": ")
        of_pid = found.setdefault(int(pid), [[]])
        if rest == "image":
            of_pid.append([])
        else:
            of_pid[-1].append(rest)
    return found


def check_image(image, expected, what):
    spool_lines = image.comm_lines() + image.group_lines()
    total = [int(l.split()[1]) for l in expected if l.startswith("total ")]
    if total:
        assert len(image.groups) == total[0], f"{what}: {len(image.groups)} groups, expected {total[0]}"
    elif "any" not in expected:
        order = lambda line: not line.startswith("comm")
        same(spool_lines, sorted(expected, key=order), what)
    seqs = sorted(lane["exchange_seq"] for g in image.groups for lane in g["lanes"] if lane["comm"] == 1)
    assert seqs == list(range(len(seqs))), f"{what}: ordinals are not 0, 1, 2, …: {seqs[:20]}"
    lost = sum(c["groups"] for c in image.loss.values())
    assert not lost and image.returned_groups >= len(image.groups), f"{what}: {image.loss}"
    surprises = {name for name, _ in image.diags} - USUAL
    assert not surprises, f"{what}: diagnostics {surprises}"


def check(result, ended=True):
    expected = images(result.out)
    by_pid = {}
    for one in result.spools:
        by_pid.setdefault(one.pid, []).append(one)
    assert set(by_pid) == set(expected), f"spools of {set(by_pid)}, expected {set(expected)}"
    for pid, lists in expected.items():
        assert len(by_pid[pid]) == len(lists), f"{len(by_pid[pid])} spools of {pid}, expected {len(lists)}"
        for i, (image, lines) in enumerate(zip(by_pid[pid], lists)):
            check_image(image, lines, f"process {pid}, image {i}")
            # An image that is replaced by exec cannot say so itself.
            assert image.state == (2 if ended and i == len(lists) - 1 else 1), f"state {image.state} of image {i}"
    assert not result.err, result.err
    return result


def run(case, *more, **env):
    return bench.run([PROGRAM, case, *more], **{**NCCL, **env})


def case_fork_without_nccl_in_the_child():
    check(run("fork_plain"))


def case_fork_with_nccl_in_the_child():
    check(run("fork_nccl"))


def case_raw_clone():
    check(run("raw_clone"))


def case_fork_before_the_first_communicator():
    check(run("fork_before"))


def case_fork_while_other_threads_record():
    check(run("fork_busy", **SMALL))


def case_fork_while_another_thread_waits_in_the_loader():
    """The child cannot go there, and knows its modules all the same."""
    result = check(run("fork_stuck"))
    parent, child = (set(one.modules) for one in sorted(result.spools, key=lambda one: len(one.groups)))
    assert child <= parent, f"modules: {child - parent}"
    names = {os.path.basename(path).split(".")[0] for *_, path in child}
    assert {"exe", "libskewscope", "libnccl", "libc"} <= names, names


def case_vfork():
    check(run("vforked"))


def case_posix_spawn():
    check(run("spawned"))


def case_exec_in_place():
    check(run("exec_in_place", "again"))


def case_threads_come_and_go():
    """The driver plays the collector: what is full becomes free, and is used again."""
    directory = bench.directory()
    env = bench.environment(directory, **NCCL)
    process = subprocess.Popen([PROGRAM, "come_and_go"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, cwd=directory)
    allocated = []
    for _ in range(3):
        while "round" not in process.stdout.readline():
            assert process.poll() is None
        path = next((directory / "spool").rglob("*.spool"))
        image = spool.Spool(path)
        active = [s for state, s in image.segments if spool.SEG_STATES[state] == "active"]
        assert sorted(active) == [0], f"segments of ended threads are still theirs: {image.segments}"
        allocated.append(image.seg_allocated)
        with path.open("r+b") as file:
            for i, (state, _) in enumerate(image.segments):
                if spool.SEG_STATES[state] == "full":
                    file.seek(160 + 512 + 1024 + 8 * i)
                    file.write(struct.pack("<I", spool.SEG_STATES.index("free")))
        process.stdin.write("\n")
        process.stdin.flush()
    process.communicate()
    assert process.returncode == 0
    assert len(set(allocated)) == 1, f"the spool grows, though segments are free: {allocated}"


def case_exit_while_other_threads_call():
    for _ in range(5):
        result = run("exit_while_busy", **SMALL, SKEWSCOPE_SPOOL_MB=16)
        image = result.spool
        assert len(image.groups) >= 200 and image.state == 2, (len(image.groups), image.state)


def case_cancelled_threads():
    check(run("cancel", **SMALL))


def case_cancelled_at_the_first_call():
    check(run("cancel_first"))


def case_thread_ends_in_a_group():
    check(run("leave_in_group"))


def case_thread_destructors_call_nccl():
    check(run("late_destructors"))


def case_exit_handlers_call_nccl():
    result = check(run("exit_handlers"))
    assert result.spool.comm_ends == [(1, "destroy", 0)], result.spool.comm_ends


def case_timers_interrupt():
    check(run("timers", **SMALL))


def case_handler_inside_a_call():
    check(run("handler_inside"))


def case_directory_changes():
    """A relative output directory begins where the program was started."""
    result = check(run("change_directory", SKEWSCOPE_OUT="here/trace"))
    assert result.spool.texts["out"] == str(result.directory / "here/trace"), result.spool.texts
    assert result.spool.texts["cwd"] == "/"


def case_environment_is_cleared():
    result = check(run("clear_environment"))
    assert result.spool.texts["out"] == str(result.directory / "out"), result.spool.texts


def as_nobody(case, **env):
    """In a directory of nobody's, without our rights."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return None
    nobody = pwd.getpwnam("nobody")
    directory = bench.directory()
    for path in (bench.top, directory):
        path.chmod(0o755)
    for path in (directory, directory / "spool"):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    command = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", PROGRAM, case]
    return bench.run(command, directory=directory, **{**NCCL, **SMALL, **env})


def case_odd_umask():
    """Files and directories stay usable for ourselves, and for nobody else."""
    result = as_nobody("odd_umask")
    if not result:
        return "needs root and setpriv"
    check(result)
    for path in list((result.directory / "spool").rglob("*")) + [result.directory / "out/.skewscope"]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path}: mode {mode:o}"
    return None


def case_closed_descriptors():
    directory = bench.directory()
    # Not under valgrind: should it give up (VALGRIND_GAVE_UP), nobody could read that.
    result = bench.run([PROGRAM, "closed_descriptors", directory / "says"], directory=directory, valgrind=False,
                       **{**NCCL, **SMALL})
    result.out = (directory / "says").read_text()
    check(result)


def case_no_descriptor_is_kept():
    check(run("no_descriptors_kept", **SMALL, SKEWSCOPE_STACKS="off"))


def case_setuid_programs_are_left_alone():
    """Linked to us, since the loader drops LD_PRELOAD there already."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return "needs root and setpriv"
    directory = bench.directory()
    for path in (bench.top, directory, directory / "spool"):
        path.chmod(0o777)
    program = shutil.copy(BUILD / "linked_to_us", directory / "program")
    env = {"SKEWSCOPE_SPOOL": directory / "spool"}
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program]
    if os.statvfs(directory).f_flag & os.ST_NOSUID:
        return "the temporary directory is mounted nosuid"
    bench.run(command, preload="", directory=directory, **env)
    assert list(directory.rglob("*.spool")), "an ordinary program that is linked to us is not recorded"
    shutil.rmtree(directory / "spool")
    shutil.rmtree(directory / "out")
    (directory / "spool").mkdir()
    (directory / "spool").chmod(0o777)
    os.chmod(program, 0o4755)
    before = set(directory.rglob("*"))
    bench.run(command, preload="", directory=directory, **env)
    assert set(directory.rglob("*")) == before, set(directory.rglob("*")) - before
    return None


if __name__ == "__main__":
    with bench:
        run_cases([f for n, f in list(globals().items())
                   if n.startswith("case_") and (not WANTED or n.removeprefix("case_") in WANTED)])

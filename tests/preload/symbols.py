#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What libskewscope.so is as a file: what it exports, needs, and asks of the host it is loaded into.

usage: symbols.py LIBRARY NCCL_API CUDA_API EP_API SOURCE_ROOT OBJECT_DIRECTORY
"""
import os
import re
import subprocess
import sys
from pathlib import Path

from harness import arguments, run_cases, sanitizer_of

LIBRARY, NCCL_API, CUDA_API, EP_API, ROOT, OBJECTS = arguments()
ROOT = Path(ROOT)
SANITIZED = sanitizer_of(LIBRARY)
# libc by the names of the machines that we run on; the loader itself may be named for its functions.
NEEDED = {"libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
NEWEST_GLIBC = (2, 28)


def tool(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout


def api_names(*lists):
    names = set()
    for path in lists or (NCCL_API, CUDA_API, EP_API):
        for line in Path(path).read_text().splitlines():
            match = re.search(r"(\w+)\(", line.partition("|")[2])
            if match and not line.startswith("#"):
                names.add(match.group(1))
    return names


def undefined(path):
    return re.findall(r"^\s+[Uw] (\S+)", tool("nm", *(["-D"] if path == LIBRARY else []), "--undefined-only", path), re.M)


def case_exports_are_the_wrapped_functions_dlsym_and_the_way_into_nvtx():
    exported = set(re.findall(r"^\w+ [A-Z] (\S+)", tool("nm", "-D", "--defined-only", LIBRARY), re.M))
    wanted = api_names() | {"dlsym", "InitializeInjectionNvtx2"}
    assert exported == wanted, exported ^ wanted


def case_exports_have_no_version():
    """A named version would defeat hooks on cudaGraphLaunch@libcudart.so.13."""
    assert "@" not in "".join(re.findall(r"^\w+ [A-Z] (\S+)", tool("nm", "-D", "--defined-only", LIBRARY), re.M))
    assert "VERDEF" not in tool("readelf", "-d", LIBRARY)


def case_needs_libc_alone():
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", tool("readelf", "-d", LIBRARY)))
    if SANITIZED:
        return "not for a build with a sanitizer: " + ", ".join(sorted(needed - NEEDED))
    assert needed <= NEEDED, f"needs {needed - NEEDED}"
    return None


def case_no_symbol_is_newer_than_glibc_2_28():
    """A missing version is fatal to every program that the preload enters."""
    if SANITIZED:
        return "not for a build with a sanitizer"
    newer = [s for s in undefined(LIBRARY) for v in re.findall(r"@+GLIBC_([\d.]+)", s)
             if tuple(map(int, v.split("."))) > NEWEST_GLIBC]
    assert not newer, newer
    strange = [s for s in undefined(LIBRARY) if "@" in s and "@GLIBC_" not in s]
    assert not strange, strange
    return None


def case_undefined_symbols_without_version_are_weak_or_known():
    """Anything else is bound to whatever the host happens to define by that name."""
    text = tool("nm", "-D", "--undefined-only", LIBRARY)
    strong = [s for s in re.findall(r"^\s+U (\S+)", text, re.M) if "@" not in s]
    if SANITIZED:
        return "not for a build with a sanitizer"
    assert not strong, strong
    return None


def case_no_text_relocations_and_no_executable_stack():
    assert "TEXTREL" not in tool("readelf", "-d", LIBRARY)
    stack = re.search(r"GNU_STACK.*\n?.*?(\bR\w*)\s+0x", tool("readelf", "-lW", LIBRARY))
    assert stack and "E" not in stack.group(1), "the stack would become executable"


def case_code_and_symbol_table_lie_apart():
    """Hiding an export makes its page writable for a moment: nobody may be executing there."""
    segments = re.findall(r"^\s+LOAD\s+(\S+) (\S+) \S+ (\S+) (\S+) (.{3})", tool("readelf", "-lW", LIBRARY), re.M)
    sections = tool("readelf", "-SW", LIBRARY)
    dynsym = int(re.search(r"\.dynsym\s+DYNSYM\s+(\w+)", sections).group(1), 16)
    code = [(int(v, 16) & ~0xfff, int(v, 16) + int(m, 16)) for _, v, _, m, flags in segments if "E" in flags]
    assert code and not any(start <= dynsym < end for start, end in code)


def case_thread_local_storage_is_one_pointer():
    """A library that is opened late gets little static storage, shared with all others."""
    tls = re.search(r"^\s+TLS\s+\S+ \S+ \S+ \S+ (\S+)", tool("readelf", "-lW", LIBRARY), re.M)
    assert tls and int(tls.group(1), 16) == 8, tls and tls.group(1)
    # Initial-exec: an offset that the loader fills in once. The others are calls, which may allocate.
    relocations = set(re.findall(r"R_\w*(?:TPOFF64|TPREL|DTPMOD|DTPREL|DTPOFF|TLSDESC)\w*", tool("readelf", "-rW", LIBRARY)))
    assert relocations and all("TPOFF64" in r and "DTP" not in r or "_TPREL" in r for r in relocations), relocations
    assert not [s for s in undefined(LIBRARY) if "tls_get_addr" in s]


def case_path_has_no_libnccl():
    """DeepEP aborts when a second mapped file has that in its name."""
    assert "libnccl" not in os.path.basename(LIBRARY)
    soname = re.search(r"\(SONAME\).*\[(.*)\]", tool("readelf", "-d", LIBRARY))
    assert soname and "nccl" not in soname.group(1)


def case_our_code_calls_nothing_that_we_wrap():
    """Through its own exports it would record itself, or recurse."""
    wrapped = api_names()
    found = {}
    for path in sorted(Path(OBJECTS).glob("*.o")):
        names = {s.partition("@")[0] for s in undefined(path)}
        # The table of wrappers, made beside them, names them all to hand out their addresses; some are assembly of their own.
        if "wrappers.c" in path.name:
            names -= api_names(EP_API)
        bad = {n for n in names if n in wrapped or re.match(r"(p?nccl|cuda|cu)[A-Z]", n) or n in ("dlsym", "dlopen")}
        if bad:
            found[path.name] = bad
    assert found == {}, found


def case_the_walls_stand():
    """interpose/ and analysis/ never include each other; both include schema/."""
    for inside, outside in (("interpose", "analysis|tools|tests"), ("analysis", "interpose|tools|tests"),
                            ("schema", "interpose|analysis|tools|tests")):
        for path in (ROOT / inside).rglob("*.[chS]"):
            for include in re.findall(r'#\s*include\s+"([^"]+)"', path.read_text()):
                assert not re.search(rf"(^|/)({outside})/", include), f"{path}: includes {include}"
                own = [d for d in (ROOT / inside, ROOT / "schema", path.parent) if (d / include).exists()]
                others = [d for d in outside.split("|") if list((ROOT / d).rglob(os.path.basename(include)))]
                assert own or not others, f"{path}: {include} is found in {others} only"


def case_nothing_prints_or_ends_the_host():
    """One function may write to standard error, none may exit, abort or assert."""
    for path in (ROOT / "interpose").glob("*.c"):
        text = re.sub(r"/\*.*?\*/|\"(\\.|[^\"\\])*\"", "", path.read_text(), flags=re.S)
        bad = re.findall(r"\b(printf|fprintf|puts|perror|abort|assert|_exit|exit|raise|kill)\s*\(", text)
        assert not bad, f"{path.name}: {bad}"
        assert path.name == "diag.c" or not re.search(r"\bskew_sys_write\(2\b", text), f"{path.name} writes to stderr"


if __name__ == "__main__":
    run_cases([f for n, f in list(globals().items()) if n.startswith("case_")])

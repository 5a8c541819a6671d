# SPDX-License-Identifier: Apache-2.0
"""skewscope doctor: does the shim bind in this command?"""
from clitest import *

PARTS = BUILD / "tests" / "cli"
UNTIL_LOOKED = str(PARTS / "until_looked")
STATIC = PARTS / "until_looked_static"


class Doctor(CliTest):
    def doctor(self, *arguments, binds, env=None):
        """The checks as {code: [(level, text)]}."""
        done = self.skewscope("doctor", "--json", *arguments, env=env)
        self.assertEqual(done.returncode, 0 if binds else 1, done.stdout + done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(report["binds"], binds)
        checks = {}
        for check in report["checks"]:
            checks.setdefault(check["code"], []).append((check["level"], check["text"]))
        return checks

    def has(self, checks, code, level, text):
        self.assertTrue([c for c in checks.get(code, []) if c[0] == level and text in c[1]], checks)

    def test_machine(self):
        checks = self.doctor(binds=True)
        self.has(checks, "library", "OK", LIBRARY)
        self.assertIn("spool", checks)
        self.assertEqual(list(self.dir.iterdir()), [])

    def test_text(self):
        done = self.skewscope("doctor", "--static-only", "--", "bash")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"(?m)^OK   the loader puts libskewscope\.so into \S*/bash$")
        self.assertTrue(done.stdout.endswith("\nThis command can be traced.\n"))
        self.assertEqual(done.stderr, "")

    def test_command(self):
        checks = self.doctor("--for", "0", "--", EXCHANGES, "4", "50", binds=True,
                             env=self.nccl_env(TMPDIR=str(self.dir)))
        self.has(checks, "binds", "OK", EXCHANGES)
        self.has(checks, "links_nccl", "OK", f"{NULL_NCCL}/libnccl.so.2")
        self.assertTrue(checks["links_nccl"][0][1].endswith("/libnccl.so.2"), checks["links_nccl"])
        self.has(checks, "nccl", "OK", "intercepted by the route \"next\"")
        self.has(checks, "captured", "OK", "all 50 NCCL groups: 50 all-to-all exchanges")
        self.assertEqual(list(self.dir.iterdir()), []) # what was recorded is gone

    def test_by_handle(self):
        script = ("import ctypes; n = ctypes.CDLL('libnccl.so.2');"
                  "i = type('Id', (ctypes.Structure,), {'_fields_': [('b', ctypes.c_char * 128)]})(); c = ctypes.c_void_p();"
                  "n.ncclGetUniqueId(ctypes.byref(i)); n.ncclCommInitRank(ctypes.byref(c), 2, i, 0)")
        checks = self.doctor("--", PYTHON, "-c", script, binds=True, env=self.nccl_env())
        self.has(checks, "nccl", "OK", "intercepted by the route \"handle\"")

    def test_stopped_in_time(self):
        """The command never ends by itself. On a busy machine it may need more than a second to get to NCCL."""
        for seconds in ("1", "5", "25", "100"):
            done = self.skewscope("doctor", "--json", "--for", seconds, "--", EXCHANGES, "4", "0", env=self.nccl_env())
            if done.returncode == 0:
                break
        report = json.loads(done.stdout)
        self.assertTrue(report["binds"], done.stdout + done.stderr)
        self.assertIn(f"asked to end after {seconds} s", [c["text"] for c in report["checks"] if c["code"] == "ended"][0])

    def looked_at(self, **env):
        """An environment in which UNTIL_LOOKED ends as soon as its processes have been looked at."""
        libs = self.dir / "libs"
        libs.mkdir()
        (libs / "librccl.so.1").write_bytes(b"found by the search for packages")
        return clean_environment(LD_LIBRARY_PATH=str(libs), **env)

    def test_bound(self):
        checks = self.doctor("--for", "0", "--", UNTIL_LOOKED, binds=True, env=self.looked_at())
        self.has(checks, "bound", "OK", f"libskewscope.so is in 1 process of {os.path.realpath(UNTIL_LOOKED)}")
        self.has(checks, "nothing_captured", "WARN", "no communicator")

    def test_output_of_the_command(self):
        done = self.skewscope("doctor", "--json", "--", "sh", "-c", "echo from the command")
        json.loads(done.stdout)
        self.assertIn("from the command\n", done.stderr)

    def test_script(self):
        path = self.write("script", f"#!/usr/bin/env -S {PYTHON}\nprint('ran')\n", 0o755)
        checks = self.doctor("--static-only", "--", path, binds=True)
        self.has(checks, "command", "OK", "is a script of")

    def test_not_found(self):
        checks = self.doctor("--", "no-such-command", binds=False)
        self.has(checks, "command", "FAIL", "not found")

    @unittest.skipUnless(STATIC.exists(), "no static libc here")
    def test_static(self):
        checks = self.doctor("--static-only", "--", STATIC, binds=False)
        self.has(checks, "binds", "FAIL", "statically linked")

    def test_static_nccl(self):
        env = self.looked_at(LD_PRELOAD=str(PARTS / "libwith_nccl.so"))
        checks = self.doctor("--for", "0", "--", UNTIL_LOOKED, binds=False, env=env)
        self.has(checks, "static_nccl", "FAIL", "libwith_nccl.so")

    def test_wrong_library(self):
        bad = self.write("libskewscope.so", "no library")
        checks = self.doctor(binds=False, env=clean_environment(SKEWSCOPE_LIB=bad))
        self.has(checks, "library", "FAIL", "the loader does not take")

    def test_limits(self):
        done = subprocess.run(["sh", "-c", f"ulimit -n 64; ulimit -f 100; exec {SKEWSCOPE} doctor --json"],
                              capture_output=True, text=True, env=clean_environment(), check=False)
        texts = [c["text"] for c in json.loads(done.stdout)["checks"] if c["level"] == "WARN"]
        self.assertTrue([t for t in texts if "only 64 open files" in t], texts)
        self.assertTrue([t for t in texts if "may not grow beyond" in t], texts)

    def test_variables(self):
        env = clean_environment(VLLM_NCCL_SO_PATH="/x/libskewscope.so", SKEWSCOPE_ENABLE="off")
        checks = self.doctor(binds=True, env=env)
        self.has(checks, "variables", "WARN", "VLLM_NCCL_SO_PATH names skewscope")
        self.has(checks, "variables", "WARN", "switched off")

    def test_usage(self):
        for arguments in (["--for", "x", "--", "true"], ["--spool-mb", "0"]):
            self.assertEqual(self.skewscope("doctor", *arguments).returncode, 2)


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: Apache-2.0
"""When nothing was captured: the one line and the trace say precisely why."""
from clitest import *

PARTS = BUILD / "tests" / "cli"
UNTIL_LOOKED = str(PARTS / "until_looked")
STATIC = PARTS / "until_looked_static"
STATIC_NCCL = str(PARTS / "libwith_nccl.so")
REAL_NCCL = pathlib.Path("/usr/local/cuda/lib64/libnccl.so.2")


class Reasons(CliTest):
    def setUp(self):
        super().setUp()
        self.libs = self.dir / "libs"
        self.libs.mkdir()
        (self.libs / "librccl.so.1").write_bytes(b"found by the search for packages")

    def env(self, **extra):
        path = ":".join([str(self.libs), *([extra.pop("path")] if "path" in extra else [])])
        return clean_environment(LD_LIBRARY_PATH=path, **extra)

    def diagnostics(self):
        return self.query("SELECT code, severity, text FROM diagnostic")

    def nothing(self, *command, code, text, env=None, **kwargs):
        done = self.run_command(*command, env=env or self.env(), **kwargs)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertTrue(done.stderr.startswith("skewscope: NOTHING WAS CAPTURED: "), done.stderr)
        self.assertIn(text, done.stderr)
        self.assertTrue([d for d in self.diagnostics() if d[0] == code and d[1] == "error" and text in d[2]],
                        self.diagnostics())
        return done.stderr

    def test_no_nccl(self):
        self.nothing(UNTIL_LOOKED, code="no_nccl_call", text="no NCCL was loaded by any of the 1 process")

    def test_too_short(self):
        self.nothing("true", code="no_nccl_call", text="NCCL")

    def test_nccl_without_communicator(self):
        env = self.env(path=NULL_NCCL, LD_PRELOAD=NULL_NCCL + "/libnccl.so.2")
        self.nothing(UNTIL_LOOKED, env=env, code="no_nccl_call",
                     text="NCCL was loaded by 1 process (" + os.path.realpath(NULL_NCCL))

    def test_other_operations_only(self):
        script = ("import ctypes; n = ctypes.CDLL('libnccl.so.2'); u = (ctypes.c_char * 128)(); c = ctypes.c_void_p();"
                  "n.ncclGetUniqueId(ctypes.byref(u));"
                  "class_ = type('Id', (ctypes.Structure,), {'_fields_': [('b', ctypes.c_char * 128)]});"
                  "i = class_(); n.ncclGetUniqueId(ctypes.byref(i));"
                  "assert n.ncclCommInitRank(ctypes.byref(c), 2, i, 0) == 0;"
                  "assert n.ncclAllReduce(None, None, ctypes.c_size_t(4), 7, 0, c, None) == 0")
        done = self.run_command(PYTHON, "-c", script, env=self.env(path=NULL_NCCL))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("1 process made communicators and 1 other NCCL operations, but no all-to-all", done.stderr)
        self.assertEqual(self.query("SELECT name, bytes FROM operation JOIN op_name USING (op)"), [("allreduce", 16)])

    @unittest.skipUnless(STATIC.exists(), "no static libc here")
    def test_static_executable(self):
        self.nothing(STATIC, code="preload_not_bound", text="it is statically linked")

    def test_cleared_environment(self):
        self.nothing("env", "-i", UNTIL_LOOKED, os.path.realpath(self.dir) + "/out", code="preload_not_bound",
                     text="LD_PRELOAD was taken from its environment")

    def test_nccl_in_a_process_without_us(self):
        text = self.nothing("sh", "-c", f"env -i LD_PRELOAD={NULL_NCCL}/libnccl.so.2 {UNTIL_LOOKED} $SKEWSCOPE_OUT; exit 0",
                            code="preload_not_bound", text=f"{UNTIL_LOOKED} uses NCCL")
        self.assertIn("LD_PRELOAD was taken from its environment", text)

    def test_static_nccl(self):
        self.nothing(UNTIL_LOOKED, env=self.env(LD_PRELOAD=STATIC_NCCL), code="static_nccl",
                     text=f"NCCL is linked statically into {os.path.realpath(STATIC_NCCL)}")

    @unittest.skipUnless(REAL_NCCL.exists(), f"no real NCCL at {REAL_NCCL}")
    def test_real_nccl_under_another_name(self):
        shutil.copy(REAL_NCCL, self.libs / "libtorch_cuda.so")
        self.nothing(UNTIL_LOOKED, env=self.env(LD_PRELOAD=str(self.libs / "libtorch_cuda.so")), code="static_nccl",
                     text="libtorch_cuda.so")

    def test_device_backend(self):
        backend = self.libs / "deep_ep_cpp.cpython-312-x86_64-linux-gnu.so"
        shutil.copy(LIBRARY, backend)
        done = self.run_command(UNTIL_LOOKED, env=self.env(LD_PRELOAD=str(backend)))
        self.assertIn("DeepEP is loaded", done.stderr)
        self.assertIn(("device_backend", "warning"), [d[:2] for d in self.diagnostics()])

    def test_elsewhere(self):
        tool = self.write("srun", "#!/bin/sh\nexit 0\n", 0o755)
        self.nothing(tool, code="elsewhere", text="srun … skewscope run -o DIR -- COMMAND")

    def test_captured_says_nothing_of_it(self):
        done = self.run_command(EXCHANGES, "2", "5", env=self.env(path=NULL_NCCL))
        self.assertNotIn("NOTHING", done.stderr)
        self.assertEqual(self.query("SELECT count(*) FROM diagnostic WHERE code = 'no_nccl_call'"), [(0,)])


if __name__ == "__main__":
    unittest.main()

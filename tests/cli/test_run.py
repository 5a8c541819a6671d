# SPDX-License-Identifier: Apache-2.0
"""skewscope run: the command as if nobody were there, the trace as if everybody were watching."""
from clitest import *


class Status(CliTest):
    def test_exit_statuses(self):
        for status in (0, 1, 2, 7, 125, 126, 127, 200, 255):
            done = self.run_command("sh", "-c", f"exit {status}")
            self.assertEqual(done.returncode, status)
            self.assertEqual(self.query("SELECT count(*) FROM run WHERE exit_status = ?", status), [(1,)])

    def test_signals(self):
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGABRT, signal.SIGUSR1):
            done = self.run_command(PYTHON, "-c", f"import os; os.kill(os.getpid(), {int(number)})")
            self.assertEqual(done.returncode, -number)
            self.assertEqual(self.query("SELECT count(*) FROM run WHERE exit_signal = ?", int(number)), [(1,)])
        self.assertEqual(list(self.dir.glob("core*")), [])

    def test_not_found(self):
        done = self.run_command("no-such-command-here")
        self.assertEqual(done.returncode, 127)
        self.assertIn("no-such-command-here: command not found", done.stderr)
        self.assertEqual(self.query("SELECT exit_status FROM run"), [(127,)])

    def test_not_executable(self):
        path = self.write("data", "no program")
        done = self.run_command(path)
        self.assertEqual(done.returncode, 126)
        self.assertIn("Permission denied", done.stderr)

    def test_script_without_interpreter_line(self):
        path = self.write("script", "echo from a script\n", 0o755)
        done = self.run_command(path)
        self.assertEqual((done.returncode, done.stdout), (0, "from a script\n"))


class Installed(CliTest):
    def test_anywhere(self):
        """The installed layout, in a place that the build knows nothing of."""
        prefix = self.dir / "moved prefix"
        (prefix / "bin").mkdir(parents=True)
        libdir = prefix / os.environ["SKEW_LIBDIR"] / "skewscope"
        libdir.mkdir(parents=True)
        shutil.copy(SKEWSCOPE, prefix / "bin" / "skewscope")
        shutil.copy(LIBRARY, libdir)
        tool = str(prefix / "bin" / "skewscope")
        done = subprocess.run([tool, "run", "-o", self.out, "true"], capture_output=True, text=True,
                              env=clean_environment(), check=False)
        self.assertIn("must not contain blanks", done.stderr)
        os.rename(prefix, self.dir / "moved")
        tool = str(self.dir / "moved" / "bin" / "skewscope")
        done = subprocess.run([tool, "run", "-o", self.out, EXCHANGES, "2", "3"], capture_output=True, text=True,
                              env=self.nccl_env(), check=False)
        self.assertEqual(done.returncode, 0)
        self.assertIn("captured 3 of 3 exchanges", done.stderr)


class Nvtx(CliTest):
    """NVTX 3 has one tool: the one that a variable names."""
    ECHO = ("sh", "-c", 'echo "$NVTX_INJECTION64_PATH"')

    def said(self):
        return [text for text, in self.query("SELECT text FROM diagnostic WHERE code = 'nvtx'")]

    def run_with(self, *options, **variables):
        done = self.run_command(*self.ECHO, options=options, env=clean_environment(**variables))
        self.assertEqual(done.returncode, 0)
        return done.stdout.strip()

    def test_we_are_it(self):
        for variables in ({}, {"NVTX_INJECTION64_PATH": ""}, {"NVTX_INJECTION64_PATH": str(LIBRARY)}):
            self.assertEqual(self.run_with(**variables), str(LIBRARY))
        self.assertEqual(self.said(), [])

    def test_another_one_is(self):
        self.assertEqual(self.run_with(NVTX_INJECTION64_PATH="/opt/nsys/libToolsInjection64.so"),
                         "/opt/nsys/libToolsInjection64.so")
        self.assertEqual(len(self.said()), 1)
        self.assertIn("/opt/nsys/libToolsInjection64.so", self.said()[0])

    def test_another_tool_is_announced(self):
        self.assertEqual(self.run_with(CUDA_INJECTION64_PATH="/opt/tool.so"), "")
        self.assertIn("/opt/tool.so", self.said()[0])

    def test_switched_off(self):
        self.assertEqual(self.run_with("--nvtx=off"), "")
        self.assertEqual(self.run_with(SKEWSCOPE_NVTX="off", NVTX_INJECTION64_PATH="/opt/other.so"), "/opt/other.so")
        self.assertEqual(self.said(), [])


class Streams(CliTest):
    def test_untouched(self):
        data = "".join(chr(33 + i % 90) for i in range(200_000)) + "\n"
        done = self.run_command("cat", input=data)
        self.assertEqual(done.stdout, data)

    def test_one_line(self):
        done = self.run_command("sh", "-c", "echo out; echo err >&2")
        self.assertEqual(done.stdout, "out\n")
        lines = done.stderr.splitlines()
        self.assertEqual(lines[0], "err")
        self.assertEqual(len(lines), 2)
        self.assertTrue(lines[1].startswith("skewscope: NOTHING WAS CAPTURED"), lines)

    def test_quiet(self):
        for quiet in (["-q"], ["--quiet"], ["--quiet=on"]):
            done = self.run_command("sh", "-c", "echo err >&2", options=quiet)
            self.assertEqual(done.stderr, "err\n")

    def test_end_of_output_is_seen(self):
        """A command that closes its output and goes on: its reader sees the end at once."""
        process = self.start("run", "-q", "-o", self.out, "--", "sh", "-c", "echo x; exec >&-; read y; exit 2",
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.read(), "x\n")
        self.assertIsNone(process.poll())
        process.communicate("\n")
        self.assertEqual(process.returncode, 2)

    def test_closed_streams(self):
        show = ("import os, sys; open(sys.argv[1], 'w').write(str([fd for fd in range(9) if"
                " os.path.exists(f'/proc/self/fd/{fd}')])); os._exit(3)")
        seen = self.dir / "seen"
        done = self.start("run", "-o", self.out, "--", PYTHON, "-c", show, seen, stdin=subprocess.DEVNULL,
                          preexec_fn=lambda: (os.close(0), os.close(1), os.close(2)))
        self.assertEqual(done.wait(120), 3)
        plain = self.dir / "plain"
        subprocess.run([PYTHON, "-c", show, plain], check=False, stdin=subprocess.DEVNULL,
                       preexec_fn=lambda: (os.close(0), os.close(1), os.close(2)))
        self.assertEqual(seen.read_text(), plain.read_text())
        self.assertEqual(self.query("SELECT exit_status FROM run"), [(3,)])


class Environment(CliTest):
    def seen(self, script, options=(), env=None):
        done = self.run_command("sh", "-c", script, options=["-q", *options], env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def test_preload(self):
        self.assertEqual(self.seen("echo $LD_PRELOAD"), LIBRARY)
        other = str(self.dir / "other.so")
        shutil.copy(LIBRARY, other)
        env = clean_environment(LD_PRELOAD=other)
        self.assertEqual(self.seen("echo $LD_PRELOAD", env=env), f"{other}:{LIBRARY}")
        env = clean_environment(LD_PRELOAD=f"{LIBRARY}:{other}")
        self.assertEqual(self.seen("echo $LD_PRELOAD", env=env), f"{LIBRARY}:{other}")

    def test_library_path(self):
        good = self.dir / "elsewhere.so"
        shutil.copy(LIBRARY, good)
        self.assertEqual(self.seen("echo $LD_PRELOAD", env=clean_environment(SKEWSCOPE_LIB=str(good))), str(good))
        for name, text in (("libnccl-x.so", "libnccl"), ("a b.so", "blanks"), ("none.so", "SKEWSCOPE_LIB")):
            if name != "none.so":
                shutil.copy(LIBRARY, self.dir / name)
            done = self.run_command("echo", "ran", env=clean_environment(SKEWSCOPE_LIB=str(self.dir / name)))
            self.assertEqual(done.stdout, "", name)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(text, done.stderr)

    def test_signal_state_is_inherited(self):
        """Ignored signals, SIGCHLD among them, and the mask: as the command would have got them."""
        show = f"{PYTHON} -c \"print([l for l in open('/proc/self/status') if l[:6] in ('SigBlk', 'SigIgn', 'SigCgt')])\""
        setup = ("import signal, subprocess, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
                 "signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]);"
                 "import os; os.execvp(sys.argv[1], sys.argv[1:])")
        plain = subprocess.run([PYTHON, "-c", setup, "sh", "-c", show], capture_output=True, text=True, check=True)
        under = subprocess.run([PYTHON, "-c", setup, SKEWSCOPE, "run", "-q", "-o", self.out, "--", "sh", "-c", show],
                               capture_output=True, text=True, check=True, env=clean_environment())
        self.assertEqual(under.stdout, plain.stdout)

    def test_nothing_else_is_open(self):
        show = "import os; print(sorted(os.listdir('/proc/self/fd')))"
        plain = subprocess.run([PYTHON, "-c", show], capture_output=True, text=True, check=True,
                               stdin=subprocess.DEVNULL)
        self.assertEqual(self.run_command(PYTHON, "-c", show).stdout, plain.stdout)

    def test_groups_and_sessions(self):
        script = "import os; print(os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), flush=True); input()"
        process = self.start("run", "-o", self.out, "--", PYTHON, "-c", script, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        pid, parent, group, session = map(int, process.stdout.readline().split())
        self.assertEqual((parent, group, session), (process.pid, process.pid, process.pid))
        mine = children(process.pid)
        collectors = [p for p, arguments in mine.items() if "collect" in arguments]
        self.assertEqual(len(collectors), 1, mine)
        self.assertNotEqual(os.getsid(collectors[0]), session)
        until(lambda: os.path.exists(f"/proc/{collectors[0]}/fd/0"), "the collector's descriptors")
        environment = pathlib.Path(f"/proc/{collectors[0]}/environ").read_bytes()
        self.assertNotIn(b"LD_PRELOAD=", environment)
        self.assertEqual(children(pid), {})
        process.communicate("\n")
        self.assertEqual(process.returncode, 0)
        self.assertFalse(alive(collectors[0]))

    def test_what_is_kept(self):
        env = clean_environment(NCCL_DEBUG="WARN", NCCL_SOME_TOKEN="hidden1", HF_TOKEN="hidden2", MASTER_ADDR="n1",
                                WANDB_API_KEY="hidden3", TORCH_X="1", SLURM_JOB_ID="5", RANK="0",
                                AWS_SECRET_ACCESS_KEY="hidden4", NCCL_PASSWORD="hidden5", UNRELATED="hidden6",
                                CUDA_auth_file="hidden7")
        self.run_command("true", env=env)
        kept = dict(self.query("SELECT name, value FROM run_env"))
        for name in ("NCCL_DEBUG", "MASTER_ADDR", "TORCH_X", "SLURM_JOB_ID", "RANK"):
            self.assertEqual(kept[name], env[name])
        self.assertEqual([v for v in kept.values() if "hidden" in v], [])
        self.assertNotIn(b"hidden", next(pathlib.Path(self.out).glob("trace*.db")).read_bytes())


class Record(CliTest):
    def test_run(self):
        done = self.run_command("sh", "-c", "exit 4", "über", options=["-l", "ep=8", "--label", "model=a=b"])
        self.assertEqual(done.returncode, 4)
        (row,) = self.query("SELECT command, cwd, exit_status, started_real_ns < ended_real_ns FROM run")
        self.assertEqual(json.loads(row[0]), ["sh", "-c", "exit 4", "über"])
        self.assertEqual(row[1:], (os.path.realpath(self.dir), 4, 1))
        self.assertEqual(self.query("SELECT key, value FROM run_label ORDER BY key"), [("ep", "8"), ("model", "a=b")])

    def test_identity(self):
        """What layout.h promises of run-ID.json while the command runs."""
        process = self.start("run", "-q", "-o", self.out, "--", "sh", "-c", "echo begun; read x", stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.readline(), "begun\n")
        (path,) = pathlib.Path(self.out).glob(".skewscope/run-*.json")
        record = json.loads(path.read_text())
        stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        self.assertEqual((record["pid"], record["start_ticks"], record["pid_ns"]),
                         (process.pid, int(stat[19]), os.stat("/proc/self/ns/pid").st_ino))
        self.assertEqual(record["boot_id"], pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        self.assertEqual((record["ended_real_ns"], record["exit_status"]), (None, None))
        self.assertEqual(path.name, f"run-{record['id']}.json")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        process.communicate("\n")

    def test_strange_arguments(self):
        done = subprocess.run([SKEWSCOPE.encode(), b"run", b"-q", b"-o", self.out.encode(), b"--", b"true",
                               b"\xff\xfe", b"a\nb", b""], env=clean_environment(), check=False, cwd=self.dir)
        self.assertEqual(done.returncode, 0)
        ((command,),) = self.query("SELECT command FROM run")
        self.assertEqual(json.loads(command), ["true", "??", "a\nb", ""])

    def test_packages(self):
        site = self.dir / "venv" / "lib" / "python3.12" / "site-packages"
        for name in ("nvidia_nccl_cu12-2.27.3.dist-info", "deep_ep-1.2.1.dist-info", "deep_ep_helper-1.dist-info",
                     "torch-2.8.0.dist-info", "torchaudio-2.8.0.dist-info", "requests-2.0.dist-info",
                     "megatron.core-0.14.dist-info"):
            (site / name).mkdir(parents=True)
        (site / "nvidia" / "nccl" / "lib").mkdir(parents=True)
        (site / "nvidia" / "nccl" / "lib" / "libnccl.so.2").write_bytes(b"x")
        (self.dir / "libs").mkdir()
        (self.dir / "libs" / "librccl.so.1.0.70200").write_bytes(b"x")
        (self.dir / "libs" / "librccl.so").symlink_to("librccl.so.1.0.70200")
        env = clean_environment(VIRTUAL_ENV=str(self.dir / "venv"), LD_LIBRARY_PATH=str(self.dir / "libs"))
        self.run_command("true", env=env)
        here = os.path.realpath(self.dir)
        found = {(n, v) for n, v, p in self.query("SELECT name, version, path FROM run_package")
                 if os.path.realpath(p).startswith(here)}
        self.assertEqual(found, {("nvidia_nccl_cu12", "2.27.3"), ("deep_ep", "1.2.1"), ("deep_ep_helper", "1"),
                                 ("torch", "2.8.0"), ("megatron_core", "0.14"), ("libnccl", "2"),
                                 ("librccl", "1.0.70200")})

    def test_captured(self):
        done = self.run_command(EXCHANGES, "8", "100", env=self.nccl_env())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, f"skewscope: captured 100 of 100 exchanges in 1 process -> "
                                      f"{os.path.realpath(self.out)}/trace.db\n")
        self.assertEqual(self.query("SELECT count(*) FROM exchange e JOIN member USING (member_id) JOIN process"
                                    " USING (process_id) JOIN run USING (run_id)"), [(100,)])
        self.assertFalse(os.path.exists(os.path.join(self.out, ".skewscope")))

    def test_two_runs_one_directory(self):
        for _ in range(2):
            self.run_command(EXCHANGES, "4", "10", env=self.nccl_env())
        self.assertEqual(self.query("SELECT count(*) FROM run"), [(2,)])
        self.assertEqual(self.query("SELECT run_id, count(*) FROM exchange JOIN member USING (member_id)"
                                    " JOIN process USING (process_id) GROUP BY run_id"), [(1, 10), (2, 10)])

    def test_switched_off(self):
        done = self.run_command(EXCHANGES, "4", "10", env=self.nccl_env(), options=["--enable=off"])
        self.assertEqual(done.returncode, 0)
        self.assertIn("switched off", done.stderr)
        self.assertEqual(self.query("SELECT count(*) FROM exchange"), [(0,)])

    def test_collector_off(self):
        done = self.run_command(EXCHANGES, "4", "10", env=self.nccl_env(), options=["--collector=off"])
        self.assertIn("skewscope collect --out", done.stderr)
        self.assertEqual(list(pathlib.Path(self.out).glob("*.db")), [])
        info = json.loads(self.skewscope("info", "--json", self.out).stdout) # collects first
        self.assertEqual(info[0]["sizes"][0]["exchanges"], 10)
        self.assertEqual(len(info[0]["runs"]), 1)


class Directory(CliTest):
    def refused(self, text, out=None):
        done = self.skewscope("run", "-o", out or self.out, "--", "echo", "ran")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn(text, done.stderr)

    def test_file_in_the_way(self):
        path = self.write("file", "x")
        self.refused("Not a directory", f"{path}/out")
        self.refused("Not a directory", path)

    def test_state_of_others(self):
        os.makedirs(os.path.join(self.out, ".skewscope"), mode=0o777)
        os.chmod(os.path.join(self.out, ".skewscope"), 0o777)
        self.refused("0700")
        os.rmdir(os.path.join(self.out, ".skewscope"))
        os.mkdir(self.dir / "target", 0o700)
        os.symlink(self.dir / "target", os.path.join(self.out, ".skewscope"))
        self.refused("0700")

    def test_existing_directory_is_left_as_it_is(self):
        os.mkdir(self.out)
        os.chmod(self.out, 0o755)
        self.run_command("true")
        self.assertEqual(os.stat(self.out).st_mode & 0o777, 0o755)


if __name__ == "__main__":
    unittest.main()

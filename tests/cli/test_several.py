# SPDX-License-Identifier: Apache-2.0
"""Several runs: at once on one node, one inside another, and one after a crash."""
from clitest import *


class Several(CliTest):
    def test_at_once(self):
        """One collector is elected; every run ends with its own exchanges in the one trace."""
        count = 6
        go = self.dir / "go"
        processes = [self.start("run", "-o", self.out, "-l", f"n={i}", "--", "sh", "-c",
                                f"while ! [ -e {go} ]; do sleep 0.01; done; {EXCHANGES} 4 {10 + i}; exit {i}",
                                env=self.nccl_env(), stderr=subprocess.PIPE, text=True) for i in range(count)]
        until(lambda: len(list(pathlib.Path(self.out).glob(".skewscope/run-*.json"))) == count, "all have begun")
        go.touch()
        for i, process in enumerate(processes):
            _, err = process.communicate(timeout=300)
            self.assertEqual(process.returncode, i)
            self.assertIn(f"captured {10 + i} of {10 + i} exchanges in 1 process", err)
        rows = self.query("SELECT l.value, r.exit_status, count(*) FROM run r JOIN run_label l USING (run_id) JOIN process"
                          " USING (run_id) JOIN member USING (process_id) JOIN exchange USING (member_id)"
                          " GROUP BY r.run_id ORDER BY l.value")
        self.assertEqual(rows, [(str(i), i, 10 + i) for i in range(count)])
        self.assertEqual(len(list(pathlib.Path(self.out).glob("*.db"))), 1)
        self.assertFalse(os.path.exists(os.path.join(self.out, ".skewscope")))

    def test_short_beside_long(self):
        """The run that holds the collector ends last, and the others do not wait for it."""
        long = self.start("run", "-o", self.out, "--", "sh", "-c", f"{EXCHANGES} 4 3; echo begun; read x; {EXCHANGES} 4 4",
                          env=self.nccl_env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
        self.assertEqual(long.stdout.readline(), "begun\n")
        done = self.run_command(EXCHANGES, "4", "5", env=self.nccl_env())
        self.assertIn("captured 5 of 5 exchanges in 1 process", done.stderr)
        self.assertIsNone(long.poll())
        info = json.loads(self.skewscope("info", "--json", self.out).stdout)
        self.assertEqual(info[0]["sizes"][0]["exchanges"], 8) # while the other still runs
        _, err = long.communicate("\n")
        self.assertIn("captured 7 of 7 exchanges in 2 processes", err)

    def test_inside(self):
        script = f"{EXCHANGES} 4 2; {SKEWSCOPE} run -l inner=1 -- {EXCHANGES} 4 3; echo $LD_PRELOAD; exit 5"
        done = self.run_command("sh", "-c", script, options=["--spool-mb", "7", "-l", "outer=1"], env=self.nccl_env())
        self.assertEqual(done.returncode, 5)
        self.assertEqual(done.stdout.strip(), LIBRARY)
        self.assertIn("captured 3 of 3 exchanges in 1 process", done.stderr)
        self.assertIn("captured 2 of 2 exchanges in 1 process", done.stderr)
        rows = self.query("SELECT l.key, count(*) FROM run JOIN run_label l USING (run_id) JOIN process USING (run_id)"
                          " JOIN member USING (process_id) JOIN exchange USING (member_id) GROUP BY l.key")
        self.assertEqual(rows, [("inner", 3), ("outer", 2)])

    def test_inner_collector_is_not_profiled(self):
        show = ("import os, sys\nfor p in os.listdir('/proc'):\n  try:\n    a = open(f'/proc/{p}/cmdline').read().split('\\0')\n"
                "    if 'collect' in a and sys.argv[1] in a: print(b'LD_PRELOAD=' in open(f'/proc/{p}/environ', 'rb').read())\n"
                "  except OSError: pass")
        done = self.run_command(SKEWSCOPE, "run", "-q", "--", PYTHON, "-c", show, os.path.realpath(self.dir) + "/out",
                                options=["-q"])
        self.assertEqual(done.stdout.split(), ["False", "False"])

    def test_inner_settings(self):
        script = f"{SKEWSCOPE} run -q --spool-mb 9 -- sh -c 'echo $SKEWSCOPE_SPOOL_MB $SKEWSCOPE_SEGMENT_KB $LD_PRELOAD'"
        done = self.run_command("sh", "-c", script, options=["-q", "--spool-mb", "7", "--segment-kb", "32"])
        self.assertEqual(done.stdout.split(), ["9", "32", LIBRARY])

    def test_what_a_killed_job_left(self):
        """Everything killed at once, as a scheduler does it: the next command brings it in."""
        process = self.start("run", "-o", self.out, "--", "sh", "-c", f"{EXCHANGES} 4 25; echo begun; {EXCHANGES} 4 0",
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.nccl_env(),
                             start_new_session=True)
        self.addCleanup(process.stdout.close)
        self.assertEqual(process.stdout.readline(), "begun\n")
        collectors = [pid for pid, arguments in children(process.pid).items() if "collect" in arguments]
        for pid in collectors:
            os.kill(pid, signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pid in collectors:
            until(lambda pid=pid: not alive(pid), "the collector is dead")
        info = json.loads(self.skewscope("info", "--json", self.out).stdout)
        self.assertGreaterEqual(info[0]["sizes"][0]["exchanges"], 25)
        self.assertEqual(info[0]["runs"][0]["exit_status"], None)
        for process_ in info[0]["processes"]:
            self.assertEqual(process_["stored_groups"] + process_["lost_groups"], process_["returned_groups"])


if __name__ == "__main__":
    unittest.main()

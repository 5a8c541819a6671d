# SPDX-License-Identifier: Apache-2.0
"""Options: flags before variables before the JSON file before defaults, and errors that say where."""
from clitest import *

SHOW = "env | grep ^SKEWSCOPE_ | sort"


class Options(CliTest):
    def job_environment(self, *options, env=None):
        """The SKEWSCOPE_ variables that a job sees."""
        done = self.run_command("sh", "-c", SHOW, options=["-q", *options], env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def refused(self, *options, env=None, says=()):
        done = self.run_command("sh", "-c", "echo ran", options=options, env=env)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        for text in says:
            self.assertIn(text, done.stderr)
        self.assertFalse(os.path.exists(self.out))

    def test_precedence(self):
        config = self.write("c.json", '{"spool_mb": 32, "segment_kb": "64", "stacks": false, "dlsym": "off"}')
        env = clean_environment(SKEWSCOPE_SEGMENT_KB="128", SKEWSCOPE_STACKS="on")
        seen = self.job_environment("--config", config, "--stacks=off", env=env)
        self.assertEqual(seen["SKEWSCOPE_SPOOL_MB"], "32")    # only in the file
        self.assertEqual(seen["SKEWSCOPE_SEGMENT_KB"], "128") # variable over file
        self.assertEqual(seen["SKEWSCOPE_STACKS"], "off")     # flag over variable over file
        self.assertEqual(seen["SKEWSCOPE_DLSYM"], "off")
        self.assertNotIn("SKEWSCOPE_NCCL", seen)              # defaults are not exported
        self.assertNotIn("SKEWSCOPE_CONFIG", seen)

    def test_config_by_variable(self):
        config = self.write("c.json", '{"spool_mb": 5}')
        seen = self.job_environment(env=clean_environment(SKEWSCOPE_CONFIG=config))
        self.assertEqual(seen["SKEWSCOPE_SPOOL_MB"], "5")

    def test_empty_means_default(self):
        seen = self.job_environment(env=clean_environment(SKEWSCOPE_SPOOL_MB=""))
        self.assertEqual(seen.get("SKEWSCOPE_SPOOL_MB", ""), "")

    def test_internal(self):
        seen = self.job_environment()
        self.assertEqual(seen["SKEWSCOPE_OUT"], os.path.realpath(self.out))
        self.assertEqual(seen["SKEWSCOPE_HOME"], os.path.realpath(SKEWSCOPE))
        self.assertRegex(seen["SKEWSCOPE_RUN_ID"], r"^\d{8}-\d{6}-[0-9a-f]{8}$")

    def test_wrong_values(self):
        self.refused("--spool-mb", "0", says=["--spool-mb", "'0'", "from 1 to 1024", "MiB"])
        self.refused("--spool-mb", "12x", says=["--spool-mb", "'12x'"])
        self.refused("--stacks", "maybe", says=["--stacks", "'maybe'", "on or off"])
        self.refused(env=clean_environment(SKEWSCOPE_SPOOL_MB="2000"), says=["SKEWSCOPE_SPOOL_MB", "'2000'", "1024"])
        self.refused(env=clean_environment(SKEWSCOPE_COLLECTOR="no"), says=["SKEWSCOPE_COLLECTOR", "auto or off"])

    def test_misspelt_variable(self):
        env = clean_environment(SKEWSCOPE_SPOL_MB="9", SKEWSCOPE_STANDIN_CLOCK="real", SKEWSCOPE_LIB=LIBRARY)
        done = self.run_command("true", options=["-q"], env=env)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stderr, "skewscope: warning: SKEWSCOPE_SPOL_MB means nothing; did you mean "
                                      "SKEWSCOPE_SPOOL_MB?\n")

    def test_wrong_files(self):
        def config(text):
            return "--config", self.write("bad.json", text)

        self.refused(*config('{"spool_md": 3}'), says=["bad.json", '"spool_md"', 'did you mean "spool_mb"'])
        self.refused(*config('{"nothing_like_it": 3}'), says=["bad.json", '"nothing_like_it"'])
        self.refused(*config('{"spool_mb": 3,\n "stacks": }'), says=["bad.json:2:"])
        self.refused(*config('{"spool_mb": 3, "spool_mb": 4}'), says=["bad.json:1:", "spool_mb"])
        self.refused(*config('{"spool_mb": true}'), says=["bad.json", '"spool_mb"', "true", "from 1 to 1024"])
        self.refused(*config('{"spool_mb": 9999}'), says=["bad.json", '"spool_mb"', "9999"])
        self.refused(*config('{"run_id": "x"}'), says=["bad.json", '"run_id"'])
        self.refused(*config('[1]'), says=["bad.json", "object"])
        self.refused("--config", self.dir / "none.json", says=["none.json", "No such file"])

    def test_wrong_command_lines(self):
        for arguments, text in ((["run"], "which command"), (["run", "--lable", "x=y", "true"], "lable"),
                                (["run", "--label", "novalue", "true"], "'novalue'"), (["matrx"], "'matrix'"),
                                (["infos", "x"], "'info'"), (["qqqqq"], "--help"), ([], "usage"),
                                (["matrix"], "which trace"), (["info", "a", "b"], "one trace")):
            done = self.skewscope(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(text, done.stderr)

    def test_templates(self):
        env = clean_environment(RANK="3")
        out = str(self.dir / "t-%h-%r-%%")
        env["LD_LIBRARY_PATH"] = NULL_NCCL
        done = self.skewscope("run", "-o", out, "--", EXCHANGES, "2", "4", env=env)
        host = os.uname().nodename
        self.assertIn("captured 4 of 4 exchanges", done.stderr) # library and collector mean the same one
        self.assertTrue((self.dir / f"t-{host}-3-%" / "trace.db").exists())
        percent = self.dir / "50%hello"
        done = self.skewscope("run", "-o", self.dir / "50%%hello", "--", EXCHANGES, "2", "4", env=env)
        self.assertIn(f"-> {os.path.realpath(percent)}/trace.db", done.stderr)
        self.assertIn("captured 4 of 4 exchanges", done.stderr)
        left = self.skewscope("collect", env=clean_environment(SKEWSCOPE_OUT=str(self.dir / "50%%hello")))
        self.assertEqual((left.returncode, left.stderr), (0, ""))
        for bad, text in (("x%r", "rank"), ("x%q", "%q means nothing"), ("x%", "means nothing")):
            done = self.skewscope("run", "-o", self.dir / bad, "true")
            self.assertEqual(done.returncode, 2, bad)
            self.assertIn(text, done.stderr)

    def test_default_directory(self):
        done = self.skewscope("run", "-q", "true", env=clean_environment(SLURM_JOB_ID="77"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((self.dir / "skewscope-77" / "trace.db").exists())
        self.assertEqual((self.dir / "skewscope-77").stat().st_mode & 0o777, 0o700)
        self.skewscope("run", "-q", "true")
        self.assertTrue((self.dir / "skewscope-trace" / "trace.db").exists())

    def test_help(self):
        done = self.skewscope("--help")
        self.assertEqual(done.returncode, 0)
        for command in ("run", "doctor", "info", "matrix", "collect", "help"):
            self.assertIn(f"\n  {command} ", done.stdout)
            one = self.skewscope("help", command)
            self.assertEqual(one.returncode, 0)
            self.assertTrue(one.stdout)
        self.assertIn("SKEWSCOPE_SPOOL_MB", self.skewscope("run", "--help").stdout)
        self.assertRegex(self.skewscope("--version").stdout, r"^skewscope \d+\.\d+\.\d+\n$")

    def test_manual(self):
        page = self.skewscope("help", "--man").stdout
        for text in (".TH SKEWSCOPE 1", "SKEWSCOPE_SPOOL_MB", "skewscope matrix", "\\-\\-layers", "EXIT STATUS"):
            self.assertIn(text, page)
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, text=True,
                                  capture_output=True, check=False)
            self.assertEqual(done.stderr, "")


if __name__ == "__main__":
    unittest.main()

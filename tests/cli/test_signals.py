# SPDX-License-Identifier: Apache-2.0
"""Signals and the terminal: each signal reaches the command exactly once, whoever sent it."""
import pty
import select
import termios

from clitest import *

RECORDER = str(HERE / "recorder.py")
MARKER = signal.SIGWINCH # higher than all others that are sent, so it is passed on after them
ALL = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM]


class Forwarding(CliTest):
    def setUp(self):
        super().setUp()
        self.file = self.dir / "signals"

    def recorder(self, end="exit", **kwargs):
        process = self.start("run", "-q", "-o", self.out, "--", PYTHON, RECORDER, self.file, end,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, **kwargs)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        self.addCleanup(process.stdout.close)
        return process

    def delivered(self):
        return [signal.Signals(b) for b in self.file.read_bytes() if b != MARKER]

    def wait_for(self, number):
        until(lambda: number in self.file.read_bytes(), f"{number!r} delivered")

    def test_to_run_only(self):
        process = self.recorder()
        for number in ALL:
            os.kill(process.pid, number)
            self.wait_for(number)
        os.kill(process.pid, MARKER)
        self.assertEqual(process.wait(120), 5)
        self.assertEqual(self.delivered(), ALL)

    def test_to_the_group(self):
        process = self.recorder()
        for number in ALL:
            os.killpg(process.pid, number)
            self.wait_for(number)
        os.kill(process.pid, MARKER) # to run only: what came before has been dealt with when it arrives
        self.assertEqual(process.wait(120), 5)
        self.assertEqual(self.delivered(), ALL)

    def test_group_then_run(self):
        """A signal for all must not swallow the next one, which is for run."""
        process = self.recorder()
        os.killpg(process.pid, signal.SIGUSR1)
        self.wait_for(signal.SIGUSR1)
        os.kill(process.pid, signal.SIGUSR2)
        self.wait_for(signal.SIGUSR2)
        os.kill(process.pid, signal.SIGUSR1)
        until(lambda: self.file.read_bytes().count(bytes([signal.SIGUSR1])) == 2, "the second one")
        os.kill(process.pid, MARKER)
        self.assertEqual(process.wait(120), 5)
        self.assertEqual(self.delivered(), [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1])

    def test_death_is_mirrored(self):
        process = self.recorder("signal")
        os.kill(process.pid, signal.SIGTERM)
        self.wait_for(signal.SIGTERM)
        os.kill(process.pid, MARKER)
        self.assertEqual(process.wait(120), -signal.SIGTERM)
        self.assertEqual(self.query("SELECT exit_signal FROM run"), [(int(signal.SIGTERM),)])

    def test_from_the_command(self):
        """What the command sends to its parent does not come back to it."""
        script = ("import os, signal; signal.signal(signal.SIGUSR1, lambda *a: os._exit(9));"
                  "os.kill(os.getppid(), signal.SIGUSR1); print('sent', flush=True); input()")
        process = self.start("run", "-q", "-o", self.out, "--", PYTHON, "-c", script, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.readline(), "sent\n")
        until(lambda: not int(self.pending(process.pid), 16), "run has taken the signal")
        process.communicate("\n")
        self.assertEqual(process.returncode, 0)

    def pending(self, pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return next(line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd"))

    def test_run_killed(self):
        """The command goes on; its collector ends by itself; nothing is lost."""
        fifo = str(self.dir / "fifo")
        os.mkfifo(fifo)
        process = self.start("run", "-o", self.out, "--", "sh", "-c",
                             f"{EXCHANGES} 4 50; echo half; read x < {fifo}; {EXCHANGES} 4 70; echo done",
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                             env=self.nccl_env())
        self.addCleanup(process.stdout.close)
        self.assertEqual(process.stdout.readline(), "half\n")
        helpers = [p for p, a in children(process.pid).items() if "collect" in a or a == [] or a[0] == SKEWSCOPE]
        process.kill()
        process.wait()
        with open(fifo, "w", encoding="utf-8") as f:
            f.write("x\n")
        self.assertEqual(process.stdout.readline(), "done\n")
        for pid in helpers:
            until(lambda pid=pid: not alive(pid), "the collector and the helper have ended")
        self.skewscope("collect", "--out", self.out)
        self.assertEqual(self.query("SELECT count(*) FROM exchange"), [(120,)])
        self.assertEqual(self.query("SELECT count(*) FROM run WHERE exit_status IS NULL AND command IS NOT NULL"), [(1,)])

    def test_collector_killed(self):
        process = self.start("run", "-o", self.out, "--", "sh", "-c", f"{EXCHANGES} 4 50; echo half; read x; {EXCHANGES} 4 70",
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=self.nccl_env())
        self.assertEqual(process.stdout.readline(), "half\n")
        for pid, arguments in children(process.pid).items():
            if "collect" in arguments:
                os.kill(pid, signal.SIGKILL)
        _, err = process.communicate("go\n")
        self.assertEqual(process.returncode, 0)
        self.assertIn("captured 120 of 120 exchanges in 2 processes", err)


    def test_tired_of_waiting(self):
        """An interrupt after the command has ended: run ends, and the collector still does its work."""
        process = self.start("run", "-o", self.out, "--", "sh", "-c", f"{EXCHANGES} 4 30; echo made; read x; exit 3",
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=self.nccl_env())
        self.assertEqual(process.stdout.readline(), "made\n")
        (collector,) = [pid for pid, arguments in children(process.pid).items() if "collect" in arguments]
        os.kill(collector, signal.SIGSTOP)
        self.addCleanup(lambda: alive(collector) and os.kill(collector, signal.SIGCONT))
        process.stdin.write("\n")
        process.stdin.close()

        def ended():
            os.kill(process.pid, signal.SIGINT)
            return process.poll() is not None
        until(lambda: not [a for a in children(process.pid).values() if a and a[0] == "sh"], "the command's end")
        until(ended, "the end of run")
        self.assertEqual(process.returncode, 3)
        self.assertIn("the trace is not complete: interrupted; what is left waits for: skewscope collect",
                      process.stderr.read())
        process.stderr.close()
        process.stdout.close()
        os.kill(collector, signal.SIGCONT)
        until(lambda: not alive(collector), "the collector's end")
        self.assertEqual(self.query("SELECT count(*) FROM exchange"), [(30,)])


class Terminal(CliTest):
    """A terminal and a shell with job control around it."""

    def setUp(self):
        super().setUp()
        self.seen = ""
        self.file = self.dir / "signals"

    def shell(self, *command):
        go_read, self.go = os.pipe()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.dup2(go_read, 9)
            os.set_inheritable(9, True)
            os.execve(PYTHON, [PYTHON, str(HERE / "minishell.py"), *map(str, command)], clean_environment(TERM="xterm"))
        os.close(go_read)
        attributes = termios.tcgetattr(self.terminal)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(self.terminal, termios.TCSANOW, attributes)
        self.addCleanup(self.end)

    def end(self):
        os.close(self.go)
        os.close(self.terminal)
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)

    def expect(self, text):
        """Reads on until `text` has appeared; returns everything up to it."""
        while text not in self.seen:
            self.assertTrue(select.select([self.terminal], [], [], 120)[0], f"no {text!r} in {self.seen!r}")
            try:
                got = os.read(self.terminal, 4096)
            except OSError:
                got = b""
            self.assertTrue(got, f"ended without {text!r}: {self.seen!r}")
            self.seen += got.decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text):
        os.write(self.terminal, text.encode())

    def run_in_shell(self, *command, options=("-q",)):
        self.shell(SKEWSCOPE, "run", "-o", self.out, *options, "--", *command)
        self.expect("[job ")
        return int(self.expect("]"))

    def test_control_c_once(self):
        job = self.run_in_shell(PYTHON, RECORDER, self.file, "signal")
        self.expect("ready")
        for key, number in (("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT), ("\x03", signal.SIGINT)):
            before = len(self.file.read_bytes())
            self.type(key)
            until(lambda n=before: len(self.file.read_bytes()) > n, f"{number!r}")
        os.kill(job, MARKER)
        self.expect(f"[signal {int(signal.SIGINT)}]") # died of the last one, and so did run
        got = [signal.Signals(b) for b in self.file.read_bytes()]
        self.assertEqual(got, [signal.SIGINT, signal.SIGQUIT, signal.SIGINT, MARKER])

    def test_stop_and_continue(self):
        self.run_in_shell("sh", "-c", "echo begun; read x; echo got $x; exit 6")
        self.expect("begun")
        for _ in range(2):
            self.type("\x1a")
            self.expect(f"[stopped {int(signal.SIGTSTP)}]")
            os.write(self.go, b"\n")
            self.expect("[continued]")
        self.type("hello\n")
        self.expect("got hello")
        self.expect("[status 6]")

    def test_command_that_ignores_stop(self):
        """^Z on a command that ignores it stops nobody, as without run."""
        job = self.run_in_shell("sh", "-c", "trap '' TSTP; echo begun; read x; exit 8")
        self.expect("begun")
        self.type("\x1a")
        self.type("go on\n")
        self.assertNotIn("stopped", self.expect("[status 8]"))
        self.assertFalse(alive(job))

    def test_reading_in_the_background(self):
        """SIGTTIN stops the whole job, and continuing it in the foreground lets it read."""
        self.run_in_shell("sh", "-c", "echo begun; read x; echo got $x")
        self.expect("begun")
        self.type("\x1a")
        self.expect(f"[stopped {int(signal.SIGTSTP)}]")
        os.write(self.go, b"\n")
        self.expect("[continued]")
        self.type("line\n")
        self.expect("got line")
        self.expect("[status 0]")

    def test_it_is_a_terminal(self):
        self.run_in_shell(PYTHON, "-c", "import os; print('tty', [os.isatty(i) for i in range(3)],"
                                        " os.tcgetpgrp(0) == os.getpgrp())")
        self.expect("tty [True, True, True] True")
        self.expect("[status 0]")

    def test_full_screen_program_restores_itself(self):
        """A child shell that takes the terminal for groups of its own, and gives it back."""
        self.run_in_shell("bash", "--norc", "-i", "-c", "set -m; sh -c 'echo inner'; exit 9")
        self.expect("inner")
        self.expect("[status 9]")


if __name__ == "__main__":
    unittest.main()

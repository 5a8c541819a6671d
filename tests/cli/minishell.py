# SPDX-License-Identifier: Apache-2.0
"""The job control of a shell, as little as a test needs. Run it as a session leader with a terminal.

usage: minishell.py COMMAND [ARGUMENT...]

Runs the command in a process group of its own in the foreground. When the job stops, says
"[stopped N]", takes the terminal, waits for a line on descriptor 9, gives the terminal back and
continues the whole group, and says "[continued]". At the end says "[status N]" or "[signal N]".
"""
import os
import signal
import sys

signal.signal(signal.SIGTTOU, signal.SIG_IGN)
signal.signal(signal.SIGTTIN, signal.SIG_IGN)
signal.signal(signal.SIGTSTP, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGQUIT, signal.SIG_IGN)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    for number in (signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.close(9)
    os.execvp(sys.argv[1], sys.argv[1:])
try:
    os.setpgid(child, child)
except OSError:
    pass # it has done so itself
print(f"[job {child}]", flush=True)
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.tcsetpgrp(0, os.getpgrp())
        print(f"[stopped {os.WSTOPSIG(status)}]", flush=True)
        os.read(9, 1)
        os.tcsetpgrp(0, child)
        os.killpg(child, signal.SIGCONT)
        print("[continued]", flush=True)
    elif os.WIFEXITED(status):
        print(f"[status {os.WEXITSTATUS(status)}]", flush=True)
        break
    else:
        print(f"[signal {os.WTERMSIG(status)}]", flush=True)
        break
os.tcsetpgrp(0, os.getpgrp())

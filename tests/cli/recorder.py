# SPDX-License-Identifier: Apache-2.0
"""A command that writes one byte into a file for each signal that is delivered to it.

usage: recorder.py FILE [exit|signal]

SIGWINCH ends it, by exit status 5, or by the last other signal that came. Says "ready" first.
The bytes are written by Python's C handler (set_wakeup_fd), so no delivery is merged with another.
"""
import os
import signal
import sys

path, end = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "exit"
fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600)
signal.set_wakeup_fd(fd)
last = []


def note(number, _frame):
    if number != signal.SIGWINCH:
        last.append(number)
        return
    if end == "signal" and last:
        signal.signal(last[-1], signal.SIG_DFL)
        os.kill(os.getpid(), last[-1])
    sys.exit(5)


for each in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
             signal.SIGALRM, signal.SIGWINCH):
    signal.signal(each, note)
print("ready", flush=True)
while True:
    signal.pause()

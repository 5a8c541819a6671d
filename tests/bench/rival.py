# SPDX-License-Identifier: Apache-2.0
"""A live LTTng session for the rival arm: started for the benchmark, checked for loss, taken away."""
import os
import shutil
import subprocess
import time
import xml.etree.ElementTree as xml

import benchlib

NAME = "skewscope-benchmark"
BUFFERS = [("4M", "8"), ("8M", "16"), ("16M", "32")]  # subbuffer size and number a core; the next one after a loss


class Session:
    """with Session(dir, core) as s: run the rival arm with s.env; afterwards s.discarded() must be 0."""

    def __init__(self, directory, core, step=0):
        self.directory = directory
        self.core = core
        self.size, self.number = BUFFERS[step]
        # As an ordinary user LTTNG_HOME is where the daemon lives; root's lives in /run/lttng.
        self.env = dict(os.environ, LTTNG_HOME=directory, LTTNG_UST_REGISTER_TIMEOUT="-1")
        self.daemon = None

    def lttng(self, *args):
        done = subprocess.run(["lttng", "--no-sessiond", *args], env=self.env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"lttng {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def alive(self):
        return subprocess.run(["lttng", "--no-sessiond", "list"], env=self.env, capture_output=True,
                              check=False).returncode == 0

    def __enter__(self):
        if not self.alive():
            self.daemon = benchlib.start_on(self.core, ["lttng-sessiond", "--no-kernel"], self.env,
                                            os.path.join(self.directory, "sessiond.log"))
            for _ in range(100):
                if self.alive():
                    break
                time.sleep(0.1)
        self.lttng("create", NAME, f"--output={os.path.join(self.directory, 'trace')}")
        # Bounded on disk; a file that is written over was complete before, so nothing is discarded by it.
        self.lttng("enable-channel", "-u", "-s", NAME, f"--subbuf-size={self.size}", f"--num-subbuf={self.number}",
                   "--tracefile-size=64M", "--tracefile-count=4", "cells")
        self.lttng("enable-event", "-u", "-s", NAME, "-c", "cells", "skew_rival:*")
        self.lttng("start", NAME)
        return self

    def discarded(self):
        """Events discarded plus packets lost so far. Stops the session."""
        self.lttng("stop", NAME)
        tree = xml.fromstring(self.lttng("--mi", "xml", "list", NAME))
        found = [int(e.text) for e in tree.iter() if e.tag.rsplit("}", 1)[-1] in ("discarded_events", "lost_packets")]
        if not found:
            raise SystemExit("lttng list does not tell how many events were discarded")
        return sum(found)

    def __exit__(self, *_):
        subprocess.run(["lttng", "--no-sessiond", "destroy", NAME], env=self.env, capture_output=True, check=False)
        benchlib.stop(self.daemon)
        shutil.rmtree(os.path.join(self.directory, "trace"), ignore_errors=True)


def available():
    """None, or why there can be no rival arm."""
    for tool in ("lttng", "lttng-sessiond"):
        if not shutil.which(tool):
            return f"{tool} is not installed (Debian: lttng-tools)"
    return None

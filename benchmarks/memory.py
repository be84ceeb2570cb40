"""Peak memory: of this process, and of a command with all the processes it starts."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

SAMPLE_S = 0.5              # reading PSS takes milliseconds per GB


def peak_mb(pid: int | str = "self") -> float:
    """Peak resident memory of a process since it was started, in MB.

    `ru_maxrss` would do only where there is no /proc: on Linux a program begins with the peak of the one that
    started it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    found = [line for line in lines if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) / 1024 if found else 0.0                          # none: it has just ended


def run(command: Sequence[str | Path]) -> tuple[str, float, float]:
    """What a command printed, its seconds, and the peak resident memory of its process tree in MB.

    The tree's memory is the sum over its processes, looked at every SAMPLE_S, and at least the first one's own peak. On
    Linux a page that processes share counts in part for each (PSS).
    """
    begin, peak = time.monotonic(), 0.0
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        try:
            root = psutil.Process(process.pid)
            while True:
                try:
                    printed, _ = process.communicate(timeout=SAMPLE_S)
                    break
                except subprocess.TimeoutExpired:
                    peak = max(peak, _tree_mb(root))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {process.returncode}")
    return printed, time.monotonic() - begin, peak


def _tree_mb(root: psutil.Process) -> float:
    total = 0
    with suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                info = process.memory_full_info()
                total += getattr(info, "pss", info.rss)
    return max(total / 2**20, peak_mb(root.pid) if sys.platform == "linux" else 0.0)


def warm_memory(count: int) -> None:
    """Write into that many bytes, at most half of what is free, and free them.

    A virtual machine gets its memory from the host page by page, and who writes first into a page waits for it, up to
    ten times as long as a copy takes.
    """
    np.ones(min(count, psutil.virtual_memory().available // 2), np.uint8)

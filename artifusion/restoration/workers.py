"""Where batches of canvases are painted: in this process, or in one process per device.

A worker is this module run as a program. It hears from its parent through a socket alone, and ends when that is closed,
however its parent ended. It has a session of its own, so that Ctrl-C reaches the parent only, which kills it.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from artifusion.errors import DeviceError

if TYPE_CHECKING:
    from artifusion.restorer import Restorer

Work = dict[str, Any]                                       # the arguments of Restorer.restore_batch
Done = tuple[Any, list[np.ndarray]]                         # which work it was, and its images


class Painters(Protocol):
    """Paints up to `size` pieces of work at once."""

    size: int

    @property
    def free(self) -> int:
        """How many have nothing to do."""

    def start(self, name: Any, work: Work) -> None:
        """Hand work to one that is free."""

    def finish(self) -> Done:
        """Wait for any work that was started. Raises what its painting raised; DeviceError where its process died."""


@contextmanager
def painters_on(restorer: Restorer, most: int) -> Iterator[Painters]:
    """One painter for each of the restorer's devices, but at most so many; one alone paints in this process.

    Each process loads the weights once. All are killed when the block ends.
    """
    devices = restorer.devices[:most]
    if len(devices) < 2:
        yield Here(restorer)
        return
    import torch

    weights = replace(restorer.weights, denoiser=copy.deepcopy(restorer.weights.denoiser).cpu())
    settings = restorer.config, torch.get_num_threads()     # as many threads as here: on CPUs sums depend on it
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(str(device))) for device in devices]
        for worker in workers:                              # by now all are starting
            # pickled here: a channel would pass on tensors as shared memory, which must outlive the sending
            worker.tell(pickle.dumps((weights, worker.device, *settings)))
        yield Workers(workers)


class Here:
    """The restorer itself, which paints when it is waited for."""

    size = 1

    def __init__(self, restorer: Restorer) -> None:
        self.free = 1
        self._restorer, self._started = restorer, list[tuple[Any, Work]]()

    def start(self, name: Any, work: Work) -> None:
        self.free -= 1
        self._started.append((name, work))

    def finish(self) -> Done:
        self.free += 1
        name, work = self._started.pop()
        return name, self._restorer.restore_batch(**work)


class Workers:
    """Several processes, of which each paints one piece of work at a time."""

    def __init__(self, workers: list[Worker]) -> None:
        self.size, self._idle = len(workers), list(workers)
        self._busy: dict[Any, tuple[Any, Worker]] = {}      # by channel

    @property
    def free(self) -> int:
        return len(self._idle)

    def start(self, name: Any, work: Work) -> None:
        worker = self._idle.pop()
        worker.tell(work)
        self._busy[worker.channel] = name, worker

    def finish(self) -> Done:
        channel = wait(list(self._busy))[0]
        name, worker = self._busy.pop(channel)
        images = worker.hear()
        self._idle.append(worker)
        return name, images


class Worker:
    """A process that will have a restorer on one device, alive inside a with block."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.channel, theirs = Pipe()
        paths = os.pathsep.join(path or os.curdir for path in sys.path)     # it finds what this process finds
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "artifusion.restoration.workers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], start_new_session=True, env=os.environ | {"PYTHONPATH": paths})

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.channel.close()

    def tell(self, what: Any) -> None:
        try:
            self.channel.send(what)
        except ConnectionError:
            raise self._death() from None

    def hear(self) -> list[np.ndarray]:
        try:
            answer = self.channel.recv()
        except (EOFError, OSError):                         # OSError: it ended amid an answer
            raise self._death() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _death(self) -> DeviceError:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return DeviceError(f"{self.device}: the process that painted there has ended ({how}); is there memory enough? "
                           "Start again: finished canvases are kept")


def serve(channel: Connection) -> None:
    """Paint what comes, until the channel is closed; what is raised goes back in place of images."""
    import torch

    from artifusion.restorer import Restorer

    with suppress(EOFError, OSError):
        weights, device, config, threads = pickle.loads(channel.recv())
        torch.set_num_threads(threads)
        restorer = None
        while True:
            work = channel.recv()
            try:
                restorer = restorer or Restorer(weights, device, config)
                answer: Any = restorer.restore_batch(**work)
            except Exception as error:
                error.add_note(f"on {device}:\n{traceback.format_exc()}")
                answer = error
            channel.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))

"""Where batches of canvases are painted: in this process, or in one process per device.

A worker is this module, run as a program. It receives work from its parent through a socket and ends when the socket is
closed, however its parent ended. It has a session of its own: Ctrl-C reaches the parent alone, which kills its workers.
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
Done = tuple[Any, list[np.ndarray]]                         # the name of the work, and its images


class Painters(Protocol):
    """Paints up to `size` pieces of work at once."""

    size: int

    @property
    def free(self) -> int:
        """How many more pieces of work can be started now."""

    def start(self, name: Any, work: Work) -> None:
        """Begin a piece of work; one must be free."""

    def finish(self) -> Done:
        """Wait for any work that was started. Raises what its painting raised, or DeviceError if its process died."""


@contextmanager
def painters_on(restorer: Restorer, most: int) -> Iterator[Painters]:
    """A process for each of the restorer's devices, at most so many; if it is one, this process paints.

    Each process loads the weights once. All processes are killed when the block ends.
    """
    devices = restorer.devices[:most]
    if len(devices) < 2:
        yield InThisProcess(restorer)
        return
    import torch

    weights = replace(restorer.weights, denoiser=copy.deepcopy(restorer.weights.denoiser).cpu())
    settings = restorer.config, torch.get_num_threads()     # as many threads as here: on CPUs sums depend on it
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(str(device))) for device in devices]
        for worker in workers:                              # by now all are starting
            # pickled before it is sent: a channel would share the tensors' memory, which must outlive the sending
            worker.send(pickle.dumps((weights, worker.device, *settings)))
        yield Workers(workers)


class InThisProcess:
    """The restorer itself. It paints when `finish` asks for the images."""

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
    """Several processes. Each paints one piece of work at a time."""

    def __init__(self, workers: list[Worker]) -> None:
        self.size, self._idle = len(workers), list(workers)
        self._busy: dict[Any, tuple[Any, Worker]] = {}      # by channel

    @property
    def free(self) -> int:
        return len(self._idle)

    def start(self, name: Any, work: Work) -> None:
        worker = self._idle.pop()
        worker.send(work)
        self._busy[worker.channel] = name, worker

    def finish(self) -> Done:
        channel = wait(list(self._busy))[0]
        name, worker = self._busy.pop(channel)
        images = worker.receive()
        self._idle.append(worker)
        return name, images


class Worker:
    """A process with a restorer on one device. It lives as long as the with block."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.channel, far_end = Pipe()
        paths = os.pathsep.join(path or os.curdir for path in sys.path)     # it imports what this process imports
        with far_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "artifusion.restoration.workers", str(far_end.fileno())],
                pass_fds=[far_end.fileno()], start_new_session=True, env=os.environ | {"PYTHONPATH": paths})

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.channel.close()

    def send(self, message: Any) -> None:
        try:
            self.channel.send(message)
        except ConnectionError:
            raise self._death_error() from None

    def receive(self) -> list[np.ndarray]:
        try:
            answer = self.channel.recv()
        except (EOFError, OSError):                         # OSError: it ended while it answered
            raise self._death_error() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _death_error(self) -> DeviceError:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return DeviceError(f"{self.device}: the process that painted there has ended ({how}); is there memory enough? "
                           "Start again: finished canvases are kept")


def serve(channel: Connection) -> None:
    """Paint each work that is received, until the channel is closed; an exception is sent in place of images."""
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

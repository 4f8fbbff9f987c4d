"""The processes that make one clip together, one for each GPU: how they start, find each other and speak.

Rank 0 leads, the others follow. What they do together runs on one thread, one thing after another, so that a Ctrl-C in
the main thread never falls between the two halves of an exchange. Knows nothing about models or clips.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from engine.config import ROOT
from engine.errors import BackendUnavailable

WORK = timedelta(minutes=10)  # tensors: a rank that keeps the others waiting for so long is taken for lost
IDLE = timedelta(days=7)  # messages: a studio may wait so long for its next clip. A rank that dies is noticed at once
START_S = 300.0
END_S = 10.0
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class RankLost(Exception):
    """Another rank has ended or does not answer."""


class Ranks:
    """This process among the `size` that work together. Every method but `do` and `leave` is for `do` to call."""

    def __init__(self, rank: int, size: int, *, store: dist.Store | None = None, work: timedelta = WORK) -> None:
        """Meet the others through `store`, or through the environment that torch.distributed.run has set."""
        self.rank, self.size, self.lost = rank, size, False
        self._control: dist.ProcessGroup | None = None
        use_device(rank)
        self._lane = ThreadPoolExecutor(1, "ranks", initializer=use_device, initargs=(rank,))
        self.do(self._meet, store, work)

    def do(self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """What `work` returns, done on the one thread. It is done to its end even if the caller is cut off."""
        return self._lane.submit(torch.inference_mode(work), *args, **kwargs).result()

    def _meet(self, store: dist.Store | None, work: timedelta) -> None:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with losses_noticed(self):
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=work)
            self._control = dist.new_group(backend="gloo", timeout=IDLE)

    def tell(self, message: object) -> None:
        """Rank 0: send `message` to all others."""
        with losses_noticed(self):
            dist.broadcast_object_list([message], src=0, group=self._control)

    def hear(self) -> object:
        """Other ranks: the next message of rank 0."""
        received: list[object] = [None]
        with losses_noticed(self):
            dist.broadcast_object_list(received, src=0, group=self._control)
        return received[0]

    def agree(self, own: Result) -> list[Result]:
        """What each rank says, in their order."""
        gathered: list[Result] = [own] * self.size
        with losses_noticed(self):
            dist.all_gather_object(gathered, own, group=self._control)
        return gathered

    def mesh(self, device: torch.device, num_groups: int) -> DeviceMesh:
        """The ranks as `num_groups` groups of neighbours; diffusers wants the other two dimensions by these names."""
        shape = (num_groups, 1, self.size // num_groups)
        with losses_noticed(self):
            return init_device_mesh(device.type, shape, mesh_dim_names=("guidance", "ring", "ulysses"))

    def gather(self, own: torch.Tensor, into: list[torch.Tensor], group: dist.ProcessGroup) -> None:
        """Fill `into` with the tensors of all ranks of `group`, which have the shape and dtype of `own`."""
        with losses_noticed(self):
            dist.all_gather(into, own, group=group)

    def abandon(self) -> None:
        """Break off what is under way between GPUs, which else waits for a rank that never comes. Messages still go."""
        for group in list(dist.distributed_c10d._world.pg_map):
            if group is not self._control:
                group.abort()

    def leave(self) -> None:
        """Let go of the others."""
        if dist.is_initialized():
            if self.lost:
                self.abandon()
            self.do(dist.destroy_process_group)
        self._lane.shutdown()


class Followers:
    """Processes with ranks 1 … size − 1, which end when this process ends, however it ends."""

    def __init__(self, size: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="svi-ranks-")  # a file, not a port: nobody else can join
        self._size, self._file = size, Path(self._folder.name) / "store"
        python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": python_path} | this_machine_only()
        command = [sys.executable, "-m", "engine.backends.follow"]
        self._processes = [
            subprocess.Popen(
                [*command, str(rank), str(size), str(self._file)],
                stdin=subprocess.PIPE,  # its end tells them that this process is gone
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for this process
            )
            for rank in range(1, size)
        ]

    def joined(self) -> Ranks:
        """Rank 0 among them, once all have started. Raises `BackendUnavailable` when one does not."""
        os.environ.update(this_machine_only())
        store = dist.FileStore(str(self._file), self._size)
        deadline = time.monotonic() + START_S
        while not store.check([here(rank) for rank in range(1, self._size)]):
            if any(process.poll() is not None for process in self._processes) or time.monotonic() > deadline:
                raise BackendUnavailable(
                    "A process for another GPU could not be started.", "Set `gpus: 1` in the preset, or try again."
                )
            time.sleep(0.05)
        return Ranks(0, self._size, store=store)

    def end(self) -> None:
        """Wait until they have ended; those that do not are killed."""
        for process in self._processes:
            with suppress(OSError):
                process.stdin.close()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()


@cache
def joined() -> Ranks:
    """This process among those that torch.distributed.run started."""
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


@contextmanager
def losses_noticed(ranks: Ranks) -> Iterator[None]:
    """Turn what torch raises when a rank does not answer into `RankLost`."""
    try:
        yield
    except RuntimeError as err:
        ranks.lost = True
        raise RankLost(str(err)) from err


def here(rank: int) -> str:
    """The key under which a follower says that it has started."""
    return f"rank {rank} is here"


def this_machine_only() -> dict[str, str]:
    """Environment by which gloo and NCCL listen on the loopback device; messages are pickles."""
    if not sys.platform.startswith("linux"):
        return {}
    return {name: os.environ.get(name, "lo") for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}


def use_device(rank: int) -> None:
    """Make this thread use the GPU of `rank`, where there is one."""
    index = int(os.environ.get("LOCAL_RANK", rank))
    if index < torch.cuda.device_count():
        torch.cuda.set_device(index)

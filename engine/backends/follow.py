"""The other ranks of a clip that several GPUs make: they compute what the leader says, and know no film and no file.

`python -m engine.backends.follow RANK SIZE FILE` is such a process; it ends when the one that started it does.
"""

import logging
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch.distributed as dist

from engine.backends.base import StepDone
from engine.backends.local import release_memory
from engine.backends.parallel import Clip, Exit, Failure, Member, Open, Word, failure, on
from engine.backends.ranks import RankLost, Ranks, here, joined
from engine.diffusion.conditioning import Conditioning
from engine.diffusion.sampler import Step
from engine.domain import ClipRequest
from engine.variants import Variant

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The leader has stopped the clip."""


class Follower(Member):
    """Makes the steps of each clip that the leader makes; decodes nothing and shows nothing."""

    def serve(self) -> None:
        """Follow until the leader closes the model."""
        while isinstance(message := self._ranks.do(self._ranks.hear), Clip):
            self._follow(message)

    def _follow(self, clip: Clip) -> None:
        failed: Failure | None = None
        try:
            self._make_room(clip)
            with closing(self._generate(clip.request)) as steps:
                for step in steps:
                    if step.step == step.of:
                        break
        except Stopped:
            return
        except RankLost:
            raise
        except Exception as err:
            log.warning("clip %d: %s: %s", clip.request.index + 1, type(err).__name__, err)
            self._shortcuts.fall_back(err)  # as the leader does when it fails like this
            failed = failure(self._ranks.rank, err)
        if failed is not None:
            release_memory()  # outside the except block: its traceback holds the tensors of the failed step
        self._await_stop(failed)

    def _make_room(self, clip: Clip) -> None:
        placement = self.components.placement
        if placement is not None:
            placement.prepare(clip.request.resolution, clip.request.num_frames)
            if clip.lower:
                placement.step_down()

    def _await_stop(self, failed: Failure | None) -> None:
        """Wait for the end of the clip; a step that is begun meanwhile is told that this rank has failed."""
        while (message := self._ranks.do(self._ranks.hear)) is not Word.STOP:
            if message is Word.STEP:
                self._ranks.do(self._ranks.agree, failed)

    def _prepare(self, request: ClipRequest, variant: Variant, seconds: Counter[str]) -> Conditioning:
        message = self._ranks.do(self._ranks.hear)
        if not isinstance(message, Conditioning):
            raise Stopped
        conditioning = on(message, self.components.device)
        self._arrange(request, conditioning.condition_latents)
        return conditioning

    def _begin_step(self) -> None:
        if self._ranks.hear() is not Word.STEP:
            raise Stopped

    def _step_done(self, request: ClipRequest, step: Step, seconds: Counter[str]) -> StepDone:
        return StepDone(step.index, request.num_inference_steps)


def follow(ranks: Ranks, kind: type[Follower] = Follower) -> int:
    """Serve one model after another; returns the leader's exit code, or 1 when the leader is gone."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # they reach the leader as well, which decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        while isinstance(message := ranks.do(ranks.hear), Open):
            serve(ranks, message, kind)
    except RankLost as err:
        log.warning("the leader is gone: %s", err)
        return 1
    return message.code if isinstance(message, Exit) else 1


def serve(ranks: Ranks, order: Open, kind: type[Follower]) -> None:
    """Load a model and follow with it until the leader closes it; a model that cannot be loaded is not served."""
    try:
        follower = kind.load(order.preset, ranks, threads=order.threads)
    except RankLost:
        raise
    except Exception as err:
        log.warning("the model is not served: %s", err)
        return
    with closing(follower):
        follower.serve()


def follow_leader() -> int:
    """The life of a rank other than 0 that torch.distributed.run started; returns its exit code."""
    return follow(joined())


def end_with_parent(file: Path) -> None:
    """End this process when its parent has ended, and remove what that one could not: the folder they met in."""
    sys.stdin.buffer.read()
    shutil.rmtree(file.parent, ignore_errors=True)
    os._exit(1)


def main(arguments: Sequence[str]) -> int:
    rank, size, file = int(arguments[0]), int(arguments[1]), Path(arguments[2])
    logging.basicConfig(level=logging.ERROR, format=f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s")
    threading.Thread(target=end_with_parent, args=(file,), name="parent", daemon=True).start()
    store = dist.FileStore(str(file), size)
    store.set(here(rank), "1")
    code = follow(Ranks(rank, size, store=store))
    if code:  # the leader is gone, which this thread may learn before the one that waits for it
        shutil.rmtree(file.parent, ignore_errors=True)
    return code


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # at once: what a GPU still does for a leader that is gone would never end

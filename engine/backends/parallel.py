"""One clip on several GPUs: the branches of guidance side by side, and the tokens of a pass shared among the rest.

Two GPUs: one computes the prompted branch, the other the negative one, and each step exchanges the predictions (8.4 MB
at 14B). More, or no guidance: Ulysses, every GPU holds a share of the tokens. Rank 0 leads: it encodes texts and
pictures, decodes, and alone knows of films and files. The others go through the same steps (`follow.py`), each of
which begins with the leader's word and ends with everyone's, so that none waits for one that has failed.
"""

import logging
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from enum import Enum, auto
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from engine import backends
from engine.backends.base import ClipResult, Notice, StepDone
from engine.backends.local import Denoiser, LocalBackend, is_out_of_memory, load_components
from engine.backends.ranks import Followers, RankLost, Ranks, joined
from engine.config import Preset
from engine.diffusion.conditioning import Conditioning
from engine.diffusion.guidance import passes
from engine.domain import ClipRequest
from engine.environment import available_cores
from engine.errors import BackendUnavailable, ConfigError, GenerationError, OutOfMemory, StudioError
from engine.models.attention import PlainDenoiser
from engine.models.components import Components, device_of
from engine.models.sharing import Sharing, share_tokens, token_sharing
from engine.variants import Variant

log = logging.getLogger(__name__)
MAX_BRANCHES = 2  # of guidance, in the variants there are


@dataclass(frozen=True)
class Open:
    """Load the model of `preset`."""

    preset: Preset
    threads: int | None


@dataclass(frozen=True)
class Clip:
    """Make the clip of `request`; with less memory than before if `lower`."""

    request: ClipRequest
    lower: bool


@dataclass(frozen=True)
class Exit:
    """Nothing more is to come; `code` is the leader's exit code."""

    code: int


class Word(Enum):
    STEP = auto()  # make a step
    STOP = auto()  # the clip is over, one way or another
    CLOSE = auto()  # free the model


@dataclass(frozen=True)
class Failure:
    """What went wrong on `rank`; `error` where it is meant for the user's eyes."""

    rank: int
    text: str
    out_of_memory: bool
    error: StudioError | None


class OutOfMemoryOn(MemoryError):
    """Memory ran out on another rank."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self.rank = rank


@dataclass(frozen=True)
class Layout:
    """`num_groups` groups compute a branch each; in a group, `degree` ranks share the tokens of a pass."""

    num_groups: int
    degree: int


def layout(size: int, num_branches: int) -> Layout:
    """A group for each branch where the ranks divide so; else one group, which computes the branches in turn."""
    num_groups = num_branches if size % num_branches == 0 else 1
    return Layout(num_groups, size // num_groups)


class Member(LocalBackend):
    """What every rank does of a clip: the steps, in lockstep."""

    def __init__(self, components: Components, preset: Preset, ranks: Ranks, *, fingerprint: str = "") -> None:
        super().__init__(components, preset, fingerprint=fingerprint)
        self._ranks = ranks
        self._layout = Layout(1, 1)
        self._out_of_step = False  # a pass broke off while its tokens were shared: an exchange is left open
        self._branch_groups: dict[Layout, dist.ProcessGroup] = {}
        self._sharing: dict[Layout, Sharing | None] = {}

    @classmethod
    def load(cls, preset: Preset, ranks: Ranks, *, threads: int | None, **rest: object) -> Self:
        """This rank's member, once every rank has one. Raises what went wrong on any of them."""
        member: Self | None = None
        error: BaseException | None = None
        try:
            member = cls(load_components(preset, threads), preset, ranks, **rest)
        except BaseException as err:  # a Ctrl-C as well: the others wait for this rank's word
            error = err
        try:
            raise_first(ranks.do(ranks.agree, failure(ranks.rank, error)), error)
            if len(set(ranks.do(ranks.agree, member.components.note))) > 1:  # random weights are as large as fits
                raise BackendUnavailable("The ranks have loaded models of different sizes.", "Free some memory.")
        except BaseException:
            if member is not None:
                member.release()
            raise
        for num_branches in range(1, MAX_BRANCHES + 1):  # here, not in a clip: no rank may be missing
            ranks.do(member._form_groups, layout(ranks.size, num_branches))
        return member

    def _form_groups(self, wanted: Layout) -> None:
        if wanted not in self._sharing:
            mesh = self._ranks.mesh(self.components.device, wanted.num_groups)
            self._branch_groups[wanted] = mesh.get_group("guidance")
            self._sharing[wanted] = token_sharing(mesh) if wanted.degree > 1 else None

    def _arrange(self, request: ClipRequest, condition_latents: Tensor) -> None:
        """Divide the work on the clip that comes. Raises `GenerationError` where it cannot be divided."""
        wanted = layout(self._ranks.size, len(passes((request.guidance_scale,))))
        config = self.components.transformer.config
        patches = [size // patch for size, patch in zip(condition_latents.shape[2:], config.patch_size, strict=True)]
        for count, what in (
            (config.num_attention_heads, f"the model's {config.num_attention_heads} attention heads"),
            (torch.Size(patches).numel(), f"the {torch.Size(patches).numel():,} tokens of this size"),
        ):
            if count % wanted.degree:
                raise GenerationError(
                    f"{wanted.degree} {self._units[1]} cannot share {what}.", "Use another number of them, or one."
                )
        self._share(wanted)

    def _share(self, wanted: Layout) -> None:
        if wanted != self._layout:
            for expert in self._experts:
                share_tokens(expert.transformer, self._sharing.get(wanted))
            self._layout = wanted

    @property
    def _units(self) -> tuple[str, str]:
        return ("GPU", "GPUs") if self.components.device.type == "cuda" else ("process", "processes")

    def _denoiser_kind(self) -> type[Denoiser]:
        return PlainDenoiser if self._layout.degree > 1 else super()._denoiser_kind()

    def _evaluate(self, denoiser: Denoiser, model_input: Tensor, sigma: float, branches: list[int]) -> list[Tensor]:
        try:
            return self._ranks.do(self._step, denoiser, model_input, sigma, branches)
        except KeyboardInterrupt:
            self.interrupt()
            raise

    def _step(self, denoiser: Denoiser, model_input: Tensor, sigma: float, branches: list[int]) -> list[Tensor]:
        """The predictions of all `branches`, of which this rank computes its share."""
        self._begin_step()
        num_groups = self._layout.num_groups
        own = branches if num_groups == 1 else [branches[self._ranks.rank // self._layout.degree]]
        predicted: list[Tensor] = []
        error: Exception | None = None
        try:
            predicted = [branch.contiguous() for branch in super()._evaluate(denoiser, model_input, sigma, own)]
            gathered = [torch.empty_like(predicted[0]) for _ in range(num_groups)]  # here memory may still run out
        except Exception as err:
            error = err
        self._settle(error)
        if num_groups == 1:
            return predicted
        self._ranks.gather(predicted[0], gathered, self._branch_groups[self._layout])
        return gathered

    def _begin_step(self) -> None: ...

    def _settle(self, error: Exception | None) -> None:
        """Hear how all ranks fared, and raise if one failed: what is not exchanged then is waited for by none."""
        failures = self._ranks.agree(failure(self._ranks.rank, error))
        self._out_of_step |= self._layout.degree > 1 and any(failures)
        raise_first(failures, error)

    def _check_interrupt(self, *hooked: object) -> None:
        """Not within a pass whose tokens are shared: the others would wait for theirs."""
        if not hooked or self._layout.degree == 1:
            super()._check_interrupt()

    def release(self) -> None:
        """See `LocalBackend.release`."""
        self._share(Layout(1, 1))
        super().release()


class ParallelBackend(Member):
    """The leader. `followers`: the processes that were started for it, or None where it was started beside them."""

    def __init__(
        self,
        components: Components,
        preset: Preset,
        ranks: Ranks,
        *,
        fingerprint: str = "",
        followers: Followers | None = None,
    ) -> None:
        super().__init__(components, preset, ranks, fingerprint=fingerprint)
        divided = layout(ranks.size, len(passes((preset.guidance_scale,))))
        shared = [name for name, count in (("guidance", divided.num_groups), ("tokens", divided.degree)) if count > 1]
        device = f"{ranks.size} × {components.device.type}, {' and '.join(shared)} in parallel"
        self.info = replace(self.info, device=device)
        self._followers = followers
        self._tier: str | None = None  # of memory, in the try before this one at the same clip
        self._short_of_memory: int | None = None  # the other rank that was, in the clip being made
        self._closed = False

    @classmethod
    def open(cls, preset: Preset, *, threads: int | None = None) -> "ParallelBackend":
        """Load the model of `preset` on every rank; the other processes are started unless they run already."""
        if backends.started_as()[1] > 1:
            return cls.open_among(joined(), preset, threads=threads)
        check_devices(preset, preset.gpus)
        followers = Followers(preset.gpus)
        ranks: Ranks | None = None
        try:
            ranks = followers.joined()
            return cls.open_among(ranks, preset, threads=threads, followers=followers)
        except BaseException:
            if ranks is not None:
                ranks.leave()
            followers.end()
            raise

    @classmethod
    def open_among(
        cls, ranks: Ranks, preset: Preset, *, threads: int | None = None, followers: Followers | None = None
    ) -> "ParallelBackend":
        """Load the model of `preset` on all of `ranks`, the others of which wait for an order."""
        check_devices(preset, ranks.size)
        if preset.cache != "none":
            raise ConfigError(f"`cache: {preset.cache}` needs one GPU: each would skip other steps.")
        fingerprint = backends.fingerprint(preset, next(iter(preset.variants)))
        if threads is None and "OMP_NUM_THREADS" not in os.environ:
            threads = max(1, (available_cores() - 1) // ranks.size)
        try:
            ranks.do(ranks.tell, Open(preset, threads))
            backend = cls.load(preset, ranks, threads=threads, fingerprint=fingerprint, followers=followers)
        except RankLost as err:
            raise OutOfMemory(
                f"Another process ended while “{preset.name}” was loaded, as a rule for lack of memory.",
                "Close other programs, or choose a smaller preset.",
            ) from err
        log.info("%s", backend.info.device)
        return backend

    def generate(self, request: ClipRequest) -> Iterator[StepDone | Notice | ClipResult]:
        """See `Backend.generate`. Lost ranks are named as lack of memory, the usual cause; opening anew mends both."""
        self._tier = None
        try:
            yield from super().generate(request)
        except RankLost as err:
            raise OutOfMemory(
                f"Clip {request.index + 1} stopped: the {self._units[1]} have lost one another, as a rule for lack of "
                "memory.",
                "Finished clips are safe. Close other programs or choose a smaller size, then resume.",
            ) from err
        except OutOfMemory as err:
            if self._short_of_memory is None:
                raise
            where = f"{self._units[0]} {self._short_of_memory + 1} of {self._ranks.size}"
            message = f"Clip {request.index + 1} needs more memory than is free on {where}."
            raise OutOfMemory(message, err.hint) from None

    def _generate(self, request: ClipRequest) -> Iterator[StepDone | Notice | ClipResult]:
        if self._out_of_step:
            raise RankLost("a pass was broken off")
        placement = self.components.placement
        tier = placement.tier if placement is not None else ""
        self._ranks.do(self._ranks.tell, Clip(request, lower=self._tier not in (None, tier)))
        self._tier, self._short_of_memory = tier, None
        try:
            yield from super()._generate(request)
        except OutOfMemoryOn as err:
            self._short_of_memory = err.rank
            raise
        finally:
            self._ranks.do(self._end_clip)

    def _prepare(self, request: ClipRequest, variant: Variant, seconds: Counter[str]) -> Conditioning:
        conditioning = super()._prepare(request, variant, seconds)
        self._ranks.do(self._ranks.tell, on(conditioning, torch.device("cpu")))
        self._arrange(request, conditioning.condition_latents)
        return conditioning

    def _begin_step(self) -> None:
        self._check_interrupt()
        self._ranks.tell(Word.STEP)

    def _end_clip(self) -> None:
        if not self._ranks.lost:
            with suppress(RankLost):
                self._ranks.tell(Word.STOP)

    def close(self) -> None:
        """See `Backend.close`. The processes that were started for this backend end."""
        if not self._closed:
            self._closed = True
            self._ranks.do(self._dismiss)
            if self._out_of_step:
                self._ranks.abandon()
        super().close()
        if self._followers is not None:
            self._ranks.leave()
            self._followers.end()
            self._followers = None

    def _dismiss(self) -> None:
        with suppress(RankLost):
            self._ranks.tell(Word.CLOSE)
            if self._followers is not None:
                self._ranks.tell(Exit(0))


def lead(work: Callable[[], int]) -> int:
    """The exit code of `work`, done by this rank while the others follow; theirs is the same."""
    ranks, code = joined(), 1
    try:
        code = work()
    except SystemExit as err:
        code = err.code if isinstance(err.code, int) else 1
        raise
    finally:
        with suppress(RankLost):
            ranks.do(ranks.tell, Exit(code))
        ranks.leave()
    return code


def check_devices(preset: Preset, count: int) -> None:
    """Raise `BackendUnavailable` when `preset` is for GPUs and there are fewer than `count`."""
    found = torch.cuda.device_count()
    if device_of(preset).type == "cuda" and found < count:
        raise BackendUnavailable(
            f"“{preset.name}” is to run on {count} GPUs, and this computer has {found}.", f"Set `gpus: {found}`."
        )


def on(conditioning: Conditioning, device: torch.device) -> Conditioning:
    """`conditioning` with its tensors on `device`."""
    tensors = {field.name: getattr(conditioning, field.name) for field in fields(conditioning)}
    return Conditioning(**{name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()})


def failure(rank: int, error: BaseException | None) -> Failure | None:
    """What the other ranks are told of `error`."""
    if error is None:
        return None
    text = "".join(traceback.format_exception(error))
    return Failure(rank, text, is_out_of_memory(error), error if isinstance(error, StudioError) else None)


def raise_first(failures: list[Failure | None], own: BaseException | None) -> None:
    """Raise for the ranks that failed, if any did: lack of memory first, which may be the cause of the rest."""
    failed = [told for told in failures if told is not None]
    short = next((told.rank for told in failed if told.out_of_memory), None)
    if short is not None and not (own is not None and is_out_of_memory(own)):
        raise OutOfMemoryOn(short)
    if own is not None:
        raise own
    if failed:
        raise failed[0].error or RuntimeError(f"rank {failed[0].rank} failed:\n{failed[0].text}")

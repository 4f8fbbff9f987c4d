"""The recycling loop around the pure functions: draws errors from two banks, injects them, keeps the new ones."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.flow import sigma_schedule
from engine.errors import TrainingError
from engine.training.error_bank import BankSettings, ErrorBank, check_budget
from engine.training.footprint import LatentShape
from engine.training.plan import BANK_SHARE, Machine, fitting_bank
from engine.training.recipe import BankRecipe, Recycling
from engine.training.recycling import (
    MASK_CHANNELS,
    Errors,
    Flags,
    Injected,
    draw_flags,
    inject,
    modulate,
    residual_errors,
    window,
)

log = logging.getLogger(__name__)
Deviate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Gather = Callable[[Tensor], Tensor]  # the tensors of all ranks, one after another along dimension 0


@dataclass(frozen=True)
class BankPair:
    """The paper's B_vid and B_noi for latents of one shape."""

    latent_errors: ErrorBank
    noise_errors: ErrorBank


class Recycler:
    """Error recycling for one rank. Banks are made when latents of a new shape are first seen.

    deviate: clean latents, condition (B, C, f, h, w) and errors (B, C, k, h, w) of the frames that were handed over, to
    both as they are after such a first frame (`clips.deviated`). Where latents say how frames are made of the first
    one, its errors change what the condition says and which fields lead to the true film. None: latents are pixels in
    another form; errors are added to the condition and the clip to aim at stays, as in the paper.
    """

    def __init__(
        self,
        settings: Recycling,
        *,
        shift: float,
        seed: int,
        folder: Path | None = None,
        num_ranks: int = 1,
        deviate: Deviate | None = None,
    ) -> None:
        self.settings, self.deviate = settings, deviate
        self.folder, self.num_ranks = folder, num_ranks
        self.grid = torch.tensor(sigma_schedule(settings.bank.num_grids, shift)[:-1], dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(seed)
        self.banks: dict[tuple[int, ...], BankPair] = {}

    def inject(self, latents: Tensor, noise: Tensor, condition: Tensor, sigma: Tensor) -> tuple[Injected, Flags]:
        """The example with the errors that the dice ask for, and which they were (Eq. 3 and 5)."""
        flags = draw_flags(len(latents), self.settings.chances, self.generator)
        banks, levels = self._banks(latents), sigma.flatten()
        drawn = {
            "latent_errors": (banks.latent_errors.draw(levels, self.generator), flags.latents),
            "noise_errors": (banks.noise_errors.draw(levels, self.generator), flags.noise),
            "image_errors": (self._image_errors(banks.latent_errors, levels), flags.image),
        }
        errors = {
            name: modulate(drawn_errors, self.settings.modulate, self.generator).to(latents)
            * chosen.view(-1, 1, 1, 1, 1).to(latents)
            for name, (drawn_errors, chosen) in drawn.items()
        }
        if self.deviate:
            mask, told = condition.split([MASK_CHANNELS, condition.shape[1] - MASK_CHANNELS], dim=1)
            latents, told = self.deviate(latents, told, errors.pop("image_errors"))
            condition = torch.cat([mask, told], dim=1)
        return inject(latents, noise, condition, sigma, **errors), flags

    def errors_of(self, injected: Injected, predicted: Tensor, sigma: Tensor) -> Errors:
        """What the prediction got wrong (Eq. 4), against the reference that the recipe names."""
        clean = injected.latents if self.settings.reference == "clean" else None
        return residual_errors(injected.noisy_latents, predicted, injected.velocity, sigma, clean_latents=clean)

    def keep(self, errors: Errors, sigma: Tensor, flags: Flags, step: int, gather: Gather) -> None:
        """Store the errors of this rank; during the warm-up, those of every rank. Clean steps are kept seldom."""
        lucky = torch.rand(len(flags.clean), generator=self.generator) < self.settings.clean_update
        kept = ~flags.clean | lucky
        if self.settings.keep == "clean condition":
            kept = ~flags.image
        finite = torch.isfinite(errors.latents).flatten(1).all(1) & torch.isfinite(errors.noise).flatten(1).all(1)
        kept = kept.to(sigma.device) & finite
        parts = (errors.latents, errors.noise, sigma.flatten(), kept)
        if step < self.settings.warmup_steps:
            parts = tuple(gather(part) for part in parts)
        latent_errors, noise_errors, levels, kept = parts
        banks = self._banks(errors.latents)
        banks.latent_errors.add(latent_errors[kept], levels[kept], self.generator)
        banks.noise_errors.add(noise_errors[kept], levels[kept], self.generator)

    @property
    def fill(self) -> float:
        """Share of the places of the latent banks that are taken."""
        banks = [pair.latent_errors for pair in self.banks.values()]
        return sum(bank.fill for bank in banks) / len(banks) if banks else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.get_state(),
            "banks": [[p.latent_errors.state_dict(), p.noise_errors.state_dict()] for p in self.banks.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        for latent_errors, noise_errors in state["banks"]:
            pair = self._pair(tuple(latent_errors["shape"]), latent_errors)
            pair.latent_errors.load_state_dict(latent_errors)
            pair.noise_errors.load_state_dict(noise_errors)

    def _image_errors(self, bank: ErrorBank, levels: Tensor) -> Tensor:
        """Errors (B, C, k, h, w) of the k latent frames that the condition begins with (Eq. 5, Unif_T).

        The sum of one to `image_draws` errors: what so many clips in a row add up to.
        """
        counts = torch.randint(1, self.settings.image_draws + 1, (len(levels),), generator=self.generator)
        total = self._image_draw(bank, levels)
        for drawn in range(1, self.settings.image_draws):
            more = counts > drawn
            if more.any():
                total[more] += self._image_draw(bank, levels[more])
        return total

    def _image_draw(self, bank: ErrorBank, levels: Tensor) -> Tensor:
        match self.settings.image_from:
            case "all":
                errors = bank.draw_any(len(levels), self.generator)
            case "nearest":
                errors = bank.draw(levels, self.generator)
            case "noise":
                errors = bank.draw(torch.ones(len(levels)), self.generator)
        length = min(self.settings.image_frames, errors.shape[2])
        last = errors.shape[2] - length
        start = torch.full((len(levels),), last)
        if self.settings.image_window == "any":
            start = torch.randint(last + 1, (len(levels),), generator=self.generator)
        return window(errors, length, start)

    def _banks(self, latents: Tensor) -> BankPair:
        return self._pair(tuple(latents.shape[1:]))

    def _pair(self, shape: tuple[int, ...], saved: dict[str, Any] | None = None) -> BankPair:
        """The banks for latents of `shape`, made if need be, as a saved one when it was fitted."""
        if shape in self.banks:
            return self.banks[shape]
        recipe, folder = self.settings.bank, self._folder(shape)
        settings = BankSettings(
            recipe.num_grids,
            recipe.capacity,
            recipe.storage,
            recipe.replacement,
            recipe.pooling,
            folder if recipe.on_disk else None,
        )
        if recipe.fit and saved:
            kept = {name: saved[name] for name in ("capacity", "storage", "pooling")}
            settings = replace(settings, **kept, folder=folder if saved["on_disk"] else None)
        elif recipe.fit:
            settings = self._fitted(settings, shape, folder)
        names = ("latent_errors", "noise_errors")
        pair = BankPair(*(ErrorBank(self.grid, shape, settings, name=name) for name in names))
        if not recipe.fit:
            check_budget((pair.latent_errors, pair.noise_errors), budget_bytes(recipe, self.num_ranks, self.folder))
        self.banks[shape] = pair
        return pair

    def _fitted(self, wanted: BankSettings, shape: tuple[int, ...], folder: Path) -> BankSettings:
        fitting = fitting_bank(
            LatentShape(*shape), Machine.here(folder), num_ranks=self.num_ranks, folder=folder, wanted=wanted
        )
        log.info("%s", fitting.sentence)
        if fitting.settings is None:
            raise TrainingError(fitting.sentence, "Free memory or disk, or train at a smaller size.")
        return fitting.settings

    def _folder(self, shape: tuple[int, ...]) -> Path:
        return (self.folder or Path()) / "x".join(map(str, shape))


def budget_bytes(recipe: BankRecipe, num_ranks: int, folder: Path | None) -> int:
    """Bytes that the banks of one rank may take: as the recipe says, else half of what is free on this machine."""
    if recipe.budget_gb is not None:
        return int(recipe.budget_gb * 1e9)
    machine = Machine.here(folder or Path())
    free = machine.disk_free_bytes if recipe.on_disk else machine.host_ram_bytes
    return int(BANK_SHARE * free / num_ranks)

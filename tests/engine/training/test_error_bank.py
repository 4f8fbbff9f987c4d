import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.diffusion.flow import sigma_schedule
from engine.errors import TrainingError
from engine.training.error_bank import BankSettings, ErrorBank, check_budget

SHAPE = (2, 3, 2, 4)


def bank(capacity=4, num_grids=5, shape=SHAPE, **changes):
    grid = torch.tensor(sigma_schedule(num_grids, 5.0)[:-1])
    return ErrorBank(grid, shape, BankSettings(num_grids, capacity, **{"storage": "float32"} | changes))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def error(value, shape=SHAPE):
    return torch.full((1, *shape), float(value))


def test_a_level_goes_to_its_nearest_grid():
    b = bank(num_grids=50)
    levels = torch.linspace(0.001, 1, 997, dtype=torch.float64)
    nearest = b.nearest(levels)
    brute = torch.tensor([min(range(50), key=lambda k: abs(b.grid[k].item() - x)) for x in levels.tolist()])
    assert torch.equal(nearest, brute)


def test_every_training_timestep_has_a_grid_and_each_grid_gets_11_to_29_of_them():
    """The figures of upstream's schedule with 50 inference timesteps, shift 5."""
    b = bank(num_grids=50)
    levels = 1 - torch.arange(1000) / 1000
    counts = b.nearest(5 * levels / (1 + 4 * levels)).bincount(minlength=50)
    assert (counts.min().item(), counts.max().item()) == (11, 29)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.01, 1)), max_size=40), st.integers(1, 4))
def test_a_bank_never_holds_more_than_its_capacity_and_only_what_was_added(entries, capacity):
    b = bank(capacity)
    for value, sigma in entries:
        b.add(error(value), torch.tensor([sigma]), seeded())
    assert all(count <= capacity for count in b.counts.tolist())
    assert len(b) == sum(min(capacity, n) for n in b.added.tolist())
    if entries:
        added = {round(torch.tensor(value).item(), 5) for value, _ in entries}
        drawn = b.draw_any(30, seeded(1))
        assert {round(x, 5) for x in drawn.flatten(1)[:, 0].tolist()} <= added


def test_a_full_grid_replaces_its_most_similar_error():
    b = bank(capacity=3)
    for value in (0.0, 10.0, 20.0):
        b.add(error(value), torch.tensor([1.0]), seeded())
    b.add(error(11.0), torch.tensor([1.0]), seeded())
    kept = sorted({x.item() for x in b.draw(torch.ones(200), seeded()).flatten(1)[:, 0]})
    assert kept == [0.0, 11.0, 20.0]


def test_the_oldest_is_replaced_first_when_asked():
    b = bank(capacity=2, replacement="oldest")
    for value in (1.0, 2.0, 3.0):
        b.add(error(value), torch.tensor([1.0]), seeded())
    assert {x.item() for x in b.draw(torch.ones(100), seeded()).flatten(1)[:, 0]} == {2.0, 3.0}


def test_draws_from_one_grid_are_uniform():
    b = bank(capacity=4)
    for value in range(4):
        b.add(error(value), torch.tensor([1.0]), seeded())
    counts = b.draw(torch.ones(4000), seeded()).flatten(1)[:, 0].long().bincount(minlength=4)
    assert counts.min() > 900


def test_draws_from_all_grids_are_uniform_over_errors_not_over_grids():
    b = bank(capacity=10)
    for value in range(9):
        b.add(error(value), torch.tensor([1.0]), seeded())
    b.add(error(9), torch.tensor([0.01]), seeded())
    counts = b.draw_any(10_000, seeded()).flatten(1)[:, 0].long().bincount(minlength=10)
    assert counts.min() > 850 and counts.max() < 1150


def test_an_empty_grid_gives_zeros_and_others_their_errors():
    b = bank()
    b.add(error(7), torch.tensor([1.0]), seeded())
    drawn = b.draw(torch.tensor([1.0, 0.01]), seeded())
    assert drawn.flatten(1)[:, 0].tolist() == [7.0, 0.0]
    assert bank().draw_any(2, seeded()).abs().max() == 0


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 0.0), ("bfloat16", 2**-8), ("float8", 2**-3)])
def test_storage_keeps_what_its_precision_allows(storage, tolerance):
    b = bank(storage=storage)
    errors = 0.03 * torch.randn(1, *SHAPE, generator=seeded(3))
    b.add(errors, torch.tensor([1.0]), seeded())
    back = b.draw(torch.ones(1), seeded())
    assert ((back - errors).abs() <= tolerance * errors.abs() + tolerance * 1e-3).all()


def test_pooling_keeps_means_and_takes_a_quarter_of_the_room():
    errors = torch.randn(1, 2, 3, 5, 7, generator=seeded())  # odd sides
    pooled, whole = bank(shape=(2, 3, 5, 7), pooling=2), bank(shape=(2, 3, 5, 7))
    pooled.add(errors, torch.ones(1), seeded())
    back = pooled.draw(torch.ones(1), seeded())
    assert back.shape == errors.shape
    torch.testing.assert_close(back[..., :2, :2].mean((-2, -1)), errors[..., :2, :2].mean((-2, -1)))
    assert pooled.entry_bytes == whole.entry_bytes * (3 * 4) // (5 * 7)


def test_a_bank_on_disk_gives_what_one_in_memory_gives(tmp_path):
    memory, disk = bank(), bank(folder=tmp_path)
    for step in range(30):
        errors, sigma = torch.randn(2, *SHAPE, generator=seeded(step)), torch.rand(2, generator=seeded(step))
        memory.add(errors, sigma, seeded(step))
        disk.add(errors, sigma, seeded(step))
    assert torch.equal(memory.draw_any(20, seeded()), disk.draw_any(20, seeded()))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= disk.full_bytes


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float8"])
def test_a_saved_bank_goes_on_as_the_original(storage):
    first, second = bank(storage=storage), bank(storage=storage)
    for step in range(25):
        first.add(torch.randn(2, *SHAPE, generator=seeded(step)), torch.rand(2, generator=seeded(step)), seeded(step))
    second.load_state_dict(first.state_dict())
    for b in (first, second):
        b.add(torch.randn(3, *SHAPE, generator=seeded(99)), torch.rand(3, generator=seeded(99)), seeded(99))
    assert torch.equal(first.draw_any(40, seeded()), second.draw_any(40, seeded()))
    assert torch.equal(first.added, second.added)


def test_a_saved_bank_of_another_size_is_refused():
    with pytest.raises(TrainingError, match="capacity"):
        bank(capacity=5).load_state_dict(bank(capacity=4).state_dict())


def test_an_error_that_is_not_a_number_is_not_stored():
    b = bank()
    with pytest.raises(TrainingError, match="not a number"):
        b.add(error(math.nan), torch.ones(1), seeded())
    assert len(b) == 0


def test_a_paper_size_bank_is_105_gb_and_two_are_refused_with_what_would_fit():
    shape = (16, 21, 60, 104)
    banks = tuple(bank(500, 50, shape, storage="bfloat16") for _ in range(2))
    assert banks[0].full_bytes / 1e9 == pytest.approx(104.8, abs=0.1)
    with pytest.raises(TrainingError, match=r"209\.7 GB.*64\.0 GB.*capacity 152.*float8.*pooling 2"):
        check_budget(banks, 64_000_000_000)
    check_budget(banks, 210_000_000_000)

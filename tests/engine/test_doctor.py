"""The doctor says of every full-size preset where it would live here and what is missing."""

import os

import pytest

from engine import doctor, tiers


def install_tool(folder, monkeypatch, line):
    """Put an nvidia-smi on the path that prints `line`."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{line}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(autouse=True)
def models_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path / "models"))


def test_a_gpu_is_seen_without_torch(tmp_path, monkeypatch):
    install_tool(tmp_path, monkeypatch, "NVIDIA GeForce RTX 4090, 23028, 24564, 8.9, 580.65.06")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0")
    machine = tiers.machine_seen()
    assert (machine.name, machine.kind) == ("NVIDIA GeForce RTX 4090", "cuda")
    assert (machine.free_vram, machine.total_vram) == (23028 << 20, 24564 << 20)
    assert machine.compute_capability == (8, 9) and machine.notes == ()


def test_a_gpu_that_the_installed_torch_cannot_use_is_not_counted_on(tmp_path, monkeypatch):
    install_tool(tmp_path, monkeypatch, "NVIDIA GeForce RTX 4090, 23028, 24564, 8.9, 580.65.06")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    machine = tiers.machine_seen()
    assert machine.kind == "cpu" and "install the build for CUDA" in machine.notes[0]


@pytest.mark.parametrize("line", ["", "No devices were found", "NVIDIA, [N/A], [N/A], 8.9, 1"])
def test_a_tool_that_tells_nothing_is_no_gpu(tmp_path, monkeypatch, line):
    install_tool(tmp_path, monkeypatch, line)
    assert tiers.machine_seen().kind in ("cpu", "mps")


def test_the_doctor_foresees_tier_memory_disk_and_time(tmp_path):
    card = tiers.Machine("NVIDIA GeForce RTX 4090", "cuda", free_ram=64 << 30, free_vram=23 << 30, total_vram=24 << 30)
    report = doctor.examine(tmp_path, card)
    seen = report["presets"]["svi-1"]["forecast"]
    assert seen["tier"] == "streamed" and seen["basis"] == "computed"
    line = next(line for line in doctor.lines(report) if "tier “streamed”" in line)
    assert f"{seen['vram_gb']} GB GPU memory" in line and "min a clip (computed)" in line
    assert report["presets"]["pocket"]["forecast"] is None


def test_the_doctor_says_what_is_missing_where_nothing_fits(tmp_path):
    small = tiers.Machine("this CPU", "cpu", free_ram=8 << 30)
    lines = "\n".join(doctor.lines(doctor.examine(tmp_path, small)))
    assert "GB are missing. With a GPU" in lines and "tier “streamed”" not in lines


def test_the_doctor_says_who_would_write_storylines_and_why(tmp_path, monkeypatch):
    machine = tiers.Machine("this CPU", "cpu", free_ram=64 << 30)
    lines = [line for line in doctor.lines(doctor.examine(tmp_path, machine)) if line.startswith("storylines for")]
    assert lines[0].startswith("storylines for pocket, pocket-24, pocket-frames: Templates. The embedded model knows")
    assert "python -m engine weights download qwen2.5-vl-3b" in lines[1] and len(lines) == 2
    monkeypatch.setenv("SVI_ENDPOINT_URL", "http://169.254.169.254/v1")
    lines = doctor.lines(doctor.examine(tmp_path, machine))
    assert any("none. The endpoint's host 169.254.169.254 is not on this computer" in line for line in lines)

"""`python -m engine weights …`: exit codes, one line on stderr, events as JSON."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import cli
from engine.weights.manifest import manifest

ROOT = Path(__file__).parents[3]
SHOT = "vita-video-gen/svi-model/version-1.0/svi-shot.safetensors"
KEYS = {"pipe.dit.blocks.0.self_attn.q.lora_A.default.weight": (16, 400)}


@pytest.fixture
def run(hub, models, monkeypatch, capsys, tensors):
    """Run one command against a Hub that has svi-shot; returns (exit code, stdout, stderr)."""
    from huggingface_hub import constants

    repo, _, path = SHOT.rpartition("/version")
    hub.files[repo] = {f"version{path}": tensors(KEYS)}
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("SVI_RESERVE_BYTES", "0")

    def command(*arguments):
        try:
            code = cli.main(["weights", *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def preset_file(tmp_path, lora=f"models:{SHOT}") -> Path:
    (tmp_path / "weights").mkdir(exist_ok=True)
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"stand-in")
    path = tmp_path / "mine.yaml"
    path.write_text(f"title: T\nfamily: wan\nmodel: weights\nvariants:\n  shot: {{lora: '{lora}'}}\n")
    return path


def states(output: str) -> dict[str, str]:
    return {row["id"]: row["state"] for row in json.loads(output)["weights"]}


def test_download_verify_and_list_tell_one_story(run, hub, models):
    code, out, _ = run("list", "--json")
    assert code == 0 and set(states(out).values()) == {"missing"} and len(states(out)) == len(manifest().entries)
    code, out, err = run("download", "svi-shot", "--json")
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert [e["event"] for e in events if e["event"] != "weights_progress"] == ["weights_planned", "weights_ready"]
    assert (events[-1]["file"], events[-1]["fetched"]) == (SHOT, True) and (models / SHOT).is_file()
    assert states(run("list", "--json")[1])["svi-shot"] == "ready"
    assert run("verify")[:2] == (0, f"ok          {SHOT}\n")
    code, out, _ = run("download", "svi-shot")
    assert (code, len(hub.served)) == (0, 1) and out.startswith("0 files to fetch, 0 bytes;")


def test_list_shows_state_size_use_and_licence(run):
    code, out, _ = run("list")
    lines = {line.split()[1]: line for line in out.splitlines()[:-1]}
    assert code == 0 and set(lines) == {entry.id for entry in manifest().entries}
    assert "about 90.1 GB" in lines["wan2.1-i2v-14b-480p"] and "Apache-2.0" in lines["wan2.1-i2v-14b-480p"]
    assert "739.5 MB" in lines["lightx2v-wan2.1-i2v-480p"] and "  ?  " in lines["svi-2.0-pro"]


def test_verify_exits_with_2_and_names_the_first_wrong_file(run, models):
    run("download", "svi-shot")
    file = models / SHOT
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    code, out, err = run("verify", "--json")
    assert code == 2 and json.loads(out.splitlines()[0])["result"] == "damaged"
    assert SHOT in err and "weights download svi-shot" in err and err.count("\n") == 1
    code, _, err = run("verify", "svi-film")
    assert code == 2 and "(missing)" in err


def test_verify_with_nothing_here_says_so(run):
    assert run("verify") == (0, "There are no weights in the models folder.\n", "")


def test_plan_asks_the_hub_for_sizes_and_download_follows_it(run, hub, tmp_path, models):
    preset = preset_file(tmp_path)
    size = len(hub.files["vita-video-gen/svi-model"]["version-1.0/svi-shot.safetensors"])
    code, out, _ = run("plan", "--preset", preset, "--json")
    plan = json.loads(out)
    assert code == 0 and plan["files"] == [{"file": SHOT, "entry": "svi-shot", "state": "missing", "bytes": size}]
    assert (plan["missing_files"], plan["missing_bytes"], plan["how_sure"]) == (1, size, "exactly")
    assert plan["enough_room"] and plan["free_bytes"] > size
    code, out, _ = run("plan", "--preset", preset)
    assert f"To fetch: 1 files, {size / 1000:.1f} kB." in out and f"weights download --preset {preset}" in out
    assert run("download", "--preset", preset)[0] == 0
    assert "Nothing is missing." in run("plan", "--preset", preset)[1]


def test_plan_without_a_connection_says_how_sure_its_sizes_are(run, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, _ = run("plan", "--preset", "svi-1", "--variant", "film", "--json")
    plan = json.loads(out)
    assert code == 0 and "HF_HUB_OFFLINE" in plan["source"] and hub.asked == []
    assert plan["how_sure"] == "about" and plan["missing_bytes"] == 90_104_000_000 + 2_450_000_000 + 739_472_104
    assert not any("svi-shot" in row["file"] for row in plan["files"])


def test_a_preset_with_unknown_weights_says_that_they_cannot_be_fetched(run, tmp_path):
    preset = preset_file(tmp_path, lora="models:me/mine/own.safetensors")
    code, out, _ = run("plan", "--preset", preset)
    assert code == 0 and "me/mine/own.safetensors (not in the manifest)" in out
    code, _, err = run("download", "--preset", preset)
    assert code == 2 and "does not know where to fetch me/mine/own.safetensors" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("download",), "IDs, or --preset"),
        (("download", "svi-shot", "--preset", "svi-1"), "IDs, or --preset"),
        (("download", "svi-shoot"), "Did you mean “svi-shot”"),
        (("download", "--preset", "pocket"), "needs nothing from the models folder"),
        (("plan", "--preset", "svi-1", "--variant", "opera"), "no variant “opera”"),
        (("plan",), "--preset"),
        (("import", "gone"), "nothing at gone"),
        (("import", "x", "--as", "nope"), "no weights called “nope”"),
        (("import", "x", "--copy", "--link"), "not allowed with"),
        (("verify", "nope"), "no weights called “nope”"),
        ((), "ACTION"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments, words):
    code, _, err = run(*arguments)
    assert code == 2 and words in err and err.count("\n") == 1


def test_import_links_and_tells_what_it_left_out(run, tmp_path, models, tensors):
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "svi-shot.safetensors").write_bytes(tensors(KEYS))
    (folder / "holiday.safetensors").write_bytes(tensors({"a": (2,)}))
    code, out, _ = run("import", folder)
    assert code == 0 and (models / SHOT).samefile(folder / "svi-shot.safetensors")
    assert "hard link" in out and "left out" in out and "1 tensors of an unknown kind" in out
    assert states(run("list", "--json")[1])["svi-shot"] == "ready"
    (folder / "svi-shot.safetensors").unlink()
    code, _, err = run("import", folder)
    assert code == 2 and "Nothing at downloads was taken over" in err


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_keeps_what_has_arrived_and_says_so(run, hub, models):
    hub.stalls = [True]
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "SVI_MODELS_DIR": str(models)}
    command = [sys.executable, "-m", "engine", "weights", "download", "svi-shot"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    half = len(hub.files["vita-video-gen/svi-model"]["version-1.0/svi-shot.safetensors"]) // 2
    while sum(request.sent for request in hub.served) < half and time.monotonic() < deadline:
        hub.released.wait(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "the same command goes on from there" in err
    [part] = (models / SHOT).parent.iterdir()
    assert part.suffix == ".part" and part.stat().st_size <= half

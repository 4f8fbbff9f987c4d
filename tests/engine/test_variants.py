"""The rows of the family and the presets against the published table, and what a preset may not mix.

Rows and numbers are written out again from upstream's scripts. Drafts and their finalizing run the command line on
files that only the fingerprint reads.
"""

import json
from dataclasses import dataclass

import pytest
import yaml

from engine import backends, cli, film, storyboard
from engine.config import PRESETS, load_preset, preset_names
from engine.domain import SEED_STRIDE
from engine.errors import ConfigError, WeightsMismatch
from engine.models import components
from engine.project.store import Store
from engine.timeline import Timeline
from engine.variants import METHODS
from tests.engine.models.tiny import PRESET, TWO_EXPERTS, write_tiny_wan, write_tiny_wan22
from tests.engine.published.films import write_transformer
from tests.fakes import ScriptedBackend

WAN21, WAN22 = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"


@dataclass(frozen=True)
class Published:
    """A column of the published table. loras: of the one expert, or of the high- and the low-noise one."""

    base: str
    motion_frames: int
    padding: str
    overlap: int
    total: int
    prompts: str
    loras: tuple[str, ...]
    each_prompt: int = 1
    latents: int = 0
    boundary: float | None = None


V1, V2 = "version-1.0/svi", "version-2.0/SVI_Wan2."
TABLE = {
    "svi-shot": Published("wan2.1", 1, "anchor", 1, 801, "one", (f"{V1}-shot",)),
    "svi-film": Published("wan2.1", 5, "zeros", 5, 765, "stream", (f"{V1}-film-opt-10212025",)),
    "svi-tom": Published("wan2.1", 1, "zeros", 1, 801, "stream", (f"{V1}-tom",)),
    "svi-2.0": Published("wan2.1", 5, "anchor", 5, 765, "stream", (f"{V2}1-I2V-14B_lora_v2.0",), each_prompt=2),
    "svi-2.0-wan2.2": Published(
        *("wan2.2", 1, "anchor", 1, 801, "stream"),
        (f"{V2}2-I2V-A14B_high_noise_lora_v2.0", f"{V2}2-I2V-A14B_low_noise_lora_v2.0"),
        boundary=0.875,
    ),
    "svi-2.0-pro": Published(
        *("wan2.2", 5, "zeros", 5, 765, "stream"),
        (f"{V2}2-I2V-A14B_high_noise_lora_v2.0_pro", f"{V2}2-I2V-A14B_low_noise_lora_v2.0_pro"),
        latents=1,
        boundary=0.875,
    ),
}
SHIPPED = {
    "svi-1": {"shot": "svi-shot", "film": "svi-film"},
    "svi-1-approximate": {"shot": "svi-shot", "film": "svi-film"},
    "svi-1-tom": {"film": "svi-tom"},
    "svi-1-transitions": {"film": "svi-film"},
    "svi-2": {"film": "svi-2.0"},
    "svi-2-wan22": {"film": "svi-2.0-wan2.2"},
    "svi-2-pro": {"film": "svi-2.0-pro"},
}
ENTRIES = [(name, variant, method) for name, methods in SHIPPED.items() for variant, method in methods.items()]


# rows and shipped presets


def test_the_family_has_the_published_members_and_no_other():
    assert METHODS.keys() == TABLE.keys()
    assert {name for name in preset_names() if name.startswith("svi-")} == SHIPPED.keys()


@pytest.mark.parametrize("method", TABLE)
def test_a_row_has_the_published_values(method):
    row, published = METHODS[method], TABLE[method]
    assert (row.base, row.boundary, row.shift) == (published.base, published.boundary, 5.0)
    assert (row.num_motion_frames, row.num_motion_latents) == (published.motion_frames, published.latents)
    assert (row.padding, row.prompt_policy, row.guidance_terms) == (published.padding, published.prompts, ("text",))
    assert row.clips_per_prompt == published.each_prompt
    assert SEED_STRIDE == 42


@pytest.mark.parametrize("method", TABLE)
def test_ten_clips_of_81_frames_have_upstreams_length_and_every_frame_once(method):
    """801 frames with one motion frame, 765 with five; Pro's are the anchor and four that repeat the latents."""
    timeline = Timeline(81, METHODS[method].num_motion_frames, 16)
    assert timeline.total(10) == TABLE[method].total
    assert [timeline.overlap(index) for index in range(3)] == [0, TABLE[method].overlap, TABLE[method].overlap]
    frames = [frame for index in range(10) for frame in range(*timeline.segment(index))]
    assert frames == list(range(TABLE[method].total))


@pytest.mark.parametrize(
    ("name", "variant", "method"), ENTRIES, ids=[f"{name} {variant}" for name, variant, _ in ENTRIES]
)
def test_a_shipped_preset_samples_as_published_with_the_published_weights(name, variant, method):
    preset, published = load_preset(name), TABLE[method]
    assert preset.variants.keys() == SHIPPED[name].keys()
    assert preset.variant(variant) is METHODS[method]
    assert preset.base == published.base
    assert preset.model == f"models:{WAN22 if published.base == 'wan2.2' else WAN21}"
    assert (preset.num_frames, preset.num_inference_steps, preset.guidance_scale, preset.shift) == (81, 50, 5.0, 5.0)
    assert preset.max_sequence_length == 512
    entry = preset.variants[variant]
    assert entry.lora_strength == 1.0 and not entry.extra_loras
    loras = (f"{V1}-film-transitions",) if name == "svi-1-transitions" else published.loras
    folder = "models:vita-video-gen/svi-model"
    assert [entry.lora, entry.low_noise_lora][: len(loras)] == [f"{folder}/{lora}.safetensors" for lora in loras]
    assert bool(entry.low_noise_lora) == (len(loras) == 2)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_negative_prompt_is_wans_list_in_english_for_2_1_and_in_chinese_for_2_2(name):
    preset = load_preset(name)
    chinese = preset.base == "wan2.2"
    terms = preset.negative_prompt.split("，" if chinese else ", ")
    assert len(terms) == 28
    ends = ("色调艳丽", "倒着走") if chinese else ("bright tones", "walking backwards")
    assert (terms[0], terms[-1]) == ends


@pytest.mark.parametrize("name", sorted(SHIPPED.keys() - {"svi-1-approximate"}))
def test_a_shipped_draft_keeps_steps_shift_and_guidance_of_its_distilled_loras_together(name):
    draft = load_preset(name).draft
    together = (draft.num_inference_steps, draft.shift, draft.guidance_scale)
    (lora,) = draft.loras
    if load_preset(name).base == "wan2.1":
        assert together == (4, 5.0, 1.0)
        assert (lora.strength, lora.low_noise_lora) == (1.0, None)
    else:
        assert together == (6, 8.0, 1.5)
        assert (lora.strength, lora.low_noise_strength) == (0.5, 1.0)
        assert "high_noise" in lora.lora and "low_noise" in lora.low_noise_lora


def test_only_the_preset_that_says_so_in_its_name_is_approximate():
    presets = {name: load_preset(name) for name in preset_names()}
    assert {name for name, preset in presets.items() if preset.lossy or preset.shortcuts()} == {"svi-1-approximate"}
    assert presets["svi-1-approximate"].draft is None  # its cache's figures are those of 40 steps and more


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(("width", "height"), [(1204, 2150), (3000, 800), (571, 1024), (832, 480)])
def test_a_tall_picture_never_makes_a_tall_film(name, width, height):
    """Upstream caps the width only: 1204×2150 becomes 832×1472, far from what the model was trained on."""
    size = load_preset(name).resolution_for(width, height)
    assert (size.width, size.height) in [(832, 480), (480, 832), (624, 624)]
    assert (size.width < size.height) == (width < height)


# what does not belong together


def variants(entry: str) -> str:
    return f"variants: {{{entry}}}\n"


MIXED = {
    "a method of another base": (
        variants("film: {method: svi-2.0-pro}"),
        r"“svi-2\.0-pro” was trained on wan2\.2, and this preset's base is wan2\.1",
    ),
    "1.0 on Wan 2.2": ("base: wan2.2\n" + variants("film: {}"), r"“svi-film” was trained on wan2\.1.*base is wan2\.2"),
    "no method on Wan 2.2": ("base: wan2.2\n", r"“svi-shot” was trained on wan2\.1"),
    "another method's LoRA": (
        variants("film: {lora: loras/svi-shot.safetensors}"),
        r"svi-shot\.safetensors is the LoRA of “svi-shot” \(wan2\.1, 1 motion frames\); this entry is “svi-film”",
    ),
    "a LoRA without its method": (
        variants("film: {lora: SVI_Wan2.1-I2V-14B_lora_v2.0.safetensors}"),
        "is the LoRA of “svi-2.0”",
    ),
    "another base's LoRA": (
        variants("shot: {lora: SVI_v2_Wan2.2-I2V-A14B_HIGH_lora_rank_128_fp16.safetensors}"),
        r"is the LoRA of “svi-2\.0-wan2\.2” \(wan2\.2",
    ),
    "2.0's LoRAs in Pro": (
        "base: wan2.2\n"
        + variants(
            "film: {method: svi-2.0-pro, lora: SVI_Wan2.2-I2V-A14B_high_noise_lora_v2.0.safetensors, "
            "low_noise_lora: SVI_Wan2.2-I2V-A14B_low_noise_lora_v2.0.safetensors}"
        ),
        "is the LoRA of “svi-2.0-wan2.2”.*this entry is “svi-2.0-pro”",
    ),
    "swapped experts": (
        "base: wan2.2\n"
        + variants(
            "film: {method: svi-2.0-pro, lora: SVI_Wan2.2-I2V-A14B_low_noise_lora_v2.0_pro.safetensors, "
            "low_noise_lora: SVI_Wan2.2-I2V-A14B_high_noise_lora_v2.0_pro.safetensors}"
        ),
        "is for the low-noise expert: the two LoRAs are swapped",
    ),
    "one LoRA of two": (
        "base: wan2.2\n" + variants("film: {method: svi-2.0-wan2.2, lora: mine.safetensors}"),
        "two experts: give both `lora` and `low_noise_lora`",
    ),
    "the other LoRA of two": (
        "base: wan2.2\n" + variants("film: {method: svi-2.0-wan2.2, low_noise_lora: mine.safetensors}"),
        "two experts: give both `lora` and `low_noise_lora`",
    ),
    "two LoRAs for one expert": (
        variants("film: {lora: a.safetensors, low_noise_lora: b.safetensors}"),
        "“svi-film” has one expert: there is no place for `low_noise_lora`",
    ),
    "a film's method for a shot": (variants("shot: {method: svi-film}"), "“svi-film” makes a film, not a shot"),
    "diffusers' shift": ("shift: 3.0\n", "trained with shift 5; got 3"),
    "a draft's shift for films": ("shift: 8.0\n", "trained with shift 5; got 8"),
    "an unknown method": (variants("film: {method: svi-2.0-prp}"), "unknown method “svi-2.0-prp”.*“svi-2.0-pro”"),
    "own motion frames": (variants("film: {num_motion_frames: 4}"), "Unknown key “variants.film.num_motion_frames”"),
    "motion frames of a preset": ("num_motion_frames: 4\n", "Unknown key “num_motion_frames”"),
    "own padding": (variants("film: {padding: anchor}"), "Unknown key “variants.film.padding”"),
    "own boundary": ("boundary: 0.9\n", "Unknown key “boundary”"),
    "a clip no longer than its motion frames": ("num_frames: 5\n", "“num_frames”.*greater than or equal to 9"),
    "a clip between two latent frames": ("num_frames: 80\n", "must be 4n.1"),
    "a draft without its LoRAs": ("draft: {num_inference_steps: 4, shift: 8.0}\n", "“draft.loras”.*Field required"),
}


@pytest.mark.parametrize(("text", "reason"), MIXED.values(), ids=MIXED)
def test_a_preset_that_mixes_what_does_not_belong_together_is_refused_with_the_reason(tmp_path, text, reason):
    (tmp_path / "mixed.yaml").write_text(f"title: Mixed\nfamily: wan\nmodel: m\n{text}")
    with pytest.raises(ConfigError, match=reason):
        load_preset(str(tmp_path / "mixed.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_preset_is_refused_with_any_other_methods_lora(tmp_path, name):
    original = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    for variant, method in SHIPPED[name].items():
        for other in TABLE.keys() - {method}:
            changed = json.loads(json.dumps(original))
            changed["variants"][variant]["lora"] = f"{TABLE[other].loras[0]}.safetensors"
            (tmp_path / "other.yaml").write_text(yaml.safe_dump(changed))
            with pytest.raises(ConfigError, match="is the LoRA of"):
                load_preset(str(tmp_path / "other.yaml"))


@pytest.mark.parametrize(("channels", "found"), [(48, "Wan 2.2 TI2V 5B"), (16, "a text-to-video model")])
@pytest.mark.parametrize("base", ["wan2.1", "wan2.2"])
def test_weights_of_a_base_that_svi_was_not_trained_on_are_named(tmp_path, base, channels, found):
    preset = write_tiny_wan(tmp_path, preset=TWO_EXPERTS if base == "wan2.2" else PRESET)
    write_transformer(tmp_path / "model" / "transformer", channels=channels)
    with pytest.raises(WeightsMismatch, match=f"made for {base}, and .* holds {found}"):
        components.load(preset)


def test_weights_of_the_other_published_base_are_named(tmp_path):
    two = write_tiny_wan22(tmp_path / "2.2")
    (tmp_path / "2.2" / "tiny.yaml").write_text(PRESET)
    with pytest.raises(WeightsMismatch, match=r"made for wan2\.1, and .* holds wan2\.2"):
        components.load(load_preset(str(tmp_path / "2.2" / "tiny.yaml")))
    with pytest.raises(WeightsMismatch, match=r"made for wan2\.2, and .* holds wan2\.1"):
        components.load(write_tiny_wan(tmp_path / "2.1", preset=TWO_EXPERTS))
    one = write_tiny_wan(tmp_path / "one", takes_picture=False, preset=TWO_EXPERTS)
    with pytest.raises(WeightsMismatch, match=r"holds one expert of Wan 2\.2, without transformer_2/"):
        components.load(one)
    assert components.load(two).low_noise_transformer is not None


# drafts

DRAFTING = """\
title: Drafting
family: wan
model: model
num_frames: 9
fps: 8
resolutions: [[64, 48]]
num_inference_steps: 3
guidance_scale: 5.0
variants: {film: {lora: film.safetensors}}
"""
DRAFT = """\
draft: {num_inference_steps: 1, guidance_scale: 1.0, shift: 8.0, loras: [{lora: distilled.safetensors}]}
"""
PROMPTS = ["night falls", "fog rolls in", "the sun rises", "rain"]


@pytest.fixture
def run(tmp_path, picture, monkeypatch):
    """Runs one command with a scripted backend; returns the exit code. `run.requests` are those of the last one."""
    (tmp_path / "model").mkdir()
    for name in ("model/model.safetensors", "film.safetensors", "distilled.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "drafting.yaml").write_text(DRAFTING + DRAFT)
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    monkeypatch.setenv("SVI_RESERVE_BYTES", "0")

    def command(name: str, *flags: str, project: str = "film") -> int:
        seen = {}
        scripted = ScriptedBackend(before_step=lambda request, step: seen.setdefault(request.digest, request))
        monkeypatch.setattr(backends, "open_backend", lambda preset, **_: scripted)
        words = [name, "--preset", tmp_path / "drafting.yaml", "--project", tmp_path / project, "--json", *flags]
        if name == "generate":
            words += ["--image", picture, "--prompts", tmp_path / "prompts.json"]
        code = cli.main([str(word) for word in words])
        command.requests = list(seen.values())
        return code

    return command


@pytest.fixture
def shown(tmp_path):
    """What the film in a project shows: (digest, whether it is a draft, prompt, seed) of every clip."""

    def read(project: str = "film") -> list[tuple[str, bool, str, int]]:
        preset = load_preset(str(tmp_path / "drafting.yaml"))
        planned = film.plan(Store.open(tmp_path / project), preset)
        assert planned.next is None
        return [(clip.digest, clip.take.draft, clip.take.prompt, clip.take.seed) for clip in planned.clips]

    return read


def test_a_draft_is_sampled_as_the_preset_says_and_is_another_take_than_a_film(run, shown):
    assert run("generate", "--draft") == 0
    assert {(r.draft, r.num_inference_steps, r.guidance_scale, r.shift) for r in run.requests} == {(True, 1, 1.0, 8.0)}
    run("generate", project="whole")
    assert {(r.draft, r.num_inference_steps, r.guidance_scale, r.shift) for r in run.requests} == {(False, 3, 5.0, 5.0)}
    drafts, whole = shown(), shown("whole")
    assert all(draft[0] != full[0] for draft, full in zip(drafts, whole, strict=True))
    assert [draft[2:] for draft in drafts] == [full[2:] for full in whole]


def test_finalizing_a_clip_keeps_the_ones_before_and_drafts_the_later_ones_again(run, shown):
    run("generate", "--draft")
    before = shown()
    assert run("finalize", "--clips", "2") == 0
    after = shown()
    assert [new == old for new, old in zip(after, before, strict=True)] == [True, False, False, False]
    assert [draft for _, draft, _, _ in after] == [True, False, True, True]
    assert [clip[2:] for clip in after] == list(zip(PROMPTS, (0, 42, 84, 126), strict=True))
    assert [(r.index, r.num_inference_steps, r.shift) for r in run.requests] == [(1, 3, 5.0), (2, 1, 8.0), (3, 1, 8.0)]
    assert [r.parent_digest for r in run.requests] == [before[0][0], after[1][0], after[2][0]]


def test_finalizing_only_one_clip_pins_the_later_ones(run, shown):
    run("generate", "--draft")
    before = shown()
    assert run("finalize", "--clips", "2", "--only") == 0
    assert [new == old for new, old in zip(shown(), before, strict=True)] == [True, False, True, True]
    assert [r.index for r in run.requests] == [1]


def test_a_finalized_film_is_the_one_that_full_quality_makes_at_once(run, shown):
    run("generate", "--draft")
    run("finalize", "--clips", "2", "--only")
    assert run("finalize") == 0
    run("generate", project="whole")
    assert shown() == shown("whole")


def test_finalizing_again_makes_nothing(run):
    run("generate", "--draft")
    run("finalize")
    assert run("finalize") == 0
    assert run.requests == []


def test_another_distilled_lora_makes_drafts_stale_and_nothing_else(run, shown, tmp_path):
    run("generate", "--draft")
    run("finalize", "--clips", "1")
    before = shown()
    (tmp_path / "distilled.safetensors").write_bytes(b"another")
    run("generate", "--draft")
    assert [new == old for new, old in zip(shown(), before, strict=True)] == [True, False, False, False]


def test_a_preset_without_draft_quality_refuses_to_draft(run, tmp_path, capsys):
    (tmp_path / "drafting.yaml").write_text(DRAFTING)
    assert run("generate", "--draft") == 2
    assert "The preset “drafting” has no draft quality." in capsys.readouterr().err
    assert not (tmp_path / "film").exists()


def test_drafts_whose_preset_lost_its_draft_quality_can_still_be_finalized(run, shown, tmp_path, capsys):
    run("generate", "--draft")
    (tmp_path / "drafting.yaml").write_text(DRAFTING)
    assert run("generate") == 2
    assert "Set the clips to full quality" in capsys.readouterr().err
    assert run("finalize") == 0
    assert [draft for _, draft, _, _ in shown()] == [False] * 4


def test_svi_2_0_uses_each_prompt_twice_as_its_script_does():
    assert storyboard.spread(["a", "b"], 5, METHODS["svi-2.0"]) == ["a", "a", "b", "b", "a"]
    assert storyboard.spread(["a", "b"], 3, METHODS["svi-film"]) == ["a", "b", "a"]
    assert storyboard.spread(["a", "b"], 3, METHODS["svi-shot"]) == ["a", "a", "a"]


def test_a_new_film_of_svi_2_0_has_two_clips_a_prompt_and_can_be_continued(tmp_path, picture):
    write_tiny_wan(tmp_path, preset=PRESET + "variants: {film: {method: svi-2.0}}\n")
    (tmp_path / "story.txt").write_text("night falls\nfog rolls in\n")
    words = ["generate", "--preset", str(tmp_path / "tiny.yaml"), "--prompts", str(tmp_path / "story.txt")]
    words += ["--project", str(tmp_path / "film")]
    assert cli.main([*words, "--image", str(picture)]) == 0
    prompts = [clip.prompt for clip in Store(tmp_path / "film").load().clips]
    assert prompts == ["night falls", "night falls", "fog rolls in", "fog rolls in"]
    assert cli.main(words) == 0


def test_shot_is_not_told_the_way_back_where_clips_are_composed():
    """Nothing is lost there that it could lead back to; where frames are handed over it leads back to the picture."""
    composed, frames = load_preset("pocket").variant("shot"), load_preset("pocket-frames").variant("shot")
    assert (composed.padding, frames.padding) == ("zeros", "anchor")
    assert composed.num_motion_frames == frames.num_motion_frames == 1

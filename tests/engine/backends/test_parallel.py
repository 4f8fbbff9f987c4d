"""Two processes over gloo. Most tests share one pair: a leader in this process, a follower that fails on demand."""

import _thread
import dataclasses
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from datetime import timedelta

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import AttentionBackendName

from engine import cli, faults
from engine.backends.base import Interrupted, Notice
from engine.backends.local import LocalBackend
from engine.backends.parallel import Exit, Layout, ParallelBackend, check_devices, layout
from engine.backends.ranks import Ranks
from engine.config import ROOT, VariantPreset
from engine.domain import Resolution
from engine.errors import BackendUnavailable, GenerationError, OutOfMemory, WeightsMismatch
from engine.models.untrained import WanSize, build
from tests.engine.backends.contract import BackendContract, frames_of
from tests.engine.backends.test_local import lora_file
from tests.engine.models.tiny import PRO, write_tiny_wan, write_tiny_wan22

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
FOLLOWER = """
    import json, sys
    from dataclasses import asdict
    import torch.distributed as dist
    from engine.backends.follow import Follower, follow
    from engine.backends.ranks import Ranks
    from engine.errors import WeightsMismatch

    class Scripted(Follower):
        '''Fails where the prompt says so, and reports after each clip what it has done in all.'''

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for expert in self._experts:
                expert.transformer.blocks[1].register_forward_pre_hook(self.fail_in_a_pass)
                expert.transformer.blocks[1].norm1.register_forward_pre_hook(self.fail_in_a_pass)

        def _follow(self, clip):
            self.prompt = clip.request.prompt
            super()._follow(clip)
            with open(sys.argv[2], "a") as report:
                done = asdict(self.counters) | {"tier": self.components.placement.tier}
                report.write(json.dumps([clip.request.clip_id, done]) + "\\n")

        def _prepare(self, *args):
            if self.prompt == "no memory for the text":
                raise MemoryError
            if self.prompt == "a wrong file":
                raise WeightsMismatch("The LoRA does not fit.", "Choose another.")
            return super()._prepare(*args)

        def fail_in_a_pass(self, *_):
            whole = self.components.placement.tier in ("resident", "text on host")
            if self.prompt == "no memory in a pass" or (self.prompt == "no memory for whole models" and whole):
                raise MemoryError
            if self.prompt == "a bug in a pass":
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    sys.exit(follow(Ranks(1, 2, store=dist.FileStore(sys.argv[1], 2)), Scripted))
"""


LEADER = """
    import os, pickle, signal, sys
    import numpy as np
    import psutil
    from engine import faults
    from engine.backends import open_backend
    from engine.config import load_preset
    from engine.errors import OutOfMemory

    preset, request = load_preset(sys.argv[1]), pickle.load(open(sys.argv[2], "rb"))
    if "reopen" in sys.argv:
        try:
            with faults.injected("model.loaded:eio"):
                open_backend(preset, threads=1)
        except OSError as err:
            print(err.strerror, flush=True)
    backend = open_backend(preset, threads=1)
    if "reopen" in sys.argv:
        list(backend.generate(request))
        [follower] = psutil.Process().children()
        follower.kill()
        for _ in range(2):
            try:
                list(backend.generate(request))
            except OutOfMemory as err:
                print(err.message, flush=True)
        backend.close()
        backend = open_backend(preset, threads=1)
    *_, result = backend.generate(request)
    np.save(sys.argv[3], result.frames)
    steps = backend.generate(request)
    next(steps)
    [follower] = psutil.Process().children()
    print(backend.info.device, follower.pid, sep="\\n", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
SHARING_LEADER = """
    import pickle, sys
    from dataclasses import replace
    from datetime import timedelta
    import torch.distributed as dist
    from engine.backends.parallel import Exit, ParallelBackend
    from engine.backends.ranks import Ranks
    from engine.config import load_preset
    from engine.errors import OutOfMemory

    preset, request = load_preset(sys.argv[1]), pickle.load(open(sys.argv[2], "rb"))
    ranks = Ranks(0, 2, store=dist.FileStore(sys.argv[3], 2), work=timedelta(seconds=5))
    backend = ParallelBackend.open_among(ranks, preset, threads=1)
    for prompt in ("no memory in a pass", "a second one"):
        try:
            list(backend.generate(replace(request, prompt=prompt)))
        except OutOfMemory as err:
            print(err.message)
    backend.close()
    ranks.do(ranks.tell, Exit(0))
    ranks.leave()
"""
pytestmark = pytest.mark.filterwarnings("ignore:.*all_gather_tensor.*:FutureWarning")  # diffusers'


def launched(*arguments, **options):
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=ENVIRONMENT, **options)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Rank 0 of 2, and the file in which the other one reports."""
    folder = tmp_path_factory.mktemp("ranks")
    script, file, report = (folder / name for name in ("follower.py", "store", "report.jsonl"))
    script.write_text(textwrap.dedent(FOLLOWER))
    follower = launched(script, file, report)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        ranks = Ranks(0, 2, store=dist.FileStore(str(file), 2), work=timedelta(seconds=60))
    yield ranks, report
    ranks.do(ranks.tell, Exit(0))
    ranks.leave()
    assert follower.wait(30) == 0


@pytest.fixture(scope="module")
def both(request, pair, tiny_preset, tmp_path_factory):
    """The model of the test's parameter, alone and on two ranks."""
    ranks, preset = pair[0], tiny_preset
    match request.param:
        case "two experts":
            preset = write_tiny_wan22(tmp_path_factory.mktemp("two"), preset=PRO)
        case "three heads":
            preset = write_tiny_wan(tmp_path_factory.mktemp("three"))
            build(WanSize(num_heads=3)).transformer.save_pretrained(preset.component("transformer"))
        case "a LoRA":
            lora = lora_file(preset.folder / "film.safetensors", build(WanSize()).transformer, 0)
            preset = preset.model_copy(update={"variants": {"film": VariantPreset(lora=lora)}})
        case "a ladder of tiers":
            preset = preset.model_copy(update={"tier": "resident"})
        case "second try":
            with faults.injected("model.loaded:eio"), pytest.raises(OSError, match="injected"):
                ParallelBackend.open_among(ranks, preset, threads=1)
    together = ParallelBackend.open_among(ranks, preset, threads=1)
    if request.param == "one model for both":
        alone = LocalBackend(together.components, preset)
    else:
        alone = LocalBackend.open(preset, threads=1)
    yield alone, together
    together.close()


def with_model(name):
    return pytest.mark.parametrize("both", [name], indirect=True)


def reported(pair, clip_id):
    """What the follower had done in all at the end of clip `clip_id`, which is waited for."""
    for _ in range(1200):
        lines = pair[1].read_text().splitlines() if pair[1].exists() else []
        for line in lines:
            if (report := json.loads(line))[0] == clip_id:
                return report[1]
        threading.Event().wait(0.05)
    raise AssertionError(f"the follower has not ended clip {clip_id}")


def equal(both, request):
    return np.array_equal(*(frames_of(backend, request) for backend in both))


@with_model("tiny")
class TestParallelBackend(BackendContract):
    @pytest.fixture
    def backend(self, both):
        return both[1]

    @pytest.fixture
    def make_request(self, clip_request):
        return clip_request


@with_model("tiny")
class TestSharedTokens(BackendContract):
    """Without guidance there is one branch, whose tokens the two ranks share."""

    @pytest.fixture
    def backend(self, both):
        return both[1]

    @pytest.fixture
    def make_request(self, clip_request):
        return lambda **changes: clip_request(guidance_scale=1.0, **changes)


@with_model("tiny")
def test_it_is_named(both):
    alone, together = both
    assert together.info.device == "2 × cpu, guidance in parallel"
    assert (together.info.name, together.info.fingerprint) == (alone.info.name, alone.info.fingerprint)


@with_model("tiny")
@pytest.mark.parametrize(
    ("variant", "num_condition_frames"), [("shot", 1), ("film", 1), ("film", 5)], ids=["shot", "film 1", "film 2"]
)
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0, 0.0], ids=["two branches", "prompted only", "negative only"])
def test_two_ranks_make_the_frames_of_one_to_the_bit(both, clip_request, variant, num_condition_frames, guidance_scale):
    """Each branch is computed as it is alone. Shared tokens change the size of the matrices: on a GPU that may move a
    last bit, on this CPU at this size it does not."""
    request = clip_request(
        variant=variant, num_condition_frames=num_condition_frames, guidance_scale=guidance_scale, num_inference_steps=4
    )
    assert equal(both, request)


@with_model("tiny")
def test_without_guidance_each_rank_holds_half_of_the_tokens(both, clip_request):
    """9 frames of 32×32 are 3 × 2 × 2 patches."""
    seen = []
    hook = (
        both[1]
        .components.transformer.blocks[1]
        .attn1.to_q.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    )
    for guidance_scale in (5.0, 1.0, 5.0):
        frames_of(both[1], clip_request(guidance_scale=guidance_scale, num_inference_steps=1))
    hook.remove()
    assert seen == [12, 6, 12]


@with_model("a LoRA")
def test_each_rank_fuses_the_lora_for_itself(both, clip_request):
    assert equal(both, clip_request())
    assert equal(both, clip_request(lora_strength=0.0))
    changed, base = (frames_of(both[1], clip_request(lora_strength=strength)) for strength in (1.0, 0.0))
    assert not np.array_equal(changed, base)


@with_model("two experts")
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
def test_two_experts_and_handed_over_latents_are_the_same_to_the_bit(both, clip_request, guidance_scale):
    first = clip_request(num_inference_steps=6, guidance_scale=guidance_scale)
    results = [list(backend.generate(first))[-1] for backend in both]
    assert np.array_equal(results[0].frames, results[1].frames)
    assert np.array_equal(results[0].tail_latents, results[1].tail_latents)
    assert equal(both, clip_request(seed=7, tail_latents=results[0].tail_latents, num_inference_steps=6))


@with_model("tiny")
def test_each_rank_makes_half_of_the_passes_and_one_of_them_the_rest(both, pair, clip_request):
    together = both[1]
    frames_of(together, clip_request(clip_id="first"))
    before, mine = reported(pair, "first"), dataclasses.replace(together.counters)
    frames_of(together, clip_request(clip_id="second", num_inference_steps=4))
    after = reported(pair, "second")
    assert together.counters.transformer_passes - mine.transformer_passes == 4
    assert after["transformer_passes"] - before["transformer_passes"] == 4
    assert together.counters.clips_decoded - mine.clips_decoded == 1
    for work in ("text_encoder_calls", "image_encoder_calls", "frames_encoded", "clips_decoded"):
        assert after[work] == 0


@with_model("tiny")
@pytest.mark.parametrize("guidance_scale", [5.0, 1.0], ids=["guidance", "tokens"])
@pytest.mark.parametrize("stop", ["interrupt", "Ctrl-C"])
def test_a_stop_within_a_pass_ends_the_clip_on_both(both, pair, clip_request, stop, guidance_scale):
    """Where tokens are shared the pass is finished first: the other rank waits for this one's half."""
    together = both[1]
    steps = together.generate(clip_request(clip_id=f"{stop} {guidance_scale}", guidance_scale=guidance_scale))
    next(steps)
    act, error = {
        "interrupt": (together.interrupt, Interrupted),
        "Ctrl-C": (_thread.interrupt_main, KeyboardInterrupt),
    }[stop]
    hook = together.components.transformer.blocks[0].norm1.register_forward_pre_hook(lambda *_: act())
    passes = together.counters.transformer_passes
    with pytest.raises(error):
        list(steps)
    hook.remove()
    reported(pair, f"{stop} {guidance_scale}")
    assert together.counters.transformer_passes == passes + 1
    assert equal(both, clip_request(guidance_scale=guidance_scale))


@with_model("tiny")
@pytest.mark.parametrize("prompt", ["no memory for the text", "no memory in a pass"])
def test_a_follower_without_memory_is_named_and_the_next_clip_works(both, clip_request, prompt):
    with pytest.raises(OutOfMemory, match=r"Clip 1 needs more memory than is free on process 2 of 2\."):
        frames_of(both[1], clip_request(prompt=prompt))
    assert equal(both, clip_request())


@with_model("a ladder of tiers")
def test_both_ranks_step_down_until_the_clip_fits_and_the_frames_stay(both, pair, clip_request):
    alone, together = both
    request = clip_request(prompt="no memory for whole models")
    *before, result = together.generate(request)
    assert [item.text[:17] for item in before if isinstance(item, Notice)] == ["Memory ran out: t", "Memory ran out: t"]
    assert np.array_equal(result.frames, frames_of(alone, request))
    for guidance_scale in (1.0, 5.0):  # streamed blocks, whose tokens are shared
        assert equal(both, clip_request(guidance_scale=guidance_scale, clip_id=f"streamed {guidance_scale}"))
    assert reported(pair, "streamed 5.0")["tier"] == together.components.placement.tier == "streamed"


@with_model("tiny")
def test_what_a_follower_has_to_say_to_the_user_is_said(both, clip_request):
    with pytest.raises(WeightsMismatch, match=r"The LoRA does not fit\. Choose another\."):
        frames_of(both[1], clip_request(prompt="a wrong file"))
    assert equal(both, clip_request())


@with_model("tiny")
def test_a_followers_bug_is_a_bug(both, clip_request):
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 failed:.*mat1"):
        frames_of(both[1], clip_request(prompt="a bug in a pass"))
    assert equal(both, clip_request())


@with_model("tiny")
@pytest.mark.parametrize("point", ["clip.encoded", "clip.denoised"])
def test_a_leader_without_memory_stops_the_follower_too(both, pair, clip_request, point):
    with faults.injected(f"{point}:oom"), pytest.raises(OutOfMemory, match="Clip 1 needs more memory than is free\\."):
        frames_of(both[1], clip_request(clip_id=point))
    reported(pair, point)
    assert equal(both, clip_request())


@with_model("tiny")
def test_a_leader_that_fails_in_a_pass_stops_the_follower_too(both, clip_request):
    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    hook = both[1].components.transformer.blocks[0].norm1.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match=r"^mat1"):
        frames_of(both[1], clip_request())
    hook.remove()
    assert equal(both, clip_request())


@with_model("three heads")
def test_heads_that_cannot_be_shared_are_refused_and_guidance_still_runs(both, clip_request):
    with pytest.raises(GenerationError, match="2 processes cannot share the model's 3 attention heads"):
        frames_of(both[1], clip_request(guidance_scale=1.0))
    assert equal(both, clip_request())


@with_model("tiny")
def test_an_attention_kernel_that_would_see_half_of_the_tokens_is_refused(both, clip_request):
    processors = [block.attn1.processor for block in both[1].components.transformer.blocks]
    for processor in processors:
        processor._attention_backend = AttentionBackendName.FLEX
    with pytest.raises(BackendUnavailable, match=r"“flex” cannot share tokens among GPUs\. Set `attention: native`\."):
        frames_of(both[1], clip_request(guidance_scale=1.0))
    for processor in processors:
        processor._attention_backend = None
    assert equal(both, clip_request(guidance_scale=1.0))


@with_model("tiny")
def test_tokens_that_cannot_be_shared_are_refused(both, clip_request):
    size = {"resolution": Resolution(16, 48), "num_frames": 9}
    pictures = np.zeros((2, 48, 16, 3), np.uint8)
    request = clip_request(guidance_scale=1.0, anchor=pictures[0], condition_frames=pictures[:1], **size)
    with pytest.raises(GenerationError, match="2 processes cannot share the 9 tokens"):
        frames_of(both[1], request)


@with_model("one model for both")
def test_a_closed_backend_leaves_no_hook_on_a_model_that_lives_on(both, clip_request):
    alone, together = both
    expected = frames_of(alone, clip_request())
    frames_of(together, clip_request(guidance_scale=1.0))
    together.close()
    together.close()
    assert np.array_equal(frames_of(alone, clip_request()), expected)


@with_model("second try")
def test_a_model_that_cannot_be_loaded_is_not_served_and_the_next_one_is(both, clip_request):
    assert equal(both, clip_request())


@pytest.mark.parametrize(
    ("size", "num_branches", "expected"),
    [(2, 2, (2, 1)), (4, 2, (2, 2)), (8, 2, (2, 4)), (2, 1, (1, 2)), (8, 1, (1, 8)), (3, 2, (1, 3)), (5, 2, (1, 5))],
)
def test_branches_are_divided_before_tokens(size, num_branches, expected):
    assert layout(size, num_branches) == Layout(*expected)


def test_fewer_gpus_than_asked_for_are_named(tiny_preset, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    preset = tiny_preset.model_copy(update={"device": "cuda"})
    check_devices(preset, 1)
    with pytest.raises(BackendUnavailable, match=r"to run on 2 GPUs, and this computer has 1\. Set `gpus: 1`\."):
        check_devices(preset, 2)


@pytest.fixture
def preset_file(tiny_preset):
    """The tiny model's preset, for two GPUs."""
    file = tiny_preset.folder / "two.yaml"
    file.write_text((tiny_preset.folder / "tiny.yaml").read_text() + "gpus: 2\n")
    return file


def led(folder, preset_file, request, *arguments):
    """What a leader printed that started its follower and was killed in the middle of a clip; and the frames."""
    (folder / "leader.py").write_text(textwrap.dedent(LEADER))
    (folder / "request.pickle").write_bytes(pickle.dumps(request))
    files = [folder / name for name in ("leader.py", "request.pickle", "frames.npy")]
    command = [sys.executable, files[0], preset_file, *files[1:], *arguments]
    leader = subprocess.Popen(command, env=ENVIRONMENT | {"TMPDIR": str(folder)}, stdout=subprocess.PIPE, text=True)
    printed, _ = leader.communicate(timeout=120)
    assert leader.returncode == -signal.SIGKILL
    return printed.splitlines(), np.load(files[2])


def is_gone(pid):
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or not psutil.wait_procs([process], timeout=20)[1]
    except psutil.NoSuchProcess:
        return True


def test_a_preset_for_two_gpus_starts_a_follower_that_dies_with_its_leader(
    preset_file, tiny_preset, clip_request, tmp_path
):
    (device, pid), frames = led(tmp_path, preset_file, clip_request())
    assert is_gone(int(pid))
    assert not list(tmp_path.glob("svi-ranks-*"))
    assert device == "2 × cpu, guidance in parallel"
    assert np.array_equal(frames, frames_of(LocalBackend.open(tiny_preset, threads=1), clip_request()))


@pytest.mark.slow
def test_after_a_failed_start_or_a_killed_follower_opening_anew_mends_it(preset_file, clip_request, tmp_path):
    (*messages, _, pid), frames = led(tmp_path, preset_file, clip_request(), "reopen")
    sentence = "Clip 1 stopped: the processes have lost one another, as a rule for lack of memory."
    assert messages == ["Input/output error (injected at model.loaded)", sentence, sentence]
    assert is_gone(int(pid))
    assert len(frames) == 9


@pytest.mark.slow
def test_a_pass_broken_off_while_tokens_are_shared_is_named_and_the_model_must_be_opened_anew(
    preset_file, clip_request, tmp_path
):
    """Gloo waits for the other's tokens until its time is up; NCCL waits on the GPU, so that the word comes first."""
    scripts = {"follower.py": FOLLOWER, "leader.py": SHARING_LEADER}
    for name, text in scripts.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    (tmp_path / "request.pickle").write_bytes(pickle.dumps(clip_request(guidance_scale=1.0)))
    follower, leader = (
        launched(tmp_path / "follower.py", tmp_path / "store", tmp_path / "report.jsonl"),
        launched(
            *(tmp_path / "leader.py", preset_file, tmp_path / "request.pickle", tmp_path / "store"),
            stdout=subprocess.PIPE,
            text=True,
        ),
    )
    printed, _ = leader.communicate(timeout=240)
    assert printed.splitlines() == [
        "Clip 1 needs more memory than is free on process 2 of 2.",
        "Clip 1 stopped: the processes have lost one another, as a rule for lack of memory.",
    ]
    assert (leader.returncode, follower.wait(60)) == (0, 0)


def ranks_of(size, *arguments):
    """`python -m engine` with these arguments as torch.distributed.run starts it, without its watching over them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(size)}
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(command, env=ENVIRONMENT | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **pipes)
        for rank in range(size)
    ]


def ended(processes):
    """(exit code, standard output, errors) of each."""
    said = [process.communicate(timeout=240) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def tails(folder):
    """The frames that every take of a film hands on."""
    takes = sorted(folder.glob("takes/*/tail/*.png"))
    return {(file.parent.parent.name, file.name): file.read_bytes() for file in takes}


@pytest.fixture
def film_alone(tiny_preset, picture, tmp_path):
    """Arguments of `generate` for a film of two clips, and the film that one process makes of them."""
    arguments = ["generate", "--image", picture, "--prompt", "fog", "--clips", "2"]
    arguments += ["--preset", tiny_preset.folder / "tiny.yaml"]
    assert cli.main([*map(str, arguments), "--project", str(tmp_path / "alone")]) == 0
    return arguments, tails(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_rank_0_makes_the_film_of_one_process_and_the_others_are_silent(film_alone, tmp_path, size):
    """Of four ranks, two share the tokens of each branch."""
    arguments, expected = film_alone
    first, *others = ended(ranks_of(size, *arguments, "--project", tmp_path / "together"))
    assert first[0] == 0, first[2]
    assert "Done: 2 clips." in first[1]
    assert others == [(0, "", "")] * (size - 1)
    assert tails(tmp_path / "together") == expected and len(expected) == 10


@pytest.mark.slow
def test_torch_distributed_run_starts_it(film_alone, tmp_path):
    arguments, expected = film_alone
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "engine"]
    process = launched(
        *launcher, *arguments, "--project", tmp_path / "together", stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    [(code, printed, _)] = ended([process])
    assert code == 0
    assert printed.count("Done: 2 clips.") == 1
    assert tails(tmp_path / "together") == expected


@pytest.mark.slow
def test_bad_input_ends_every_rank_with_2_and_is_said_once(film_alone, tmp_path):
    (code, _, errors), follower = ended(ranks_of(2, *film_alone[0], "--project", tmp_path / "new", "--seed", "-1"))
    assert code == 2 and "The seed must be a whole number" in errors
    assert follower == (2, "", "")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_ctrl_c_ends_every_rank_with_130(film_alone, tmp_path):
    processes = ranks_of(2, *film_alone[0], "--project", tmp_path / "new", "--steps", "200")
    while "step 3 of 200" not in processes[0].stdout.readline():
        assert processes[0].poll() is None
    for process in processes:  # as a terminal does
        process.send_signal(signal.SIGINT)
    (code, _, errors), follower = ended(processes)
    assert code == 130 and "Cancelled. Finished clips are safe." in errors
    assert follower == (130, "", "")


@pytest.mark.slow
def test_a_follower_ends_by_itself_when_its_leader_was_killed(film_alone, tmp_path):
    processes = ranks_of(2, *film_alone[0], "--project", tmp_path / "new", "--steps", "200")
    while "step 3 of 200" not in processes[0].stdout.readline():
        assert processes[0].poll() is None
    processes[0].kill()
    assert [code for code, _, _ in ended(processes)] == [-signal.SIGKILL, 1]

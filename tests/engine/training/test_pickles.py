import io
import os
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from engine import faults
from engine.errors import DiskFull, TrainingError
from engine.media import video
from engine.training.dataset import Note
from engine.training.pickles import ImportedClip, UnreadableClip, import_pickles, read_pickle


def jpeg(level: int, size: tuple[int, int] = (32, 32)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (level, level // 2, 0)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def pictures(count: int = 6, **changes) -> dict[str, bytes]:
    """Frames that get brighter, written down in the wrong order."""
    return {f"{number:06d}.jpg": jpeg(20 + 30 * number, **changes) for number in reversed(range(count))}


@pytest.fixture
def clip(tmp_path):
    folder = tmp_path / "raw" / "clip-1"
    folder.mkdir(parents=True)
    (folder / "frame_data.pkl").write_bytes(pickle.dumps(pictures()))
    return folder


def run(tmp_path):
    return list(import_pickles(tmp_path / "raw", tmp_path / "out", trust_files=True))


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_without_the_users_trust_nothing_is_read(tmp_path, clip):
    with pytest.raises(TrainingError, match="imported only when you say that you trust them"):
        import_pickles(tmp_path / "raw", tmp_path / "out", trust_files=False)
    assert not (tmp_path / "out").exists()


def test_a_talk_clip_becomes_a_video_and_a_tensor(tmp_path, clip):
    embedding = torch.randn(12, 10, 768)
    torch.save(embedding, clip / "audio_embedding.pkl")
    assert run(tmp_path) == [ImportedClip("clip-1", 6, None, (12, 10, 768))]
    frames = video.decode(tmp_path / "out" / "clip-1" / "video.mp4")
    assert frames.shape == (6, 32, 32, 3)
    assert np.abs(frames[:, :, :, 0].mean((1, 2)) - [20, 50, 80, 110, 140, 170]).max() < 4  # two lossy codecs
    assert video.probe(tmp_path / "out" / "clip-1" / "video.mp4").fps == 25
    with safe_open(tmp_path / "out" / "clip-1" / "audio_embedding.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("audio_embedding"), embedding)


def test_a_dance_clip_keeps_its_poses(tmp_path, clip):
    (clip / "dw_pose_with_foot_wo_face.pkl").write_bytes(pickle.dumps(pictures(5)))
    assert run(tmp_path) == [ImportedClip("clip-1", 6, 5, None)]
    assert video.decode(tmp_path / "out" / "clip-1" / "dwpose.mp4").shape == (5, 32, 32, 3)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_tensor_of_plain_pickle_is_read_too(tmp_path, clip, protocol):
    embedding = torch.randn(12, 20, 8)[:, 3:9]
    (clip / "audio_embedding.pkl").write_bytes(pickle.dumps(embedding, protocol=protocol))
    run(tmp_path)
    with safe_open(tmp_path / "out" / "clip-1" / "audio_embedding.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("audio_embedding"), embedding)


def test_a_tensor_of_an_old_torch_is_read_too(tmp_path, clip):
    torch.save(torch.ones(12, 4, 8), clip / "audio_embedding.pkl", _use_new_zipfile_serialization=False)
    assert run(tmp_path) == [ImportedClip("clip-1", 6, None, (12, 4, 8))]


def test_an_odd_side_loses_its_last_line(tmp_path, clip):
    (clip / "frame_data.pkl").write_bytes(pickle.dumps(pictures(size=(33, 35))))
    run(tmp_path)
    assert video.decode(tmp_path / "out" / "clip-1" / "video.mp4").shape == (6, 34, 32, 3)


@pytest.mark.parametrize("name", ["frame_data.pkl", "dw_pose_with_foot_wo_face.pkl", "audio_embedding.pkl"])
@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_refused_by_name_and_not_run(tmp_path, clip, name, protocol):
    (clip / name).write_bytes(pickle.dumps({"a": Malicious(tmp_path / "pwned")}, protocol=protocol))
    with pytest.raises(TrainingError, match=r"clip-1/.*\.pkl asks for “(posix|nt)\.mkdir”, which is not data"):
        run(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_file_of_torch_is_refused_by_name_and_not_run(tmp_path, clip, new_format):
    malicious = {"a": Malicious(tmp_path / "pwned")}
    torch.save(malicious, clip / "audio_embedding.pkl", _use_new_zipfile_serialization=new_format)
    with pytest.raises(TrainingError, match=r"asks for “(posix|nt)\.mkdir”"):
        run(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_code_in_the_storage_of_a_tensor_is_refused_and_not_run(tmp_path, clip):
    stream = io.BytesIO()
    torch.save(Malicious(tmp_path / "pwned"), stream)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (stream.getvalue(),)

    (clip / "audio_embedding.pkl").write_bytes(pickle.dumps(Storage()))
    with pytest.raises(TrainingError, match=r"asks for “(posix|nt)\.mkdir”"):
        run(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("found", ["builtins.eval", "torch.load", "numpy._core.multiarray._reconstruct"])
def test_anything_but_data_is_refused(tmp_path, clip, found):
    module, _, name = found.rpartition(".")
    (clip / "frame_data.pkl").write_bytes(f"c{module}\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(TrainingError, match=f"asks for “{found}”"):
        run(tmp_path)


def reaching_too_far(*, size=(2, 2, 2), stride=(4, 2, 1), offset=1):
    """A pickled tensor whose numbers point past its eight values."""

    class Tensor:
        def __reduce__(self):
            storage = torch.zeros(8)._typed_storage()
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, None)

    return pickle.dumps(Tensor())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("frame_data.pkl", pickle.dumps(pictures())[:-300], "frame_data.pkl is damaged"),
        ("frame_data.pkl", b"", "frame_data.pkl is damaged"),
        ("frame_data.pkl", b"\x80\x04}r\xff\xff\xff\x00.", "frame_data.pkl is damaged"),  # memo entry 2²⁴ − 1
        ("frame_data.pkl", pickle.dumps({}), "frame_data.pkl is empty"),
        ("frame_data.pkl", pickle.dumps([b"a"]), "frame_data.pkl is not a dictionary from file names to pictures"),
        (
            "frame_data.pkl",
            pickle.dumps({"a.jpg": "b"}),
            "frame_data.pkl is not a dictionary from file names to pictures",
        ),
        ("frame_data.pkl", pickle.dumps({"a.jpg": b"b"}), "picture 0 of frame_data.pkl is not a whole JPEG"),
        ("frame_data.pkl", pickle.dumps({"a.jpg": jpeg(9)[:-99]}), "picture 0 of frame_data.pkl is not a whole JPEG"),
        (
            "frame_data.pkl",
            pickle.dumps({"a.jpg": jpeg(9), "b.jpg": jpeg(9, (34, 32))}),
            "picture 1 of frame_data.pkl has another size than the first",
        ),
        (
            "frame_data.pkl",
            pickle.dumps({"a.jpg": jpeg(9, (4098, 2))}),
            "picture 0 of frame_data.pkl has more than 4096 pixels a side",
        ),
        (
            "audio_embedding.pkl",
            pickle.dumps(torch.zeros(3)),
            "audio_embedding.pkl is not a tensor of layers × frames × channels",
        ),
        ("audio_embedding.pkl", reaching_too_far(), "audio_embedding.pkl is damaged"),
        ("audio_embedding.pkl", reaching_too_far(offset=0, stride=(4, -2, 1)), "audio_embedding.pkl is damaged"),
        ("audio_embedding.pkl", reaching_too_far(offset=-1), "audio_embedding.pkl is damaged"),
        ("audio_embedding.pkl", reaching_too_far(size=(2**40, 2, 2)), "audio_embedding.pkl is damaged"),
    ],
    ids=range(15),
)
def test_a_clip_that_cannot_be_read_is_named_and_the_others_are_imported(tmp_path, clip, name, content, reason):
    second = tmp_path / "raw" / "clip-2"
    second.mkdir()
    (second / "frame_data.pkl").write_bytes(pickle.dumps(pictures()))
    (clip / name).write_bytes(content)
    assert run(tmp_path) == [Note("clip-1", reason), ImportedClip("clip-2", 6, None, None)]
    assert not list((tmp_path / "out").rglob("*.part"))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` cut off, or with some bytes changed, more often near its beginning."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 10)):
        end = rng.choice((min(200, len(data)), len(data)))
        changed[rng.randrange(end)] = rng.choice((0, 127, 255, rng.randrange(256)))
    return bytes(changed)


def written(embedding: torch.Tensor) -> list[bytes]:
    """The tensor in every format that is read."""
    found = [pickle.dumps(embedding, protocol=protocol) for protocol in (3, 4, 5)]
    for new_format in (True, False):
        stream = io.BytesIO()
        torch.save(embedding, stream, _use_new_zipfile_serialization=new_format)
        found.append(stream.getvalue())
    return found


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_to_a_file_escapes(tmp_path, clip):
    rng = random.Random(0)
    sources = {
        "frame_data.pkl": [pickle.dumps(pictures(2), protocol=protocol) for protocol in (3, 4, 5)],
        "audio_embedding.pkl": written(torch.randn(3, 4, 8)),
    }
    outcomes = Counter()
    for _ in range(400):
        name = rng.choice(list(sources))
        (clip / name).write_bytes(mutated(rng.choice(sources[name]), rng))
        try:
            read_pickle(clip / name)
            outcomes["read"] += 1
        except UnreadableClip:
            outcomes["damaged"] += 1
        except TrainingError:
            outcomes["refused"] += 1
    assert outcomes["read"] > 20 and outcomes["damaged"] > 150 and outcomes["refused"] > 5


def test_a_tensor_within_its_storage_is_read(tmp_path, clip):
    (clip / "audio_embedding.pkl").write_bytes(reaching_too_far(offset=0))
    assert run(tmp_path)[0].audio_shape == (2, 2, 2)


def test_a_folder_without_clips_is_told_what_was_looked_for(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(TrainingError, match=r"no frame_data.pkl in “raw”") as caught:
        run(tmp_path)
    assert "audio_embedding.pkl" in caught.value.hint


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, clip):
    outside = tmp_path / "outside.pkl"
    (clip / "frame_data.pkl").rename(outside)
    (clip / "frame_data.pkl").symlink_to(outside)
    with pytest.raises(TrainingError, match=r"no frame_data.pkl"):
        run(tmp_path)


def test_a_full_disk_says_that_earlier_clips_are_kept(tmp_path, clip):
    torch.save(torch.ones(12, 4, 8), clip / "audio_embedding.pkl")
    with faults.injected("pickles.audio.fsync:enospc"), pytest.raises(DiskFull, match="imported so far are kept"):
        run(tmp_path)
    assert not (tmp_path / "out" / "clip-1" / "audio_embedding.safetensors").exists()

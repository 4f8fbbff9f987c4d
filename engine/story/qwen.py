"""A Qwen-VL model on this machine as a writer: every answer is decoded under a grammar, so that it fits its schema.

The grammar (llguidance) comes from the question's JSON schema and leaves the model only tokens that continue an answer;
the answer ends with the token that completes it. Roles stay apart: what looks like a control token in a text is plain
text to the model. Weights are read as safetensors from a folder, and nothing is ever downloaded. Knows nothing about
stories.
"""

import codecs
import gc
import importlib.util
import json
import logging
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from engine import faults
from engine.environment import ensure_torchvision, free_memory
from engine.errors import (
    BackendUnavailable,
    ConfigError,
    OutOfMemory,
    StorylineError,
    StudioError,
    WeightsMismatch,
    WeightsMissing,
)
from engine.media import image
from engine.story.choose import WORKING_BYTES, QwenModel, command, entry_of
from engine.story.writer import Ask
from engine.tiers import Machine, in_gb
from engine.weights.header import BASE_HEADER_BYTES, TensorInfo, read_header

ensure_torchvision()
from qwen_vl_utils import process_vision_info  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    BitsAndBytesConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES  # noqa: E402

log = logging.getLogger(__name__)

# generation_config.json of Qwen2.5-7B-Instruct. That of the VL models (temperature 1e-6) is for reading off pictures:
# one seed would tell the same story as the next.
TEMPERATURE, TOP_P, TOP_K, REPETITION_PENALTY = 0.7, 0.8, 20, 1.05
MAX_PICTURE_TOKENS = 1280  # as the model cards of Qwen2.5-VL bound it; a token is 28 × 28 pixels there
# No free blanks: a weak model spends all its tokens on them. No \n, \u0000 …: once read they are control characters.
JSON_OPTIONS = {"whitespace_flexible": False, "json_allowed_escapes": '"\\'}
MAX_CONFIG_BYTES = 1 << 20
PACKAGES = {"awq": ("gptqmodel",), "gptq": ("gptqmodel", "optimum"), "bitsandbytes": ("bitsandbytes",)}
LACK_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")  # as torch and cuBLAS say it
SMALLER = "Close other programs, choose a smaller model or its -AWQ version, or draft with templates."


@dataclass(frozen=True)
class Parts:
    """What was loaded. vocabulary: the tokenizer's, prepared for grammars once."""

    model: PreTrainedModel
    processor: ProcessorMixin
    vocabulary: LLTokenizer


class QwenWriter:
    """Answers with the model in a folder. One answer at a time: a question ends the answer before it.

    machine: what is free to load into; None looks. Raises `WeightsMissing`, `WeightsMismatch`, `OutOfMemory`,
    `BackendUnavailable` when a package is lacking that the folder's quantisation needs, `ConfigError`.
    """

    def __init__(self, model: QwenModel, *, machine: Machine | None = None) -> None:
        self.title = model.title
        self._stop = threading.Event()
        self._answer: weakref.ref[Generator[str]] | None = None
        self._parts: Parts | None = load(model, machine or machine_now())

    @property
    def model(self) -> PreTrainedModel:
        return self._open().model

    def write(self, ask: Ask) -> Iterator[str]:
        """See `Writer.write`. The same question and seed give the same answer on the same device."""
        parts = self._open()
        self._end_answer()
        self._stop = threading.Event()
        answer = self._pieces(parts, ask, self._stop)
        self._answer = weakref.ref(answer)
        return answer

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        """Give the memory back; an answer that another thread is reading ends with its next token."""
        self._end_answer()
        if self._parts is not None:
            self._parts = None
            release_memory()

    def _open(self) -> Parts:
        if self._parts is None:
            raise ValueError("this writer is closed")
        return self._parts

    def _end_answer(self) -> None:
        self.interrupt()
        answer = self._answer and self._answer()
        if answer is not None:
            with suppress(ValueError):  # it runs in another thread, which sees the stop
                answer.close()

    def _pieces(self, parts: Parts, ask: Ask, stop: threading.Event) -> Generator[str]:
        try:
            yield from self._constrained(parts, ask, stop)
            return
        except (MemoryError, RuntimeError) as err:
            if not lacks_memory(err):
                raise
        release_memory()  # here, outside the except block: the error's traceback holds tensors
        raise OutOfMemory(
            f"“{self.title}” ran out of memory while it wrote.", f"Beats that came before are kept. {SMALLER}"
        )

    def _constrained(self, parts: Parts, ask: Ask, stop: threading.Event) -> Iterator[str]:
        if stop.is_set():
            return
        decoder = codecs.getincrementaldecoder("utf-8")()  # a token may be a part of a character
        with closing(tokens(parts, ask)) as generated:
            for number, token in enumerate(generated):
                if stop.is_set():  # while the model computed
                    return
                if number == ask.max_tokens:
                    raise StorylineError(
                        f"“{self.title}” did not finish its answer within {ask.max_tokens} tokens.",
                        "Try again with another seed, or draft fewer clips at a time.",
                    )
                faults.hit("draft.token")
                if piece := decoder.decode(parts.vocabulary.decode_bytes([token])):
                    yield piece
                if stop.is_set():  # while the piece was read
                    return


# ---- decoding


class Grammar(LogitsProcessor):
    """Rules out every token that does not continue an answer."""

    def __init__(self, schema: Mapping[str, object], vocabulary: LLTokenizer) -> None:
        text = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)
        self._matcher = LLMatcher(vocabulary, text)
        self._ends = vocabulary.eos_tokens
        if self._matcher.is_error():
            raise ValueError(f"no grammar can be made of this schema: {self._matcher.get_error()}")

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_stopped()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # (1, n), (1, vocabulary)
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        return scores.masked_fill(allowed.to(scores.device) == 0, float("-inf"))

    def take(self, token: int) -> list[int]:
        """Go on by a token that was allowed. Returns what it adds to the answer: itself, and all that must follow."""
        self._matcher.consume_token(token)
        if token in self._ends:
            return []
        forced = [] if self.is_complete else self._matcher.compute_ff_tokens()
        self._matcher.consume_tokens(forced)
        if self._matcher.is_error():
            raise StorylineError("The model left the grammar of its answer.", self._matcher.get_error()[:200])
        return [token, *forced]


def tokens(parts: Parts, ask: Ask) -> Generator[int]:
    """The tokens of an answer; each is computed when it is asked for."""
    grammar = Grammar(ask.schema, parts.vocabulary)
    return parts.model.generate(
        **prompt(parts, ask).to(parts.model.device),
        max_new_tokens=ask.max_tokens,
        logits_processor=LogitsProcessorList([grammar]),
        custom_generate=sample,
        grammar=grammar,
        generator=torch.Generator().manual_seed(ask.seed),
    )


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: object,
    generation_config: GenerationConfig,
    *,
    grammar: Grammar,
    generator: torch.Generator,
    **state: object,
) -> Generator[int]:
    """The sampling loop of `generate` for one sequence, as a generator that draws from `generator` alone.

    transformers' own loop draws from the process's generator and runs ahead of whoever reads from its streamer. Here
    the next pass begins when a token that needs it is asked for; what the grammar forces (keys, the subject that every
    prompt repeats) goes through the model together with the token before it. input_ids: (1, n).
    """
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **state)
    while True:
        outputs = model(**inputs, return_dict=True)
        scores = logits_processor(input_ids, outputs.logits[:, -1].float())
        probabilities = scores.softmax(-1).cpu()  # there a draw is the same whatever the device, and NaN does no harm
        if probabilities.isnan().any():
            raise StorylineError(
                "The model's numbers overflowed: nothing can be drawn from them.",
                "Its weights are damaged, or its precision does not suit this device: try bfloat16 or float32.",
            )
        run = grammar.take(int(torch.multinomial(probabilities, 1, generator=generator)))
        yield from run
        if grammar.is_complete:
            return
        state = model._update_model_kwargs_for_generation(outputs, state, num_new_tokens=len(run))
        input_ids = torch.cat([input_ids, input_ids.new_tensor([run])], dim=-1)
        inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=len(run), **state)


def prompt(parts: Parts, ask: Ask) -> BatchFeature:
    """The question as the model reads it: the system's turn, the user's with the picture, the start of the answer."""
    user: list[dict[str, object]] = [{"type": "text", "text": ask.text}]
    if ask.picture is not None:
        user.insert(0, {"type": "image", "image": seen(ask.picture, parts.processor)})
    turns = [{"role": "system", "content": [{"type": "text", "text": ask.system}]}, {"role": "user", "content": user}]
    return parts.processor.apply_chat_template(
        turns,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        sanitize_control_tokens=True,  # <|im_end|> in a text is letters and signs, not the end of a turn
    )


def seen(picture: Path, processor: ProcessorMixin) -> Image.Image:
    """The picture at the size that the model looks at: sides that patches fill, at most MAX_PICTURE_TOKENS."""
    eyes = processor.image_processor
    part = {
        "type": "image",
        "image": Image.fromarray(image.load(picture)),
        "max_pixels": MAX_PICTURE_TOKENS * (eyes.patch_size * eyes.merge_size) ** 2,
    }
    [pixels], _ = process_vision_info([{"role": "user", "content": [part]}], image_patch_size=eyes.patch_size)
    return pixels


# ---- loading


def load(chosen: QwenModel, machine: Machine) -> Parts:
    """The model in `chosen.folder`. A quantised folder is loaded as it is, whatever the precision."""
    began = time.monotonic()
    folder = chosen.folder
    config = read_config(folder)
    method = quantisation_of(config)
    tensors = tensors_in(folder)
    device = place(chosen, loaded_bytes(tensors, chosen, method), machine)
    if method is None and chosen.precision == "4-bit":
        check_bitsandbytes(chosen, device)
    parts = None
    try:
        parts = read_parts(chosen, method, device)
    except (MemoryError, RuntimeError) as err:
        if not lacks_memory(err):
            raise
    if parts is None:  # here, outside the except block: the error's traceback holds tensors
        release_memory()
        raise OutOfMemory(f"Memory ran out while “{chosen.title}” was loaded.", SMALLER)
    log.info("%s loaded on %s in %.1f s", chosen.title, device, time.monotonic() - began)
    return parts


def read_parts(chosen: QwenModel, method: str | None, device: torch.device) -> Parts:
    processor = read_processor(chosen.folder)
    model = read_model(chosen, method, device)
    faults.hit("draft.loaded")
    tokenizer = processor.tokenizer
    size = model.config.get_text_config().vocab_size
    if len(tokenizer) > size or model.config.image_token_id != processor.image_token_id:
        raise unfit(chosen, "its tokenizer is of another model")
    model.generation_config = GenerationConfig(  # the folder's own is not looked at: it could ask for anything
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=TOP_K,
        repetition_penalty=REPETITION_PENALTY,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return Parts(model, processor, from_tokenizer(tokenizer, n_vocab=size))


def read_config(folder: Path) -> dict[str, object]:
    """config.json of a Qwen-VL. Raises `WeightsMissing` without one, `WeightsMismatch` for another kind of model."""
    file = folder / "config.json"
    if not file.is_file():
        raise WeightsMissing(f"There is no model in the folder {folder.name}: it has no config.json.", again(folder))
    try:
        config = json.loads(file.read_bytes()) if file.stat().st_size <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError) as err:
        raise WeightsMismatch(f"config.json in {folder.name} is not JSON.", again(folder)) from err
    if not isinstance(config, dict):
        raise WeightsMismatch(f"config.json in {folder.name} does not describe a model.", again(folder))
    kind = config.get("model_type")
    if not (isinstance(kind, str) and kind.startswith("qwen") and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        raise WeightsMismatch(
            f"{folder.name} holds a model of the kind {ascii(kind)[:60]}, not a Qwen model that looks at pictures.",
            "Choose a Qwen-VL, for example Qwen/Qwen2.5-VL-3B-Instruct.",
        )
    return config


def tensors_in(folder: Path) -> list[tuple[str, TensorInfo]]:
    """Every tensor of the folder's safetensors files, after a look at whether the files are whole and all there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            raise WeightsMismatch(f"{index.name} in {folder.name} is damaged.", again(folder)) from err
        if not all(isinstance(name, str) and name.endswith(".safetensors") and "/" not in name for name in names):
            raise WeightsMismatch(f"{index.name} in {folder.name} names files that are not safetensors.", again(folder))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise WeightsMissing(
                f"{folder.name} lacks {len(absent)} of {len(names)} files, {absent[0]} first.", again(folder)
            )
    else:
        names = ["model.safetensors"]
        if not (folder / names[0]).is_file():
            raise WeightsMissing(
                f"{folder.name} has no weights as safetensors.", "Pickled weights (.bin, .pth) may run code: not read."
            )
    headers = (read_header(folder / name, max_header_bytes=BASE_HEADER_BYTES) for name in names)
    return [row for header in headers for row in header.tensors.items()]


def quantisation_of(config: Mapping[str, object]) -> str | None:
    """How the folder's weights are quantised; `BackendUnavailable` when the package for that is not here."""
    quantisation = config.get("quantization_config")
    if not isinstance(quantisation, dict):
        return None
    method = str(quantisation.get("quant_method"))
    lacking = [name for name in PACKAGES.get(method, ()) if importlib.util.find_spec(name) is None]
    if lacking:
        raise BackendUnavailable(
            f"The model is quantised with {method.upper()}, which needs the package {lacking[0]}; it is not installed.",
            f"Install it (pip install {' '.join(lacking)}), or use the folder that is not quantised.",
        )
    return method


def check_bitsandbytes(chosen: QwenModel, device: torch.device) -> None:
    if importlib.util.find_spec("bitsandbytes") is None or device.type != "cuda":
        raise BackendUnavailable(
            f"To load “{chosen.title}” in 4 bits, a GPU and the package bitsandbytes are needed.",
            "Use the model's -AWQ folder, or the precision bfloat16.",
        )


def loaded_bytes(tensors: list[tuple[str, TensorInfo]], chosen: QwenModel, method: str | None) -> int:
    """Memory that the weights take once they are loaded."""
    if method is not None:
        return sum(tensor.end - tensor.begin for _, tensor in tensors)
    size = 4 if chosen.precision == "float32" else 2
    if chosen.precision != "4-bit":
        return sum(prod(tensor.shape) * size for _, tensor in tensors)
    # bitsandbytes packs two elements of a linear layer in a byte; embeddings, norms and biases stay
    packed = sum(prod(t.shape) for name, t in tensors if len(t.shape) == 2 and "embed" not in name)
    return packed // 2 + 2 * (sum(prod(t.shape) for _, t in tensors) - packed)


def place(chosen: QwenModel, weights: int, machine: Machine) -> torch.device:
    """Where `weights` bytes fit: the GPU if there is one, else the CPU. Raises `OutOfMemory` with the figures."""
    needed = weights + WORKING_BYTES
    if chosen.device == "cuda" and not machine.has_gpu:
        raise ConfigError(f"“{chosen.title}” is to run on a GPU, and there is none.", "Set its device to auto or cpu.")
    if chosen.device != "cpu" and machine.has_gpu:
        if needed <= machine.free_vram:
            return torch.device("cuda")
        if chosen.device == "cuda":
            raise too_large(chosen, needed, "GPU memory", machine.free_vram)
    if needed > machine.free_ram:
        raise too_large(chosen, needed, "memory", machine.free_ram)
    return torch.device("cpu")


def too_large(chosen: QwenModel, needed: int, what: str, free: int) -> OutOfMemory:
    return OutOfMemory(
        f"“{chosen.title}” in {chosen.precision} needs {in_gb(needed)} GB of {what}, and {in_gb(free)} GB are free.",
        SMALLER,
    )


def read_processor(folder: Path) -> ProcessorMixin:
    if not (folder / "tokenizer.json").is_file():  # transformers would make an empty one without a word
        raise WeightsMissing(f"{folder.name} has no tokenizer.json.", again(folder))
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise WeightsMissing(
            f"{folder.name} has no tokenizer and picture settings that can be read ({type(err).__name__}).",
            again(folder),
        ) from err
    if not getattr(processor, "image_processor", None) or not getattr(processor, "chat_template", None):
        lacks = "chat template" if getattr(processor, "image_processor", None) else "preprocessor_config.json"
        raise WeightsMissing(f"{folder.name} has no {lacks}.", again(folder))
    return processor


def read_model(chosen: QwenModel, method: str | None, device: torch.device) -> PreTrainedModel:
    """The model, on `device`. Weights that are absent or of another shape are refused."""
    quantised = method is not None
    half = torch.float16 if quantised and device.type == "cuda" else torch.bfloat16  # AWQ's kernels take float16 alone
    options: dict[str, object] = {
        "dtype": torch.float32 if chosen.precision == "float32" and not quantised else half,
        "device_map": {"": str(device)},
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # else the shapes are printed, not raised
    }
    if chosen.precision == "4-bit" and not quantised:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(chosen.folder, **options)
    except ImportError as err:
        raise BackendUnavailable(f"“{chosen.title}” needs a package that is not installed.", str(err)[:200]) from err
    except (OSError, SafetensorError) as err:
        raise WeightsMissing(f"The weights in {chosen.folder.name} cannot be read.", again(chosen.folder)) from err
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as err:
        if lacks_memory(err):
            raise
        raise unfit(chosen, type(err).__name__) from err
    for key, found, expected in sorted(report["mismatched_keys"]):
        raise unfit(chosen, f"{key} is {tuple(found)} instead of {tuple(expected)}")
    for key in sorted(report["missing_keys"]):
        raise unfit(chosen, f"{key} is missing ({len(report['missing_keys'])} in all)")
    return model.eval().requires_grad_(False)


def again(folder: Path) -> str:
    """How to get the files of `folder` once more."""
    entry = entry_of(f"{folder.parent.name}/{folder.name}")
    if entry is None:
        return "Put the files there again, all of them, from where the model came from."
    return f"Get it again: {command(entry)}"


def unfit(chosen: QwenModel, reason: str) -> StudioError:
    return WeightsMismatch(
        f"The weights in {chosen.folder.name} do not fit its config.json: {reason}.", again(chosen.folder)
    )


# ---- memory


def machine_now() -> Machine:
    """What is free now, on the GPU too where torch sees one."""
    if not torch.cuda.is_available():
        return Machine("this CPU", "cpu", free_memory())
    free, total = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # torch's own cache
    return Machine(torch.cuda.get_device_name(), "rocm" if torch.version.hip else "cuda", free_memory(), free, total)


def lacks_memory(err: BaseException) -> bool:
    return isinstance(err, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(err) for sign in LACK_OF_MEMORY)


def release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

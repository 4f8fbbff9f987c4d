"""`python -m engine doctor|draft|generate|extend|finalize|export|bench|train|weights|…`: thin wrappers over the engine.

Exit codes: 0 done, 2 bad input (one line on stderr), 130 cancelled, 1 our fault (with an error id).
"""

import argparse
import json
import logging
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

from engine import backends, drafting, film, remake, storyboard
from engine.config import Config, Drafter, Preset, load_preset, preset_names
from engine.domain import (
    LANGUAGES,
    MAX_SEED,
    Beat,
    Pace,
    Project,
    Resolution,
    Storyline,
    Telling,
    Tone,
    check_num_clips,
    check_seed,
    fold,
    new_id,
)
from engine.errors import InputError, StudioError, disk_errors_explained
from engine.events import (
    DrafterLoading,
    Event,
    JobCancelled,
    JobDone,
    JobFailed,
    ModelLoading,
    ProjectOpened,
    StorylineDrafted,
)
from engine.project import takes as takes_on_disk
from engine.project.files import write_atomically
from engine.project.store import Store
from engine.story import drafter, exchange
from engine.story.choose import Choice
from engine.story.exchange import WrittenClip, WrittenStoryline
from engine.story.template import parse_keywords
from engine.story.vocabulary import vocabulary_of
from engine.variants import VARIANTS
from engine.weights import commands as weights

log = logging.getLogger(__name__)
Command = Callable[..., argparse.ArgumentParser]  # (name, run, help) -> the new command
PRECISIONS = get_args(Config.model_fields["drafter_precision"].annotation)
DRAFTER_FLAGS = ("drafter", "drafter_model", "drafter_precision", "endpoint_url", "endpoint_model")
DRIFT_SIZE = Resolution(288, 192)
ERROR_LOG = Path(tempfile.gettempdir()) / "svi-studio-errors.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Of several ranks only the first runs it, but for the trainer's own."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    rank, size = backends.started_as()
    if size == 1 or arguments[:1] == ["train"]:
        return run(arguments)
    from engine.backends import follow, parallel

    if rank == 0:
        return parallel.lead(lambda: run(arguments))
    configure_logging(verbose=False)
    return follow.follow_leader()


def run(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    configure_logging(args.verbose)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    say = print_json if args.json else print_line
    try:
        check_out(getattr(args, "out", None) if args.run not in (run_draft, run_batch, run_remake) else None)
        args.run(args, say)
        return 0
    except StudioError as err:
        if args.json:
            say(JobFailed(err.message, err.hint, kind=type(err).__name__))
        sys.stderr.write(f"{type(err).__name__}: {err}\n")
        return 2
    except KeyboardInterrupt:
        folder: Path | None = getattr(args, "project", None)
        say(JobCancelled(len(Store(folder).takes()) if folder else 0))
        goes_on = f" Continue with: python -m engine generate --project {folder}" if folder else ""
        sys.stderr.write(getattr(args, "stopped", f"Cancelled. Finished clips are safe.{goes_on}") + "\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 130
    except Exception:
        error_id = secrets.token_hex(4)
        log.exception("error %s", error_id)
        if args.json:
            say(JobFailed("Something went wrong inside the engine.", "Finished clips are safe.", error_id))
        sys.stderr.write(f"Something went wrong inside the engine (id {error_id}, details in {ERROR_LOG.name}).\n")
        return 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def configure_logging(verbose: bool) -> None:
    handlers: list[logging.Handler] = []
    try:
        keep = logging.FileHandler(ERROR_LOG, delay=True)
        keep.setLevel(logging.ERROR)
        handlers.append(keep)
    except OSError:
        pass
    if verbose:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", handlers=handlers or [logging.NullHandler()]
    )


def print_json(item: Event | dict) -> None:
    data = item.to_json() if isinstance(item, Event) else item
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_line(item: Event | dict) -> None:
    data = item.to_json() if isinstance(item, Event) else item
    match data["event"]:
        case "project_opened":
            text = f"Project: {data['path']}"
        case "film_remade":
            text = f"Copy: {data['path']} ({data['clips']} clips, {data['size']}, {data['model']}). {data['goes_on']}"
        case "model_loading":
            text = f"Loading the model “{data['preset']}”…"
        case "drafter_chosen":
            text = fold(f"# {data['title']}: {data['why']}")
        case "drafter_loading":
            text = f"# Loading {data['title']}…"
        case "sample_started":
            text = f"# {data['sample']} ({data['index'] + 1} of {data['of']})"
        case "beat_drafted":
            text = data["prompt"] + (f"\n# {data['caption']}" if data["caption"] else "")
        case "storyline_drafted":
            text = f"# kept: {len(data['prompts'])} prompts" if data["is_kept"] else ""
        case "item_failed":
            text = fold(f"# {data['item']} failed: {data['message']} {data['hint']}")
        case "clip_started":
            text = f"Clip {data['index'] + 1}: {data['prompt']}"
        case "clip_step":
            text = f"  step {data['step']} of {data['of']} ({data['seconds']:.1f} s)"
        case "take_committed":
            text = f"  finished in {data['seconds']:.1f} s, {data['frames']} frames added"
        case "film_exported":
            text = f"Film: {data['path']} ({data['frames']} frames, {data['frames'] / data['fps']:.1f} s)"
        case "clip_notice":
            text = f"  {data['text']}"
        case "credit":
            text = data["text"]
        case "job_done":
            text = f"Done: {data['clips']} clips."
        case "job_cancelled" | "job_failed":
            return  # said on stderr
        case name:
            text = f"{name}: " + ", ".join(f"{k} {v}" for k, v in data.items() if k != "event")
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


# ---- commands


def run_doctor(args: argparse.Namespace, say) -> None:
    from engine import doctor

    report = doctor.examine(Config.load().data_dir)
    if args.json:
        say({"event": "doctor", "healthy": doctor.healthy(report)} | report)
    else:
        sys.stdout.write("\n".join(doctor.lines(report)) + "\n")


def run_generate(args: argparse.Namespace, say) -> None:
    folder = args.project or Config.load().data_dir / new_id()
    if (folder / "project.json").exists():
        store = Store.open(folder)
        preset = preset_of(store.load(), args)
        continue_project(store, preset, args, say)
    else:
        preset = load_preset(args.preset or Config.load().preset, random_weights=random_weights(args))
        store = start_project(folder, preset, args)
    args.project = folder  # named when the run is cancelled
    say(ProjectOpened(str(folder)))
    finish(store, preset, args, say)


def start_project(folder: Path, preset: Preset, args: argparse.Namespace) -> Store:
    if args.image is None:
        raise InputError("A new film needs a picture.", "Add --image PICTURE.")
    story = story_from(args)
    if story is None:
        raise InputError(
            "A new film needs prompts.", "Add --prompts FILE or --prompt TEXT (or write one with “draft”)."
        )
    variant = args.variant or "film"
    row = preset.variant(variant)
    count = check_num_clips(args.clips if args.clips is not None else len(story.clips) * row.clips_per_prompt)
    if args.draft and preset.draft is None:
        raise InputError(f"The preset “{preset.name}” has no draft quality.", "Leave --draft out.")
    store = film.create(
        folder,
        args.image,
        preset,
        variant=variant,
        idea=story.idea,
        seed=check_seed(args.seed) if args.seed is not None else 0,
        num_inference_steps=check_steps(args.steps),
        draft=args.draft,
        hd=args.hd,
    )
    clips = storyboard.spread(story.clips, count, row)
    store.edit(
        lambda project: storyboard.append_beats(project, clips).model_copy(update={"storyline_source": story.source})
    )
    return store


def continue_project(store: Store, preset: Preset, args: argparse.Namespace, say) -> None:
    """Bring an existing project to what the flags ask for, without touching clips that are there."""
    project = store.load()
    if args.variant and args.variant != project.variant:
        raise InputError(f"This project is a {project.variant}.", "Start another project for another variant.")
    if args.clips is not None:
        check_num_clips(args.clips)
    story = story_from(args)
    have = [clip.prompt for clip in project.clips]
    row = preset.variant(project.variant)
    all_given = len(story.clips) * row.clips_per_prompt if story else 0
    count = max(args.clips or all_given or len(have), len(have))
    wanted = storyboard.spread(story.clips, count, row) if story else []
    given = len(have) if args.clips or (story and len(story.clips) == 1) else all_given  # it was extended meanwhile
    differing = [i for i, (a, b) in enumerate(zip(wanted, have, strict=False)) if a.prompt != b and i < given]
    if differing:
        index = differing[0]
        raise InputError(
            f"Clip {index + 1} of this project has another prompt.",
            "Use “regenerate --clip K --prompt TEXT” to change it.",
        )
    for flag, asked, has in (
        ("--seed", args.seed, project.seed),
        ("--steps", args.steps, project.num_inference_steps),
        ("--draft", args.draft or None, project.draft),
        ("--image", args.image and imported_sha256(args.image), project.inputs.image_sha256),
    ):
        if asked is not None and asked != has:
            raise InputError(
                f"{flag} differs from what this project was made with, and would change every finished clip.",
                "Leave it out to continue, or start another project.",
            )
    if count > len(have):
        film.refuse_outgrown(store, preset)
    if story:
        store.edit(lambda p: storyboard.append_beats(p, wanted[len(have) :]))
    else:
        draft_more(store, preset, count - len(have), args, say)


def imported_sha256(picture: Path) -> str:
    """The hash that `picture` has once it is validated and re-encoded."""
    from engine.media import image

    with tempfile.TemporaryDirectory() as folder:
        return image.import_image(picture, Path(folder) / "anchor.png").sha256


def run_extend(args: argparse.Namespace, say) -> None:
    store = Store.open(args.project)
    preset = preset_of(store.load(), args)
    film.refuse_outgrown(store, preset)
    count = check_num_clips(args.clips if args.clips is not None else 1)
    story = story_from(args)
    each = preset.variant(store.load().variant).clips_per_prompt
    if story and args.clips is None:
        count = len(story.clips) * each
    check_num_clips(len(store.load().clips) + count)
    if story:
        clips = [story.clips[index // each % len(story.clips)] for index in range(count)]
        store.edit(lambda project: storyboard.append_beats(project, clips))
    else:
        draft_more(store, preset, count, args, say)
    finish(store, preset, args, say)


def run_regenerate(args: argparse.Namespace, say) -> None:
    store = Store.open(args.project)
    project = store.load()
    preset = preset_of(project, args)
    if not 1 <= args.clip <= len(project.clips):
        raise InputError(f"There is no clip {args.clip}: this film has {len(project.clips)}.")
    film.refuse_outgrown(store, preset)
    planned = film.plan(store, preset, project)
    seed = check_seed(args.seed) if args.seed is not None else secrets.randbelow(MAX_SEED)
    store.edit(
        lambda p: storyboard.regenerate(
            p,
            p.clips[args.clip - 1].id,
            seed=seed,
            prompt=args.prompt,
            shown={c.clip.id: c.take.digest for c in planned.clips if c.take},
            scope="only_this" if args.only else "this_and_after",
        )
    )
    finish(store, preset, args, say)


def run_finalize(args: argparse.Namespace, say) -> None:
    store = Store.open(args.project)
    project = store.load()
    preset = preset_of(project, args)
    film.refuse_outgrown(store, preset)
    numbers = clip_numbers(args.clips, len(project.clips))
    # planned for --only alone: drafts cannot be planned with a preset that has lost its draft quality
    clips = film.plan(store, preset, project).clips if args.only else ()
    shown = {c.clip.id: c.take.digest for c in clips if c.take}
    store.edit(
        lambda p: storyboard.set_quality(
            p,
            [p.clips[number - 1].id for number in numbers],
            draft=False,
            shown=shown,
            scope="only_this" if args.only else "this_and_after",
        )
    )
    finish(store, preset, args, say)


def clip_numbers(text: str | None, count: int) -> list[int]:
    """The clips that “1,3-5” names, counted from 1; all of them for None."""
    if text is None:
        return list(range(1, count + 1))
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"“{part.strip()[:20]}” names no clip.", "Write numbers and ranges, for example 1,3-5.")
        numbers.update(range(int(first), min(int(last if dash else first), count + 1) + 1))
    wrong = sorted(number for number in numbers if not 1 <= number <= count)
    if wrong or not numbers:
        raise InputError(f"There is no clip {wrong[0] if wrong else text[:20]}: this film has {count}.")
    return sorted(numbers)


def run_remake(args: argparse.Namespace, say) -> None:
    """Copy the film for another model, or for its own at the size that it makes by now."""
    store = Store.open(args.project)
    named = args.preset and load_preset(args.preset, random_weights=random_weights(args))
    preset = named or preset_of(store.load(), args)
    copy = remake.remake(store, preset, args.out, hd=args.hd)
    made, words = copy.load(), f" --preset {args.preset}" if preset.name not in preset_names() else ""
    command = f"python -m engine generate --project {args.out}{words}"
    say(
        {
            "event": "film_remade",
            "path": str(args.out),
            "clips": len(made.clips),
            "size": str(made.resolution),
            "model": preset.title,
            "goes_on": "" if args.render else f"Make it: {command}",
        }
    )
    if args.render:
        args.project = args.out  # named when the run is cancelled
        for event in rendered(copy, preset):
            say(event)


def run_export(args: argparse.Namespace, say) -> None:
    store = Store.open(args.project)
    preset = preset_of(store.load(), args)
    export(store, preset, args.out, say)


def export(store: Store, preset: Preset, output: Path, say) -> None:
    """Write the film, and say who made its first picture where that was found by keywords."""
    say(film.export(store, preset, output))
    if credit := store.load().inputs.credit:
        say({"event": "credit", "text": film.credit_line(credit)})


def run_draft(args: argparse.Namespace, say) -> None:
    preset = load_preset(args.preset or Config.load().preset)
    config = Config.load(**{name: getattr(args, name) for name in DRAFTER_FLAGS})
    parse_keywords(args.keywords)  # refused before any picture is read
    brief = drafter.Brief(
        args.image,
        check_num_clips(args.clips),
        keywords=args.keywords,
        kind=drafter.KINDS[preset.variant(args.variant or "film").name],
        telling=Telling(tone=args.tone, pace=args.pace, language=args.language),
        seed=check_seed(args.seed or 0),
        vocabulary=vocabulary_of(preset),
    )
    choice = drafting.choose_here(config, preset)
    if args.image.is_dir():
        draft_folder(args, brief, choice, config, say)
    else:
        draft_one(args, brief, choice, config, say)


def draft_folder(args: argparse.Namespace, brief: drafter.Brief, choice: Choice, config: Config, say) -> None:
    pictures = drafting.named(drafting.pictures_in(args.image))
    if args.out is None:
        raise InputError("A folder of pictures needs a folder for its samples.", "Add --out FOLDER.")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out.name} is a file.", "Name a folder: --out FOLDER.")
    args.stopped = "Cancelled. Finished samples are safe; the same command goes on."
    say(drafting.announced(choice, brief.telling))
    with closing(drafting.write_samples(pictures, args.out, brief, choice, config)) as events:
        for event in events:
            say(event)


def draft_one(args: argparse.Namespace, brief: drafter.Brief, choice: Choice, config: Config, say) -> None:
    """Draft for one picture; what was drafted is kept in --out even when the draft does not get to its end."""
    form = writable(args.out) if args.out else None
    beats: list[Beat] = []
    num_written = 0
    args.stopped = "Cancelled. Nothing had been drafted."

    def keep(more: Sequence[Beat]) -> None:
        nonlocal num_written
        beats.extend(more)
        if form:
            storyline = Storyline(idea=brief.keywords, beats=tuple(beats), source=choice.source)
            with disk_errors_explained(args.out.name, safe=""):
                write_atomically(args.out, exchange.write(storyline, form).encode(), point="storyline")
            num_written = len(beats)

    def kept() -> str:
        return f"{num_written} of {brief.count} prompts are in {args.out.name}." if num_written else ""

    with drafting.imported(args.image) as anchor:
        say(drafting.announced(choice, brief.telling))
        if choice.source == "qwen":
            say(DrafterLoading(choice.title))
        with saying_what_is_kept(args, kept), drafting.opened(choice, config) as writer:
            for event in drafting.written(writer, replace(brief, picture=anchor), keep):
                say(event)
    say(StorylineDrafted(tuple(beat.prompt for beat in beats), choice.source))


@contextmanager
def saying_what_is_kept(args: argparse.Namespace, kept: Callable[[], str]) -> Iterator[None]:
    """Add to what stops a draft, be it Ctrl-C or an error, what of it is safe."""
    try:
        yield
    except KeyboardInterrupt:
        args.stopped = f"Cancelled. {kept()}".strip()
        raise
    except StudioError as err:
        raise type(err)(err.message, f"{err.hint} {kept()}".strip()) from err


def writable(out: Path) -> exchange.Format:
    """The format of a storyline's file, whose folder is made: refused before anything is drafted for it."""
    form = exchange.format_for(out)
    if out.is_dir():
        raise InputError(f"{out.name} is a folder.", "Name the file: --out STORY.txt.")
    with disk_errors_explained(out.name, safe="Nothing was drafted."):
        out.parent.mkdir(parents=True, exist_ok=True)
    return form


def run_batch(args: argparse.Namespace, say) -> None:
    from engine.batch import plan, runner
    from engine.batch.progress import Progress

    config = Config.load()
    tasks = plan.read_plan(args.plan, config, preset=args.preset, random_weights=random_weights(args))
    out = args.out or Path("runs") / args.plan.stem
    if out.exists() and not out.is_dir():
        raise InputError(f"{out.name} is a file.", "Name a folder: --out FOLDER.")
    if args.dry_run:
        films = [runner.described(task, out, config) for task in tasks]
        return say({"event": "batch_planned", "films": films}) if args.json else print_plan(films)
    args.stopped = "Cancelled. Finished clips are safe; the same command goes on."
    progress = None if args.json else Progress(sys.stdout)
    try:
        with closing(runner.Batch(tasks, out, config).run()) as events:
            for event in events:
                (progress or say)(event)
    finally:
        if progress:
            progress.close()


def print_plan(films: Sequence[dict]) -> None:
    """One line a film, and how much it is in all."""
    for film_ in films:
        line = f"{film_['film']:<28}  {film_['model']}, {film_['variant']}, {film_['task']}: "
        if "error" in film_:
            line += film_["error"]
        else:
            line += f"{film_['clips']} clips, {film_['frames']} frames, {film_['seconds']:.1f} s; {film_['storyline']}"
            line += f" ({film_['prompts']} prompt{'s' if film_['prompts'] != 1 else ''}"
            line += f", the last {film_['cut']} left out)" if film_.get("cut") else ")"
            line += f"; {film_['takes']} clips are there" if film_["takes"] else ""
        sys.stdout.write(line + "\n")
    clips, seconds = (sum(film_.get(key, 0) for film_ in films) for key in ("clips", "seconds"))
    sys.stdout.write(f"{len(films)} films, {clips} clips, {seconds:.1f} s. Nothing was started.\n")


def run_bench(args: argparse.Namespace, say) -> None:
    preset = load_preset(args.preset or Config.load().preset, random_weights=random_weights(args))
    if args.what == "memory":
        from engine.evaluation import memory

        report = memory.run(
            preset, cap_gb=args.cap_gb, size=args.size, steps=check_steps(args.steps), num_blocks=args.blocks
        )
        text = memory.table(report)
    elif args.what == "speed" and preset.family == "wan":
        report, text = bench_throughput(preset, args)
    elif args.what == "speed":
        from engine.evaluation import speed

        report = speed.run(preset, quick=args.quick)
        text = speed.table(report)
    elif args.what == "drift" and args.composed:
        report, text = bench_composed(preset, args)
    elif args.what == "drift":
        report, text = bench_drift(preset, args, say)
    else:
        from engine.evaluation import pocket_gates

        report = pocket_gates.run(preset, sheet=args.sheet)
        text = pocket_gates.table(report)
    if args.json:
        say({"event": f"bench_{args.what}"} | report)
    else:
        sys.stdout.write(text + "\n")


def bench_throughput(preset: Preset, args: argparse.Namespace) -> tuple[dict, str]:
    """A CFG step in every way and whole clips by phase: the report and its table."""
    from engine.evaluation import throughput

    report = throughput.run(
        preset,
        num_blocks=args.blocks,
        steps=check_steps(args.steps),
        clips=check_num_clips(args.clips) if args.clips is not None else None,
        size=args.size,
        compile_blocks=args.compile,
        quick=args.quick,
    )
    return report, throughput.table(report)


def bench_drift(preset: Preset, args: argparse.Namespace, say) -> tuple[dict, str]:
    """Measure what is missing in the folder, then read all of it: the report and its table."""
    from engine.evaluation import drift, drift_report, drift_tables

    settings = drift.Settings(
        num_clips=check_num_clips(50 if args.clips is None else args.clips),
        num_chains=args.chains,
        num_seeds=args.seeds,
        size=args.size or DRIFT_SIZE,
        num_inference_steps=check_steps(args.steps) or preset.num_inference_steps,
        num_frames=args.frames,
        variants=(args.variant,) if args.variant else tuple(preset.variants),
        loras=args.loras,
        strengths=args.strengths,
    )
    with closing(drift.measure(preset, settings, args.folder)) as progress:
        for event in progress:
            say(event)
    report = drift_report.report(preset, settings, args.folder)
    return report, drift_tables.table(report)


def bench_composed(preset: Preset, args: argparse.Namespace) -> tuple[dict, str]:
    """Mixed moves composed to the picture: the report and its table."""
    from engine.evaluation import composed

    report = composed.run(
        preset,
        num_clips=check_num_clips(50 if args.clips is None else args.clips),
        size=args.size or DRIFT_SIZE,
        num_frames=args.frames,
        num_inference_steps=check_steps(args.steps) or preset.num_inference_steps,
        variant=args.variant or "film",
    )
    return report, composed.table(report)


def run_train(args: argparse.Namespace, say) -> None:
    if args.dry_run:
        return run_preflight(args, say)
    from tqdm import tqdm

    from engine.training import trainer

    quiet = args.json or not sys.stderr.isatty()
    with (
        closing(trainer.train(args.config, changes=args.changes)) as progress,
        tqdm(unit="step", disable=quiet, dynamic_ncols=True) as bar,
    ):
        for record in progress:
            if record["kind"] == "step" and not quiet:
                bar.total = record["of"]
                bar.update(record["step"] - bar.n)
                bar.set_postfix(loss=record["loss"])
            else:
                say({"event": "train"} | record)


def run_preflight(args: argparse.Namespace, say) -> None:
    from engine.training import preflight
    from engine.training.plan import measure_tflops
    from engine.training.recipe import read_recipe

    config = read_recipe(args.config, args.changes)
    here = preflight.default_machine(config)
    sizes = {"gpus": args.gpus, "gpu_gb": args.gpu_gb, "ram_gb": args.ram_gb, "disk_gb": args.disk_gb}
    machine = preflight.on_machine(here, **sizes)
    tflops = measure_tflops(preflight.device_here()) if machine == here else None
    plan, notes = preflight.preflight(config, machine, strategy=args.strategy, tflops=tflops)
    if args.json:
        say({"event": "plan", "problems": list(plan.problems), "notes": notes, "table": plan.table()})
    else:
        sys.stdout.write("\n".join([*notes, plan.table()]) + "\n")


def run_export_lora(args: argparse.Namespace, say) -> None:
    from dataclasses import asdict

    from engine.training.export import export_lora
    from engine.training.preflight import transformer_of

    sizes = transformer_of(load_preset(args.preset or Config.load().preset), [])
    written = export_lora(args.lora, args.target, layout=args.format, transformer_config=sizes)
    say({"event": "lora_exported"} | asdict(written) | {"path": str(written.path)})


def run_quantise(args: argparse.Namespace, say) -> None:
    from engine.models.quantise import quantise

    preset = load_preset(args.preset)
    variant = args.variant or next(iter(preset.variants))
    for file in quantise(preset, variant, args.target, args.format, draft=args.draft):
        say({"event": "file_written", "path": str(file), "gigabytes": round(file.stat().st_size / 1e9, 3)})


def run_import_pickles(args: argparse.Namespace, say) -> None:
    from engine.training.pickles import ImportedClip, import_pickles

    for result in import_pickles(args.folder, args.target, trust_files=args.trust_files):
        kind = "clip_imported" if isinstance(result, ImportedClip) else "clip_skipped"
        say({"event": kind} | {key: str(value) for key, value in vars(result).items()})


# ---- shared by the commands


def finish(store: Store, preset: Preset, args: argparse.Namespace, say) -> None:
    """Render what is missing, then export when asked to."""
    for event in rendered(store, preset):
        say(event)
    if args.out:
        export(store, preset, args.out, say)


def rendered(store: Store, preset: Preset) -> Iterator[Event]:
    """Events of rendering; the model is loaded only when a clip is missing."""
    if film.plan(store, preset).next is not None:
        film.refuse_outgrown(store, preset)
        yield ModelLoading(preset.name)
        with closing(backends.open_backend(preset)) as backend:
            events = film.render(store, backend, preset, reserve_bytes=Config.load().reserve_bytes)
            with closing(events):
                yield from events
    yield JobDone(len(store.load().clips))


def check_out(out: Path | None) -> None:
    """Refuse a film name that cannot work before any clip is rendered for it."""
    if out is None:
        return
    if out.suffix.lower() != ".mp4":
        raise InputError(f"The film is an MP4: {out.name} must end in .mp4.")
    if out.is_dir():
        raise InputError(f"{out.name} is a folder.", "Name the file: --out FILM.mp4.")
    if any(parent.exists() and not parent.is_dir() for parent in out.absolute().parents):
        raise InputError(f"{out} cannot be a file: one of its folders is a file.", "Choose another path.")


def random_weights(args: argparse.Namespace) -> bool:
    return args.random_weights or Config.load().random_weights


def preset_of(project: Project, args: argparse.Namespace) -> Preset:
    """The project's own preset; a preset file must be named again, under the same name."""
    if not args.preset and project.preset not in preset_names():
        raise InputError(
            f"This film was made with a preset file called “{project.preset}”.", "Name it again: --preset FILE.yaml."
        )
    preset = load_preset(args.preset or project.preset, random_weights=random_weights(args))
    if preset.name != project.preset:
        raise InputError(f"This project was made with the preset “{project.preset}”, not “{preset.name}”.")
    return preset


def story_from(args: argparse.Namespace) -> WrittenStoryline | None:
    """What --prompts or --prompt says, if either was given."""
    if args.prompts and args.prompt:
        raise InputError("Give either --prompts FILE or --prompt TEXT, not both.")
    if args.prompts:
        return exchange.read_file(args.prompts)
    return WrittenStoryline(clips=(WrittenClip(prompt=args.prompt),)) if args.prompt is not None else None


def draft_more(store: Store, preset: Preset, count: int, args: argparse.Namespace, say) -> None:
    """Add `count` clips that continue the story so far, from the last frame where the last clip is made.

    Every beat is in the film as soon as it is there, so that nothing of a draft that is stopped is lost.
    """
    if count <= 0:
        return
    project, config = store.load(), Config.load()
    row, total = preset.variant(project.variant), len(project.clips) + count
    needed = storyboard.beats_needed(project, count, row)

    def keep(beats: Sequence[Beat]) -> None:
        store.edit(lambda p: storyboard.continue_with(p, beats, total - len(p.clips), row))

    def kept() -> str:
        added = len(store.load().clips) - len(project.clips)
        goes_on = f"Go on with: python -m engine generate --project {store.folder} --clips {total}"
        return (
            f"{added} of {count} clips are added to the storyline. {goes_on}" if added > 0 else "The film is as it was."
        )

    if not needed:
        return keep([])
    planned = film.plan(store, preset, project).clips
    last = planned[-1].take if planned and planned[-1].status == "done" else None
    frame = takes_on_disk.last_frame(store.take_folder(last.digest)) if last else None
    brief = drafter.brief_for(
        project,
        preset,
        frame or store.anchor_file(project),
        count=needed,
        so_far=storyboard.prompts_so_far(project),
        is_last_frame=frame is not None,
        seed=project.seed,
    )
    choice = drafting.choose_here(config, preset)
    say(drafting.announced(choice, project.telling))
    if choice.source == "qwen":
        say(DrafterLoading(choice.title))
    with saying_what_is_kept(args, kept), drafting.opened(choice, config) as writer:  # closed before a film is made
        for event in drafting.written(writer, brief, keep):
            say(event)


def check_steps(steps: int | None) -> int | None:
    if steps is not None and not 1 <= steps <= 200:
        raise InputError(f"--steps must be from 1 to 200, got {steps}.")
    return steps


def resolution(text: str) -> Resolution:
    """WxH, as in 96x64."""
    width, _, height = text.replace("×", "x").partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT, for example 96x64; got {text}")
    try:
        return Resolution(int(width), int(height))
    except InputError as err:
        raise argparse.ArgumentTypeError(err.message.removesuffix(".")) from err


def strengths(text: str) -> tuple[float, ...]:
    """Numbers with commas between them, as in 0.2,0.4."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value <= 1.5 for value in values):
        raise argparse.ArgumentTypeError(f"strengths are numbers up to 1.5 with commas between them; got {text}")
    return values


class Parser(argparse.ArgumentParser):
    """Bad flags exit with 2 and one line, like every other bad input."""

    def error(self, message: str) -> None:  # type: ignore[override]
        sys.stderr.write(f"{self.prog}: {message}. Try {self.prog} --help.\n")
        raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="python -m engine", description="Make films longer than five seconds, clip by clip.")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, run, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--json", action="store_true", help="print one JSON object per event")
        sub.add_argument("--verbose", action="store_true", help="log to stderr")
        sub.set_defaults(run=run)
        return sub

    command("doctor", run_doctor, "Say what this machine can run.")
    add_film_commands(command)
    add_bench(command)
    add_model_commands(command)
    weights.add_parser(commands)
    return top


def add_film_commands(command: Command) -> None:
    sub = command("generate", run_generate, "Make a film from a picture, or continue the one in --project.")
    sub.add_argument("--image", type=Path, metavar="PICTURE", help="PNG, JPEG or WebP")
    add_prompts(sub)
    sub.add_argument("--variant", choices=sorted(VARIANTS), help="film: a story that moves on; shot: one steady scene")
    sub.add_argument("--seed", type=int, metavar="N", help="the film's seed (default 0)")
    sub.add_argument("--steps", type=int, metavar="N", help="denoising steps per clip")
    sub.add_argument("--hd", action="store_true", help="the preset's large sizes, where it has any")
    sub.add_argument("--draft", action="store_true", help="few steps with the preset's distilled LoRAs")
    sub.add_argument(
        "--project", type=Path, metavar="DIR", help="where the film lives (default: a folder in projects/)"
    )
    add_preset(sub, runs=True)
    add_out(sub)

    sub = command("extend", run_extend, "Add clips to the end of a film.")
    sub.add_argument("--project", type=Path, required=True, metavar="DIR")
    add_prompts(sub)
    add_preset(sub, runs=True)
    add_out(sub)

    sub = command("regenerate", run_regenerate, "Make another take of one clip, and of all that follow from it.")
    sub.add_argument("--project", type=Path, required=True, metavar="DIR")
    sub.add_argument("--clip", type=int, required=True, metavar="K", help="counted from 1")
    sub.add_argument("--prompt", metavar="TEXT")
    sub.add_argument("--seed", type=int, metavar="N")
    sub.add_argument("--only", action="store_true", help="keep later clips as they are (the join may jump)")
    add_preset(sub, runs=True)
    add_out(sub)

    sub = command("finalize", run_finalize, "Make draft clips again in full quality, with the same prompts and seeds.")
    sub.add_argument("--project", type=Path, required=True, metavar="DIR")
    sub.add_argument("--clips", metavar="1,3-5", help="only these (default: all); drafts after them follow")
    sub.add_argument("--only", action="store_true", help="keep the other clips as they are (the joins may jump)")
    add_preset(sub, runs=True)
    add_out(sub)

    sub = command("remake", run_remake, "Copy a film for another model: the same storyline, seeds and picture.")
    sub.add_argument("--project", type=Path, required=True, metavar="DIR", help="the film; it stays as it is")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the copy will live")
    sub.add_argument("--hd", action="store_true", help="the preset's large sizes, where it has any")
    sub.add_argument("--render", action="store_true", help="make its clips at once")
    add_preset(sub, runs=True, default="the film's own")

    sub = command("export", run_export, "Join the finished clips into one MP4.")
    sub.add_argument("--project", type=Path, required=True, metavar="DIR")
    add_preset(sub, runs=True)
    add_out(sub, required=True)

    sub = command("batch", run_batch, "Make many films from a plan; a stopped run goes on.")
    sub.add_argument("plan", type=Path, metavar="PLAN.yaml")
    sub.add_argument("--out", type=Path, metavar="FOLDER", help="films, samples, MP4s and summary (default: runs/PLAN)")
    sub.add_argument("--dry-run", action="store_true", help="print what would be made, and start nothing")
    add_preset(sub, runs=True)

    sub = command("draft", run_draft, "Write a storyline for a picture.")
    sub.add_argument(
        "--image", type=Path, required=True, metavar="PICTURE|FOLDER", help="a folder: one storyline a picture; resumes"
    )
    sub.add_argument("--keywords", default="", metavar="“dog, street”")
    sub.add_argument("--clips", type=int, required=True, metavar="N")
    sub.add_argument("--variant", choices=sorted(VARIANTS))
    sub.add_argument("--tone", choices=get_args(Tone), default="as the picture")
    sub.add_argument("--pace", choices=get_args(Pace), default="steady")
    sub.add_argument("--language", choices=sorted(LANGUAGES), default="en", help="of the captions; prompts are English")
    sub.add_argument("--seed", type=int, metavar="N")
    add_drafter(sub)
    add_preset(sub)
    sub.add_argument(
        "--out",
        type=Path,
        metavar="FILE|FOLDER",
        help="a file for generate (.txt .json .md .py), or a folder of samples",
    )


def add_drafter(sub: argparse.ArgumentParser) -> None:
    who = sub.add_argument_group("who writes", "also SVI_DRAFTER, SVI_ENDPOINT_URL …; the key only as SVI_ENDPOINT_KEY")
    who.add_argument("--drafter", choices=get_args(Drafter))
    who.add_argument("--drafter-model", metavar="ID|FOLDER", help="a Qwen-VL, for example Qwen/Qwen2.5-VL-3B-Instruct")
    who.add_argument("--drafter-precision", choices=PRECISIONS)
    who.add_argument("--endpoint-url", metavar="URL", help="of an OpenAI-compatible server, ending in /v1")
    who.add_argument("--endpoint-model", metavar="NAME")


def add_bench(command: Command) -> None:
    sub = command(
        "bench", run_bench, "Measure: speed, memory tiers, the embedded model, or its drift, against what was expected."
    )
    sub.add_argument("what", choices=("speed", "memory", "pocket", "drift"))
    sub.add_argument("--quick", action="store_true", help="a smaller run (speed)")
    speed = sub.add_argument_group("speed of a Wan preset", "--steps, --clips and --size are those of its clips")
    speed.add_argument("--blocks", type=int, metavar="N", help="so many blocks of the published width (random weights)")
    speed.add_argument("--compile", action="store_true", help="compile the blocks on a CPU too: takes minutes")
    sub.add_argument("--cap-gb", type=float, metavar="GB", help="make do with so much GPU memory (memory)")
    sub.add_argument("--sheet", type=Path, metavar="SHEET.png", help="write a contact sheet (pocket)")
    drift = sub.add_argument_group("drift", "the same long films from every LoRA, measured; a stopped run goes on")
    drift.add_argument("--clips", type=int, metavar="N", help="clips a film (default 50)")
    drift.add_argument("--chains", type=int, default=20, metavar="N", help="pictures and prompts (default 20)")
    drift.add_argument("--seeds", type=int, default=3, metavar="N", help="prompts and noise for each (default 3)")
    drift.add_argument("--size", type=resolution, metavar="WxH", help=f"default {DRIFT_SIZE.width}x{DRIFT_SIZE.height}")
    drift.add_argument("--frames", type=int, default=25, metavar="N", help="frames a clip (default 25)")
    drift.add_argument("--composed", action="store_true", help="mixed moves, composed to the picture, instead")
    drift.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the preset's)")
    drift.add_argument("--variant", choices=sorted(VARIANTS), help="only this one")
    drift.add_argument("--strengths", type=strengths, default=(), metavar="0.2,0.4", help="more LoRA strengths")
    drift.add_argument("--loras", type=Path, metavar="DIR", help="more arms: VARIANT-NAME.safetensors, for ablations")
    drift.add_argument("--out", type=Path, dest="folder", default=Path("runs/drift"), metavar="DIR", help="results")
    add_preset(sub, runs=True)


def add_model_commands(command: Command) -> None:
    sub = command("train", run_train, "Train a model from a recipe; resumes where it stopped.")
    sub.add_argument("config", type=Path, metavar="CONFIG.yaml")
    sub.add_argument(
        "--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help="change the recipe (repeatable)"
    )
    sub.add_argument("--dry-run", action="store_true", help="print memory, disk and time, and start nothing")
    sub.add_argument("--gpus", type=int, metavar="N", help="plan for so many GPUs (dry run)")
    sub.add_argument("--gpu-gb", type=float, metavar="GB", help="of so much memory each (dry run)")
    sub.add_argument("--ram-gb", type=float, metavar="GB", help="of so much host memory (dry run)")
    sub.add_argument("--disk-gb", type=float, metavar="GB", help="of so much free disk (dry run)")
    sub.add_argument(
        "--strategy", choices=("plain", "zero2", "fsdp"), default="plain", help="how ranks share (dry run)"
    )

    sub = command("export-lora", run_export_lora, "Write a LoRA in the spelling of another program.")
    sub.add_argument("lora", type=Path, metavar="LORA.safetensors")
    sub.add_argument("--format", choices=("diffusers", "upstream", "comfy"), required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors", dest="target")
    add_preset(sub)

    sub = command("quantise", run_quantise, "Fuse a preset's LoRAs, then write its transformers as GGUF files.")
    sub.add_argument("--preset", required=True, metavar="NAME|FILE.yaml")
    sub.add_argument("--variant", choices=sorted(VARIANTS), help="whose LoRA is fused (default: the preset's first)")
    sub.add_argument("--draft", action="store_true", help="fuse the draft's distilled LoRAs as well")
    sub.add_argument("--format", choices=("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"), default="Q8_0")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.gguf", dest="target")

    sub = command("import-pickles", run_import_pickles, "Turn upstream's pickled Talk and Dance data into videos.")
    sub.add_argument("folder", type=Path, metavar="FOLDER")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER", dest="target")
    sub.add_argument("--trust-files", action="store_true", help="read the pickles; only plain data is allowed in them")


def add_prompts(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--prompts", type=Path, metavar="FILE", help="text, JSON, Markdown, or upstream's file")
    sub.add_argument("--prompt", metavar="TEXT", help="one prompt for every clip")
    sub.add_argument("--clips", type=int, metavar="N", help="how many clips")


def add_preset(sub: argparse.ArgumentParser, *, runs: bool = False, default: str = "pocket") -> None:
    sub.add_argument("--preset", metavar="NAME|FILE.yaml", help=f"the model and its settings (default: {default})")
    if runs:
        sub.add_argument(
            "--random-weights", action="store_true", help="run a Wan preset without its files; results are marked"
        )


def add_out(sub: argparse.ArgumentParser, required: bool = False) -> None:
    sub.add_argument("--out", type=Path, metavar="FILM.mp4", required=required, help="write the joined film here")

"""`python -m engine weights list|plan|download|verify|import`: what is printed, and nothing else."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from engine.config import Config, load_preset, models_dir
from engine.errors import ConfigError, InputError, WeightsMismatch, WeightsMissing
from engine.events import Event
from engine.weights.inventory import (
    Item,
    Wanted,
    bytes_known,
    bytes_missing,
    in_words,
    items,
    rows_of,
    state_of,
    state_of_all,
)
from engine.weights.lock import read_lock
from engine.weights.manifest import Entry, manifest
from engine.weights.needs import needs_of

Say = Callable[[dict], None]
STOPPED = "Stopped. What has arrived is kept; the same command goes on from there."


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `weights` with its five actions to the engine's commands."""
    help = "Say which weights there are, and fetch, check or take over some."
    actions = commands.add_parser("weights", help=help, description=help).add_subparsers(
        required=True, metavar="ACTION"
    )

    def action(name: str, run, help: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=help, description=help)
        sub.add_argument("--json", action="store_true", help="print one JSON object per event")
        sub.add_argument("--verbose", action="store_true", help="log to stderr")
        sub.set_defaults(run=run, stopped=STOPPED)
        return sub

    def preset(sub: argparse.ArgumentParser, **more: bool) -> None:
        sub.add_argument("--preset", metavar="NAME|FILE.yaml", help="what this preset needs", **more)
        sub.add_argument("--variant", metavar="NAME", help="for this variant of it only")

    action("list", run_list, "Show all weights that the studio knows, and which are here.")
    sub = action("plan", run_plan, "Show what a preset needs, what is missing, and whether the disk has room.")
    preset(sub, required=True)
    sub = action("download", run_download, "Fetch weights from the Hugging Face Hub; resumes where it stopped.")
    sub.add_argument("ids", nargs="*", metavar="ID", help="as “weights list” shows them")
    preset(sub)
    sub = action("verify", run_verify, "Read every byte of the weights that are here and compare hashes.")
    sub.add_argument("ids", nargs="*", metavar="ID", help="only these (default: all that are here)")
    sub.add_argument("--all", action="store_true", help="all that are here")
    sub = action("import", run_import, "Take over weights that are on this machine already.")
    sub.add_argument(
        "path", type=Path, metavar="PATH", help="a file, a Hugging Face cache, ComfyUI's or upstream's folder"
    )
    sub.add_argument("--as", dest="as_id", metavar="ID", help="what it is, when names do not tell")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--copy", dest="how", action="store_const", const="copy", help="copy instead of linking")
    how.add_argument("--link", dest="how", action="store_const", const="link", help="link or refuse, never copy")


def run_list(args: argparse.Namespace, say: Say) -> None:
    models = models_dir()
    lock = read_lock(models)
    rows = []
    for entry in manifest().entries:
        files = items(rows_of([entry]), models, lock)
        size, exact = bytes_known(entry, files)
        state = state_of_all([state_of(item, models, lock) for item in files])
        rows.append({"id": entry.id, "state": state, "bytes": size, "exact": exact} | _about(entry))
    if args.json:
        say({"event": "weights_list", "models": str(models), "weights": rows})
        return
    for row in rows:
        size = "?" if row["bytes"] is None else ("" if row["exact"] else "about ") + in_words(row["bytes"])
        _write(f"{row['state']:<10}  {row['id']:<28}  {size:>14}  {row['title']}: {row['use']} · {row['licence']}")
    _write(f"Models folder: {models}")


def _about(entry: Entry) -> dict:
    return entry.model_dump(include={"title", "use", "repo", "revision", "layout", "base", "licence", "licence_source"})


def run_plan(args: argparse.Namespace, say: Say) -> None:
    from engine.weights.download import free_bytes

    wanted, unknown = _needs(args)
    models = models_dir()
    lock = read_lock(models)
    files, source = _as_on_the_hub(wanted, models)
    states = {item.key: state_of(item, models, lock) for item in files}
    states |= {path: "ready" if (models / path).exists() else "missing" for path in unknown}
    missing = [item for item in files if states[item.key] in ("missing", "partial", "damaged")]
    missing_bytes, how_sure = bytes_missing(missing)
    free = free_bytes(models)
    enough = free >= missing_bytes + Config.load().reserve_bytes
    if args.json:
        say(
            {"event": "weights_plan", "preset": args.preset, "models": str(models), "source": source}
            | {"files": [{"file": i.key, "entry": i.entry.id, "state": states[i.key], "bytes": i.size} for i in files]}
            | {"missing_files": len(missing), "missing_bytes": missing_bytes, "how_sure": how_sure, "free_bytes": free}
            | {"enough_room": enough, "unknown": {path: states[path] for path in unknown}}
        )
        return
    for item in files:
        _write(f"{states[item.key]:<10}  {in_words(item.size) if item.size is not None else '?':>10}  {item.key}")
    for path in unknown:
        _write(f"{states[path]:<10}  {'?':>10}  {path} (not in the manifest)")
    _write(source)
    if not missing:
        _write("Nothing is missing.")
        return
    total = f"{how_sure} {in_words(missing_bytes)}".removeprefix("exactly ")
    _write(f"To fetch: {len(missing)} files, {total}. Free: {in_words(free)}" + ("." if enough else ", too little."))
    _write(f"python -m engine weights download --preset {args.preset}")


def _as_on_the_hub(wanted: list[Wanted], models: Path) -> tuple[list[Item], str]:
    """The files of `wanted` with the Hub's sizes, and where the sizes are from; without a connection, what is known."""
    from engine.weights.download import find_remotes
    from engine.weights.hub import Hub

    try:
        remotes = find_remotes(wanted, Hub(timeout_s=10.0), read_lock(models), pause=lambda _: None, tries=1)
        return [remote.item for remote in remotes], "Names and sizes as the Hub lists them."
    except (WeightsMissing, WeightsMismatch) as err:
        return items(wanted, models, read_lock(models)), f"Names and sizes as far as known here. {err.message}"


def run_download(args: argparse.Namespace, say: Say) -> None:
    from tqdm import tqdm

    from engine.weights.download import WeightsPlanned, WeightsProgress, download
    from engine.weights.hub import Hub

    if bool(args.ids) == bool(args.preset):
        raise InputError("Name what to fetch: IDs, or --preset NAME.", "python -m engine weights list shows the IDs.")
    wanted, unknown = _needs(args) if args.preset else (rows_of(manifest().entry(id_) for id_ in args.ids), ())
    events = download(wanted, Hub(), models_dir(), reserve_bytes=Config.load().reserve_bytes)
    quiet = args.json or not sys.stderr.isatty()
    with closing(events), tqdm(unit="B", unit_scale=True, disable=quiet, dynamic_ncols=True) as bar:
        progress = Progress(bar)
        for event in events:
            if isinstance(event, WeightsPlanned):
                bar.total = event.bytes
            if isinstance(event, WeightsProgress) and not args.json:
                progress.show(event)
            else:
                _show(event, args, say)
    absent = [path for path in unknown if not (models_dir() / path).exists()]
    if absent:
        raise WeightsMissing(f"The studio does not know where to fetch {absent[0]} from.", "Put it there yourself.")


class Progress:
    """Bytes of one file after the other on one bar; what was here from an earlier run does not count."""

    def __init__(self, bar) -> None:
        self.bar, self.file, self.before = bar, "", 0

    def show(self, event) -> None:
        if event.file != self.file:
            self.bar.set_description(event.file.rpartition("/")[2])
            self.file, self.before = event.file, self.bar.n - event.done
        self.bar.update(self.before + event.done - self.bar.n)


def run_verify(args: argparse.Namespace, say: Say) -> None:
    from engine.weights.verify import entries_here, verify

    models = models_dir()
    chosen = [manifest().entry(id_) for id_ in args.ids]
    entries = chosen or entries_here(manifest().entries, models, read_lock(models))
    if not entries and not args.json:
        _write("There are no weights in the models folder.")
    wrong = [event for event in _shown(verify(entries, models), args, say) if event.is_wrong]
    if wrong:
        first = wrong[0]
        raise WeightsMismatch(
            f"{len(wrong)} files are not as they should be, first {first.file} ({first.reason or first.result}).",
            f"To get it again, delete it and run: python -m engine weights download {first.entry}",
        )


def run_import(args: argparse.Namespace, say: Say) -> None:
    from engine.weights.local_files import WeightsImported, import_weights

    entries = [manifest().entry(args.as_id)] if args.as_id else list(manifest().entries)
    events = import_weights(
        args.path,
        entries,
        models_dir(),
        how=args.how or "any",
        reserve_bytes=Config.load().reserve_bytes,
        chosen=bool(args.as_id),
    )
    if not any([isinstance(event, WeightsImported) for event in _shown(events, args, say)]):
        raise InputError(f"Nothing at {args.path.name} was taken over.", "Name it with --as ID, or download it.")


def _needs(args: argparse.Namespace) -> tuple[list[Wanted], tuple[str, ...]]:
    """What the preset of the command line needs: rows of the manifest, and paths that it does not know."""
    preset = load_preset(args.preset)
    if args.variant:
        preset.variant(args.variant)
    needs = needs_of(preset, variant=args.variant)
    if not needs.wanted and not needs.unknown:
        raise ConfigError(f"The preset “{preset.name}” needs nothing from the models folder.", "It brings its weights.")
    return list(needs.wanted), needs.unknown


def _shown(events: Iterator[Event], args: argparse.Namespace, say: Say) -> Iterator[Event]:
    for event in events:
        _show(event, args, say)
        yield event


def _show(event: Event, args: argparse.Namespace, say: Say) -> None:
    data = event.to_json()
    if args.json:
        say(data)
        return
    match data["event"]:
        case "weights_planned":
            text = f"{data['files']} files to fetch, {in_words(data['bytes'])}; {in_words(data['free'])} are free."
        case "weights_interrupted":
            text = f"{data['file']}: {data['reason']}; going on at {in_words(data['done'])}."
        case "weights_ready":
            text = f"{'fetched' if data['fetched'] else 'was here'}  {in_words(data['bytes']):>10}  {data['file']}"
        case "weights_checked":
            text = f"{data['result']:<10}  {data['file']}" + (f": {data['reason']}" if data["reason"] else "")
        case "weights_imported":
            text = f"{data['how']:<13}  {data['file']}  from {data['source']}"
        case "weights_skipped":
            text = f"left out       {data['source']}: {data['reason']}"
        case _:
            text = json.dumps(data, ensure_ascii=False)
    _write(text)


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

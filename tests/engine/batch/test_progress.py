import io

from engine.batch.progress import CLEAR, Progress
from engine.batch.summary import FilmRow, markdown
from engine.events import BeatDrafted, ClipStarted, ClipStep, FilmEnded, FilmStarted, ItemFailed

EVENTS = (
    BeatDrafted(0, "night falls \x1b[2J over the harbour, " + "and on and on " * 20),
    ItemFailed("broken", "No picture \x1b]0;x\x07 here.", "Save it again."),
    FilmStarted("cat", 0, 2, 3, 1),
    ClipStarted("0" * 26, 1, "0" * 64, "night", 0, 1),
    ClipStep("0" * 26, 1, 2, 4, 0.1),
    FilmEnded("cat", 0, "finished", 3, 4.0, 12.0),
)


def shown(is_terminal):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    progress = Progress(stream)
    for event in EVENTS:
        progress(event)
    progress.close()
    return stream.getvalue()


def test_a_terminal_shows_what_is_going_on_in_one_line_that_does_not_wrap():
    text = shown(True)
    settled = text.split("\n")
    assert len(settled) == 3 and "clip 2 of 3, step 2 of 4" in settled[1]
    assert len(text.split(CLEAR)[1]) == 78
    assert "\x1b" not in text.replace(CLEAR, "") and "\x07" not in text


def test_a_file_gets_settled_lines_only():
    lines = shown(False).splitlines()
    assert len(lines) == 2 and "\x1b" not in shown(False)
    settled = "cat 1 of 2 3 of 3 clips, 4.0 s of film, finished, made in 12 s"
    assert " ".join(lines[1].split()) == settled


def test_what_went_wrong_cannot_break_the_summary_apart():
    row = FilmRow(name="a", model="tiny", variant="film", task="creative", error="x.png | <img src=x>\n| `y`")
    text = markdown([row])
    assert text.splitlines()[-1] == "- a: x.png \\| \\<img src=x\\> \\| \\`y\\`"
    assert "| a | tiny, film | creative |  | 0 of ? | 0 |" in text

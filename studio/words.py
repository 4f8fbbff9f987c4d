"""Numbers as people say them."""

import math


def clips_text(count: int) -> str:
    return f"{count} clip" if count == 1 else f"{count:,} clips"


def steps_text(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def eta_text(seconds: float | None) -> str:
    """Plain words that do not jump: “a few seconds”, “about 40 s”, “3–4 min”, “about 1 h 20 min”."""
    if seconds is None:
        return "measuring"
    if seconds <= 5:
        return "a few seconds"
    if seconds <= 55:
        return f"about {max(10, math.ceil(seconds / 10) * 10)} s"
    if seconds <= 75:
        return "about 1 min"
    minutes = seconds / 60
    if minutes < 10:
        low = math.floor(minutes)
        return f"{low}–{low + 1} min"
    if minutes < 55:
        return f"about {math.ceil(minutes / 5) * 5} min"
    hours, rest = divmod(math.ceil(minutes / 10) * 10, 60)
    return f"about {hours} h {rest} min" if rest else f"about {hours} h"


def cards_text(count: int) -> str:
    return "no card" if not count else f"{count} card" if count == 1 else f"{count:,} cards"

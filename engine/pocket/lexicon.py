"""The words that the embedded model hears: each belongs to a concept, and only concepts reach its text encoder.

A word that is not here changes nothing, whatever stands beside it: it never arrives. Verbs have a second concept for
the third person ("pans"), which asks for nothing without its subject: a dog that moves left is not the camera. Plain
Python.
"""

import re
from functools import cache

# concept: nouns and adjectives as they stand (a plural is added, but not after "="), verbs after "to"
_WORDS = {
    # who moves
    "camera": "camera cam view shot frame lens viewpoint perspective viewer drone gimbal cameraman cinematographer pov",
    "agent": """man woman boy girl child kid person people crowd dog cat horse bird ship boat train car bus bike
        truck plane dancer singer actor tourist fisherman sailor walker rider runner player soldier king queen baby
        mother father friend stranger hero heroine figure couple family animal fish whale dolphin wolf fox bear lion
        tiger cheetah deer rabbit duck swan seagull gull eagle owl crow pigeon butterfly bee insect dragon robot
        astronaut rocket balloon kite ball wheel door curtain flag he she they it someone somebody everybody children
        men women tram taxi lorry sheep cow goat pig chicken monkey elephant teacher student doctor farmer monk painter
        knight nurse detective cyclist puppy kitten guest waiter pilot captain driver baker violinist hunter neighbour
        neighbor soldier schoolgirl schoolboy grandmother grandfather tailor juggler""",
    # camera
    "pan": "to:pan to:sweep to:track to:scroll to:swivel to:swing",
    "slide": "to:slide to:glide to:travel to:shift to:pass to:sail to:fly",
    "move": "to:move to:go to:head to:walk to:step to:run movement motion",
    "drift": "to:drift to:float to:hover",
    "turn": "to:turn",
    "look": "to:look to:point to:gaze to:peer to:glance",
    "tilt": "to:tilt",
    "rise": "to:rise to:climb to:ascend to:lift to:raise to:soar",
    "sink": "to:sink to:descend to:lower to:drop to:dip",
    "left": "left leftward leftwards leftmost",
    "right": "right rightward rightwards rightmost",
    "up": "up upward upwards skyward skywards overhead",
    "down": "down downward downwards groundward below",
    "zoom": "to:zoom",
    "push": "to:push to:dolly to:creep to:edge to:crawl",
    "pull": "to:pull",
    "in": "in into inward inwards toward towards forward forwards",
    "out": "out outward outwards",
    "closer": "closer nearer =close near closeup tighter tight",
    "away": "away back backward backwards wider wide farther further",
    "widen": "to:widen to:open to:reveal to:uncover",
    "approach": "to:approach to:advance to:near to:tighten to:magnify to:enlarge",
    "retreat": "to:retreat to:recede to:withdraw",
    "roll": "to:roll to:rotate to:spin to:bank to:lean to:cant rotation",
    "clockwise": "clockwise",
    "counter": "counterclockwise anticlockwise counter anti",
    "sideways": "sideways sideway askew diagonal diagonally",
    "handheld": "handheld shaky jittery wobbly unsteady held to:shake to:wobble to:jitter",
    "wander": "to:wander to:roam to:meander to:explore freely aimlessly somewhere",
    # how
    "not": "no not never without don doesn isn aren won wouldn didn wasn cannot nor neither none avoid lack lacking",
    "little": """little slightly bit slight subtle subtly barely faint faintly small tad somewhat hint touch partly
        partially half tiny mild mildly""",
    "far": """far completely fully entirely entire all whole dramatic dramatically deep deeply long strong
        strongly heavy heavily great greatly huge hugely much lot big extreme extremely very totally intense
        intensely thick dense massive wildly""",
    "slow": """slow slowly slower gradual gradually gentle gently leisurely unhurried softly lazily patiently
        steadily smooth smoothly""",
    "fast": """quick quickly fast faster rapid rapidly sudden suddenly swift swiftly brisk briskly abrupt abruptly
        hurried hastily instantly snappy""",
    # nothing
    "still": """still static motionless unmoving locked calm calmly quiet quietly unchanged nothing same fixed
        immobile peaceful serene tranquil stationary unaltered""",
    "stay": "to:stay to:remain to:wait to:rest to:pause to:hold to:stand to:keep",
    "stop": "to:stop to:cease to:end to:halt to:die to:fade to:vanish to:disappear to:subside",
    "change": "to:change to:alter to:happen to:transform",
    # hours and weather
    "night": "night midnight nightfall nighttime moonlight moonlit moon moonrise darkness nocturnal",
    "dark": "dark darker black blackness to:darken dim dimmer to:dim gloom gloomy",
    "sunrise": "sunrise dawn morning daybreak sunup",
    "gold": "golden gold amber warm warmly",
    "noon": "noon midday daylight sunny sunshine daytime sunlit cloudless noonday sunlight",
    "bright": "bright brighter brightly to:brighten",
    "clear": "to:clear clearer clearing",
    "sunset": "sunset dusk evening twilight sundown afterglow nightglow",
    "sun": "sun",
    "set": "sets setting set",
    "fog": "fog mist haze foggy misty hazy murky",
    "storm": "storm thunder thunderstorm stormy tempest lightning overcast thundercloud hurricane thundery",
    "rain": "rain rainy raining drizzle downpour shower rainfall raindrop rainstorm",
    "cloud": "cloud cloudy clouds",
    "autumn": "autumn october november autumnal september",
    "leaf": "leaf leaves foliage",
    "brown": "brown yellow orange red crimson copper ochre rust",
    "winter": """winter frost frosty ice icy snowy cold wintry december january february snowbound frozen wintertime
        to:freeze hoarfrost""",
    "snow": "snow snowfall snowflake blizzard flurry snowing flake snowstorm",
    "fall": "to:fall",
    "light": "=light glow lighting",
    "colour": "colour color tone hue",
    "weather": "weather sky skies day hour time season",
    "white": "white pale",
    # what lives in a picture
    "water": """water sea lake river ocean pond stream pool bay canal tide surf brook lagoon harbour harbor creek
        fjord shore""",
    "wave": "wave ripple to:ripple to:lap to:shimmer to:glisten to:splash to:undulate swell wavelet",
    "tree": """tree grass reed branch bush wheat forest palm meadow flower plant leafage bough twig fern corn crop
        blossom canopy wood hedge pine oak willow birch""",
    "sway": "to:sway to:rustle to:bend to:flutter to:tremble to:stir to:quiver waving waved",
    "wind": "wind breeze gust windy breezy gale",
    "blow": "to:blow",
    "smoke": "smoke steam vapour vapor fume",
    "lamp": "lamp star lantern candle lights window streetlight bulb headlight firefly fireflies fire flame torch",
    "twinkle": "to:twinkle to:flicker to:glitter to:sparkle to:blink to:gleam to:shine",
    # how clauses hang together
    "and": "and plus with also",
    "while": "while as when during until",
    "then": "then afterwards after later next finally",
    "but": "but yet except only",
    "come": """to:come to:arrive to:begin to:start to:gather to:cover to:spread to:reach to:grow to:become to:get
        to:appear to:break to:fill to:bring to:enter to:envelop to:wrap to:hide to:emerge to:settle to:swallow
        to:thicken to:bury to:blanket""",
    "over": "over across along around through past above",
    "on": "on onto upon",
    "to": "to",
    "from": "from",
}
_IRREGULAR = {
    "run": "runs running ran", "bury": "buries burying buried", "step": "steps stepping stepped",
    "go": "goes going gone went", "rise": "rises rising risen rose", "fall": "falls falling fallen fell",
    "come": "comes coming came", "begin": "begins beginning begun began", "fly": "flies flying flown flew",
    "sink": "sinks sinking sunk sank", "spin": "spins spinning spun", "swing": "swings swinging swung",
    "hold": "holds holding", "stand": "stands standing stood", "keep": "keeps keeping kept",
    "freeze": "freezes freezing froze", "die": "dies dying died", "blow": "blows blowing blown blew",
    "shine": "shines shining shone", "grow": "grows growing grown grew", "become": "becomes becoming became",
    "get": "gets getting got", "break": "breaks breaking broke", "bend": "bends bending bent",
    "bring": "brings bringing brought", "hide": "hides hiding hid hidden", "dolly": "dollies dollying dollied",
    "carry": "carries carrying", "creep": "creeps creeping crept", "shake": "shakes shaking shook",
    "pan": "pans panning panned", "sweep": "sweeps sweeping swept", "dim": "dims dimming dimmed",
    "dip": "dips dipping dipped", "drop": "drops dropping dropped", "stop": "stops stopping stopped",
    "stir": "stirs stirring stirred", "lap": "laps lapping lapped", "wrap": "wraps wrapping wrapped",
    "set": "sets setting",
}  # fmt: skip
_JOINTS = ("and", "while", "then", "but")
_VERBS = frozenset(
    [
        "pan",
        "slide",
        "move",
        "drift",
        "turn",
        "look",
        "tilt",
        "rise",
        "sink",
        "zoom",
        "push",
        "pull",
        "approach",
        "retreat",
        "roll",
        "widen",
    ]
)
_OF_CAMERAS = frozenset(["push", "pull", "zoom", "tilt", "pan", "look", "approach", "retreat", "widen"])
_WAYS = frozenset(["left", "right", "up", "down", "in", "out", "closer", "away", "clockwise", "counter", "sideways"])
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
_COMPOUNDS = dict.fromkeys(
    [
        "snows",
        "snowing",
        "snowed",
        "snowfall",
        "snowflake",
        "snowflakes",
        "flake",
        "flakes",
        "blizzard",
        "snowstorm",
        "flurry",
    ],
    ("snow", "fall"),
)
_HOURS = frozenset(["night", "dark", "sunrise", "noon", "sunset", "fog", "storm", "autumn", "winter"])
_ALIVE = frozenset(["weather", "water", "wave", "tree", "wind", "smoke", "lamp", "cloud", "snow", "rain", "leaf"])
_NOUNS = _HOURS | _ALIVE | {"camera", "agent", "sun"}
_LOOKS = _HOURS | {"gold", "bright", "brown", "white", "snow", "light", "colour"}
_WORN = frozenset(
    [
        "coat",
        "coats",
        "dress",
        "dresses",
        "boots",
        "boot",
        "jacket",
        "cloak",
        "hat",
        "hats",
        "hair",
        "shirt",
        "shoes",
        "scarf",
        "gown",
        "suit",
        "gloves",
        "uniform",
        "apron",
        "eyes",
        "skirt",
        "trousers",
        "sweater",
        "robe",
        "veil",
        "crown",
        "beard",
        "umbrella",
    ]
)
THIRD = "s"  # what the concept of a verb in the third person ends in


def concepts() -> tuple[str, ...]:
    """Every concept, in a fixed order: the tokens of the text encoder."""
    found = set(words().values())
    order = [concept for name in _WORDS for concept in (name, name + THIRD)]
    return tuple(concept for concept in order if concept in found)


@cache
def words() -> dict[str, str]:
    """Word, lower case, to concept. The first concept that claims a word has it."""
    table: dict[str, str] = {}
    for concept, listed in _WORDS.items():
        for entry in listed.split():
            if entry.startswith("="):
                table.setdefault(entry[1:], concept)
                continue
            verb = entry.startswith("to:")
            for word, meant in _forms(entry.removeprefix("to:"), concept, verb):
                if word.isalpha():
                    table.setdefault(word, meant)
    return table


def understood(text: str) -> list[str]:
    """The concepts that a text asks with, in its order.

    What is not known is left out, and so is what is not wanted ("no", "without", to the end of the clause), what
    somebody or something does that is neither camera, light nor alive in the picture ("the dog turns left"), and the
    colour of clothes. “From left to right” is right; the sun that comes up is a sunrise.
    """
    heard: list[str] = []
    for clause, joint in _clauses(text):
        heard += _told(clause)
        heard += [joint] if joint else []
    return heard


def _clauses(text: str) -> list[tuple[list[str], str]]:
    """The concepts of each clause, and the concept that joins it to the next, if one does."""
    table, clauses, clause = words(), [], []
    for part in re.split(r"[,.;:!?()\n]", text.lower()):
        for word in split(part):
            if word in _WORN:
                while clause and clause[-1] in _LOOKS:
                    clause.pop()
            concept = table.get(word)
            if concept in _JOINTS:
                clauses.append((clause, concept))
                clause = []
            elif concept:
                clause += _COMPOUNDS.get(word, (concept,))
        clauses.append((clause, ""))
        clause = []
    return clauses


def _told(clause: list[str]) -> list[str]:
    """What of a clause is said to the model."""
    if "not" in clause:
        clause = clause[: clause.index("not")]
    told: list[str] = []
    subject, dropping = "", False
    for index, concept in enumerate(clause):
        verb = concept if concept in _VERBS else concept.removesuffix(THIRD)
        is_verb = verb in _VERBS and (concept == verb or concept.endswith(THIRD))
        following = clause[index + 1 : index + 2]
        if concept in _NOUNS:
            subject, dropping = concept, False
        elif subject == "sun" and (is_verb or concept in ("come", "comes", "set")):
            rises = verb in ("rise", "sunrise") or following == ["up"]
            sets = concept == "set" or verb == "sink" or following == ["down"]
            if rises or sets:
                told[-1:] = ["sunrise" if rises else "sunset"] if told and told[-1] == "sun" else []
                dropping = True
                continue
        elif is_verb and (subject == "agent" or (not subject and concept != verb)):
            dropping = True
            continue
        elif is_verb and subject in _HOURS and verb not in ("drift", "rise", "turn", "slide", "move"):
            told.append("come")
            dropping = True
            continue
        elif is_verb and subject in _ALIVE:
            told.append("drift" if subject == "cloud" else "come" if verb in _OF_CAMERAS else concept)
            dropping = True
            continue
        elif concept in ("come", "comes") and (subject in _HOURS | _ALIVE or (not subject and concept == "comes")):
            dropping = True
        elif concept in _WAYS:
            if dropping and (subject not in _ALIVE or concept not in ("left", "right")):
                continue
            if clause[index + 1 : index + 2] == ["to"] and clause[index + 2 : index + 3] == [_OPPOSITE.get(concept)]:
                continue
        told.append(concept)
    return told


def split(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation."""
    return "".join(character if character.isalnum() else " " for character in text.lower()).split()


def _forms(word: str, concept: str, verb: bool) -> list[tuple[str, str]]:
    if not verb:
        return [(word, concept), (_plural(word), concept)]
    third = concept + THIRD
    if word in _IRREGULAR:
        first, *others = _IRREGULAR[word].split()
        return [(word, concept), (first, third), *((other, concept) for other in others)]
    stem = word.removesuffix("e")
    return [(word, concept), (_plural(word), third), (f"{stem}ing", concept), (f"{stem}ed", concept)]


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return f"{word}es"
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2] not in "aeiou" else f"{word}s"

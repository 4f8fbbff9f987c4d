"""What a prompt asks of the embedded model: which moves, in which of its words, and which words it does not know.

The one rule for model, page, drafters and review. It goes by the concepts of words (`engine.pocket.lexicon`), and by
who does what in a clause. Plain Python.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from engine.pocket import asked, lexicon
from engine.pocket.asked import OPPOSITES, Amount, Asked, Pace, Side, Wish
from engine.pocket.world import CAMERAS

CACHED_PROMPTS = 4096


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


FUNCTION = _set(
    """a an the this that these those is are was were be been being am of by for if or so than there here its his her
    their my our your will would can could has have had do does did who which what where whose some any both each every
    other another such again once more most just also too one two three under behind between beside before near like it
    everything i you me him them ever very all whole entire show us"""
)  # words that carry no meaning of their own: neither heard nor ignored
PREPOSITIONS = _set("of by at under behind between beside before beneath against inside within like near")
MARKS = re.compile(r"[.,;:!?…—–+&/|()\n]|\s-\s")

JOINERS = {"and", "while", "then", "but"}
RELATIONS = {"in", "over", "on", "to", "from", "down"}  # concepts that a noun can follow as an object
HOW = {"little", "far", "slow", "fast"}
LIVING = {"water", "wave", "tree", "leaf", "cloud", "wind", "smoke", "fog", "snow", "rain", "storm", "lamp", "weather"}
NOUNS = LIVING | {"camera", "agent", "night", "sunrise", "noon", "sunset", "sun", "autumn", "winter", "light", "colour"}
CAMERA_VERBS = _set(
    "pan slide follow move drift turn look tilt crane rise sink zoom push pull widen approach retreat roll wander come"
)
VERBS = CAMERA_VERBS | _set("handheld stay stop change set fall sway blow twinkle wave clear dark bright winter")
WAYS = {"left", "right", "up", "down", "in", "out", "closer", "away", "clockwise", "counter", "sideways"}
PANS = {"left": "pan_left", "right": "pan_right", "up": "tilt_up", "down": "tilt_down"}
ZOOMS = {"in": "zoom_in", "closer": "zoom_in", "out": "zoom_out", "away": "zoom_out"}
ROLLS = {"left": "roll_left", "counter": "roll_left", "right": "roll_right", "clockwise": "roll_right"}
AIMED = {"zoom": "zoom_in", "push": "zoom_in", "approach": "zoom_in", "pull": "zoom_out", "retreat": "zoom_out"}
OPEN = {"pan": "pan_right", "slide": "pan_right", "tilt": "tilt_up", "roll": "roll_right"}  # where no way is named
OPEN |= {"move": "wander", "drift": "wander", "wander": "wander"} | AIMED
OPEN |= {"rise": "tilt_up", "sink": "tilt_down", "widen": "zoom_out"}
GUESSED = {"pan", "slide", "tilt", "roll"}  # of these the way is a guess, which any way that is named overrides
UNBIDDEN = {"pan", "slide", "zoom", "wander", "approach", "retreat", "widen"}  # “a zoom” asks for something by itself
TRUCKED = {"left", "right", "in", "out", "along", "past", "to", "slowly"}  # what follows a camera that trucks
ENDS = {"stop", "clear"}  # “the storm dies”, “the fog clears”
ARTICLES = _set("a an the this that my our his her their its")
DENIALS = {"without", "no", "avoid", "nor", "lack", "lacking", "forget"}  # of what follows
# Words that mean something else together.
_IDIOMS = {
    "night": "after dark, pitch dark, pitch black",
    "sunrise": """first light, day breaks, day broke, day is breaking, break of day, new day, rising sun, early light,
        first rays""",
    "noon": """twelve o'clock, sun stands high, sun is high, sun is at its highest, sun overhead, sun high, high sun,
        at its zenith, at the zenith""",
    "sunset": """golden hour, magic hour, blue hour, last light, setting sun, sinking sun, dying light, day ends, last
        rays""",
    "autumn": """fall colours, fall colors, fall foliage, fall leaves, fall season, fall weather, the fall, leaves turn
        gold, for fall, season to fall, turns to fall, turn to fall, change to fall, changes to fall""",
    "rain": "drops of rain, rain drops",
    "closer": "close up, close ups",
    "counter": "counter clockwise, anti clockwise, against the clock",
    "retreat": """back away, back out, back off, backing away, backing out, backing off, draw back, drawing back, draw
        away, drawing away, fall back, move farther away, move further away""",
    "retreats": "backs away, backs out, backs off, draws back, draws away, backed away, drew back",
    "approach": """draw near, draw nearer, draw ever nearer, draw ever closer, draw close, draw closer, drawing near,
        drawing nearer, drawing closer, draw in, close in, get near, drawing in""",
    "approaches": "draws near, draws nearer, draws closer, draws close, draws in, drew nearer, drew closer",
    "camera": "our eye, our eyes, our gaze, our view, our viewpoint, the gaze",
    "far": "all the way",
    "still": "smooth and still",
    "little": "light push, light zoom, light pan, light tilt, light drift",
    "": """takes in, take in, taking in, as it is, as they are, as it was, frying pan, baking pan, sauce pan, hot
        pan, iron pan, pan sizzles, pan of, rolling pin, each other, set for, is set, are set, make it, so does,
        up and down the, close friends, midnight blue, starting close, starting wide, starting tight, beginning
        close, in fact, light blue, dark blue, light bulb, zoom lens, snow globe, snow globes, storm of, light
        years, night club, winter sale, end on, ends on, zoom meeting, zoom call, night porter, night watchman,
        night shift, river bank, river banks, west bank, bank of, tip of, microscope slide, peter pan, pan
        flute, wisp of, wisps of, veil of, veils of""",
    "right": "left to right, from left to right",
    "left": "right to left, from right to left",
    "up": "bottom to top, toe to head, foot to top, from bottom to top",
    "down": "top to bottom, head to toe, from top to bottom",
    "fog": "pea soup",
}
IDIOMS = {tuple(lexicon.split(phrase)): concept for concept, listed in _IDIOMS.items() for phrase in listed.split(",")}
LONGEST_IDIOM = max(map(len, IDIOMS))
KEPT = _set("push zoom pan tilt drift")  # “a light push” is a push, and a little
WORN = _set(
    """coat coats dress dresses boots boot jacket cloak hat hats hair shirt shoes scarf gown suit gloves uniform apron
    eyes skirt trousers sweater robe veil crown beard umbrella clothes costume cap socks tie blouse"""
)
SIZES = _set(
    "small tiny little half big huge great long deep strong heavy thick dense massive extreme intense subtle slight"
)  # adjectives of amount
COLOURED = re.compile(
    r"\b\w+-(white|black|red|orange|brown|yellow|blue|green|grey|gray|gold|golden|pink|purple)\b"
)  # “a snow-white swan”
LOOKS = _set("night dark sunrise noon sunset fog storm autumn winter gold bright brown white snow light colour clear")
FLAKES = {"snowing", "snowfall", "snowstorm", "snowflake", "snowflakes", "blizzard", "flurry", "flake", "flakes"}


@dataclass(frozen=True)
class Reading:
    """moves: in the order of the prompt, "stay" only where nothing else is asked for. heard: the words that ask for
    them. ignored: words that the model does not know, which change nothing. Lower case, each once. pace, wind: as in
    `Wish`.
    """

    moves: tuple[Asked, ...] = ()
    heard: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    pace: Pace = ""
    wind: Side = ""

    @property
    def wish(self) -> Wish:
        """What is asked of the model."""
        return Wish(tuple(move for move in self.moves if move.name != "stay"), self.pace, self.wind)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(move.name for move in self.moves)


@lru_cache(maxsize=CACHED_PROMPTS)
def read(prompt: str) -> Reading:
    """What `prompt` asks for, whether a vocabulary offers it or not."""
    found: dict[str, str] = {}
    heard: list[str] = []
    rests: list[str] = []
    named: set[str] = set()
    pace, wind, last = "", "", ""
    before = _Before()
    known = lexicon.words()
    for clause in _clauses(prompt, known):
        names, words = clause.asks(before)
        before = clause.leaves(before)
        pace = pace or clause.pace
        wind = wind or (clause.side if "drift" in names else "")
        amount = clause.amount
        if clause.is_continued:  # “up and left a little”
            amount = amount or found.get(last, "")
            if last in found:
                found[last] = found[last] or amount
        for name in names:
            if name != "stay":
                found.setdefault(name, amount)
                last = name
                if name not in clause.guessed:
                    named.add(name)
        (heard if any(name != "stay" for name in names) else rests).extend(words if names else ())
    if named & set(CAMERAS):
        found = {name: amount for name, amount in found.items() if name in named}
    kept = {name: amount for name, amount in found.items() if OPPOSITES.get(name) not in found}
    if len(kept) < len(found) or (not kept and rests):
        rests = rests or heard
    moves = tuple(Asked(name, amount) for name, amount in kept.items())
    if not moves and rests:
        moves, heard = (Asked("stay"),), rests
    words = (word for part in MARKS.split(prompt) for word in _heard(part, known))
    unknown = (word.text for word in words if not word.concept and " " not in word.text and len(word.text) > 1)
    ignored = [text for text in unknown if text not in FUNCTION and text not in PREPOSITIONS]
    return Reading(moves, tuple(dict.fromkeys(heard)), tuple(dict.fromkeys(ignored)), pace, wind)


def wish_of(prompt: str) -> Wish:
    """What `prompt`, in English or spelt out (see `asked.spelt`), asks of the model."""
    return asked.parse(prompt) or read(prompt).wish


def _words(text: str) -> list[str]:
    """The words of a text; what an apostrophe parts from a word is none."""
    return lexicon.split(re.sub(r"['’](s|t|re|ve|ll|d|m)\b", " ", text))


def _heard(text: str, known: dict[str, str]) -> Iterable["_Word"]:
    """The words of a part of a prompt with their concepts; some together are one, with a concept of its own."""
    words = _words(COLOURED.sub(" ", text.lower()))
    place = 0
    while place < len(words):
        lengths = range(LONGEST_IDIOM, 1, -1)
        length = next((n for n in lengths if tuple(words[place : place + n]) in IDIOMS), 1)
        together = words[place : place + length]
        concept = IDIOMS[tuple(together)] if length > 1 else known.get(together[0], "")
        if together[-1] in KEPT and length > 1 and concept:
            length, together = length - 1, together[:-1]
        if together == ["truck"] and place + 1 < len(words) and words[place + 1] in TRUCKED:
            concept = "slide" if not place or words[place - 1] not in ("a", "the", "an") else concept
        if together[0] in ("named", "called"):
            length = 2
        verb = concept.removesuffix(lexicon.THIRD)
        third = concept != verb and verb in VERBS
        yield _Word(" ".join(together), verb if third else concept, third)
        place += length


@dataclass(frozen=True)
class _Word:
    text: str
    concept: str  # of a verb in the third person: of the verb; "" where it is not known
    third: bool


@dataclass(frozen=True)
class _Before:
    """What a clause may take over from the one before: who acts, the camera's last verb, whether it was denied."""

    subject: str = ""
    verb: str = ""
    negated: bool = False


def _clauses(prompt: str, known: dict[str, str]) -> Iterable["_Clause"]:
    for part in MARKS.split(prompt):
        words: list[_Word] = []
        joint = ""
        for word in _heard(part, known):
            if word.text in DENIALS and words:  # “night falls without fog”: what comes before is not denied
                yield _Clause(tuple(words), joint)
                words, joint = [], ""
            if word.text in WORN:
                while words and words[-1].concept in LOOKS:
                    words.pop()
            if word.concept in JOINERS and word.text != "only":
                if words:
                    yield _Clause(tuple(words), joint)
                words, joint = [], word.concept
            else:
                words.append(word)
        if words:
            yield _Clause(tuple(words), joint)


class _Clause:
    """Words between two joints of a prompt. Rules note the places of the words that they go by in `used`."""

    def __init__(self, words: tuple[_Word, ...], joint: str) -> None:
        self.words, self.joint = words, joint
        self.used: set[int] = set()
        self.guessed: set[str] = set()
        self.inherits = _Before()

    def __contains__(self, concept: str) -> bool:
        return any(word.concept == concept for word in self.words)

    @cached_property
    def verb(self) -> int | None:
        """The place of the first verb that is none of “drifting clouds”."""
        return next((place for place in range(len(self.words)) if self._is_verb(place)), None)

    @cached_property
    def subject(self) -> str:
        """The noun before the verb that is no object, "stranger" for one that is not known, "" for none."""
        is_object, found, after_noun = False, "", False
        since = 0  # where the object began
        for place, word in enumerate(self.words[: self.verb]):
            if word.text in PREPOSITIONS or word.concept in RELATIONS:
                is_object, since = True, place
            elif is_object and word.text in ("a", "an", "the") and place - since > 2:  # “behind the hut the trees sway”
                is_object = False
            elif word.concept in NOUNS:
                is_subject = not found or found == "stranger" or after_noun or word.concept in ("camera", "agent")
                if is_subject and not is_object:
                    found = word.concept
                is_object = False
            elif word.text in ("nothing", "nobody") or (not word.concept and word.text not in FUNCTION):
                many = place + 1 == self.verb and re.search("[^s]s$", word.text)  # “two boxers move closer”
                found = found or ("" if is_object or word.text.endswith("ly") else "agent" if many else "stranger")
            after_noun = word.concept in NOUNS  # “harbour lights”: the second of two is what is meant
        return found

    def leaves(self, before: _Before) -> _Before:
        verbs = [w.concept for place, w in enumerate(self.words) if w.concept in CAMERA_VERBS and self._is_verb(place)]
        subject = self.subject or (before.subject if self.verb is None or self._is_third else "")
        verb = before.verb if self.verb is None else ""
        if verbs and subject in ("", "stranger", "camera"):
            verb = verbs[-1]
        return _Before(subject, verb, "not" in self or (before.negated and self.verb is None))

    def asks(self, before: _Before) -> tuple[list[str], list[str]]:
        """The moves of this clause, and the words that ask for them; what is denied leaves the picture as it is."""
        self.inherits = before
        names = [*self._camera(), *self._lights(), *self._lives()]
        names = list(dict.fromkeys(names))
        denied = "not" in self or (before.negated and self._is_fragment)
        if denied and ("still" not in self or names):
            names = ["stay"] if names or self._places("move", "change") else []
            self.used.update(self._places("not", "move", "change"))
        elif not names:
            names = self._rests()
        elif names:
            self.used.update(self._places(*HOW))
        return names, [word.text for place, word in enumerate(self.words) if place in self.used]

    @property
    def amount(self) -> Amount:
        """How much, said of what moves and not of a thing, as of “a small house”."""
        of_moves = CAMERA_VERBS | LIVING | {"night", "sunrise", "noon", "sunset", "autumn", "winter"}
        for place, word in enumerate(self.words):
            of_thing = word.text in SIZES and self._describes(place) and self.words[place + 1].concept not in of_moves
            if word.concept in ("little", "far") and not of_thing:
                return word.concept
        return ""

    @property
    def is_continued(self) -> bool:
        """“and to the right”: only another way of what the clause before asks for."""
        return self.joint == "and" and self.verb is None and self._is_fragment

    @property
    def pace(self) -> Pace:
        """How fast, unless that is denied."""
        if "not" in self:
            return ""
        return "slow" if "slow" in self else "quick" if "fast" in self else ""

    @property
    def side(self) -> Side:
        """Where the wind carries what it carries."""
        return next((word.concept for word in self.words if word.concept in ("left", "right")), "")

    # Where things stand

    @property
    def _objects(self) -> set[str]:
        """Concepts of the words that come directly after a verb, articles left out."""
        said = [word for word in self.words if word.text not in ARTICLES]
        return {after.concept for word, after in pairwise(said) if word.concept in VERBS}

    @property
    def _is_third(self) -> bool:
        return self.verb is not None and self.words[self.verb].third

    def _is_verb(self, place: int) -> bool:
        word = self.words[place]
        if word.concept == "wave" and not word.third:  # “waves roll”, but “the grass waves”
            return any(other.concept in NOUNS for other in self.words[:place])
        return word.concept in VERBS and not self._is_participle(place) and not self._is_adjective(place)

    def _is_participle(self, place: int) -> bool:
        """“drifting clouds”: a verb's form that only describes the noun behind it."""
        return self.words[place].text.endswith(("ing", "ed")) and self._next(place) in NOUNS - {"camera"}

    def _is_adjective(self, place: int) -> bool:
        """“a clear view”, “the dark forest”, “a winter coat”: it only describes what follows."""
        return self.words[place].concept in ("clear", "dark", "bright") and self._describes(place)

    def _describes(self, place: int) -> bool:
        """Whether a word with a meaning of its own, no preposition and no adverb, comes directly after it."""
        if place + 1 >= len(self.words):
            return False
        word = self.words[place + 1]
        meaning = word.concept not in HOW | RELATIONS | WAYS | {"not"} and not word.text.endswith("ly")
        return meaning and word.text not in FUNCTION and word.text not in PREPOSITIONS

    def _next(self, place: int) -> str:
        """The concept of the word after, over adverbs."""
        return next((word.concept for word in self.words[place + 1 :] if word.concept not in HOW), "")

    def _places(self, *concepts: str) -> list[int]:
        return [place for place, word in enumerate(self.words) if word.concept in concepts]

    def _has(self, *concepts: str) -> bool:
        """Whether one of `concepts` is here; it is then one of the words heard."""
        places = self._places(*concepts)
        self.used.update(places)
        return bool(places)

    def _first(self, *concepts: str) -> int:
        return next(iter(self._places(*concepts)), len(self.words))

    # The camera

    def _camera(self) -> list[str]:
        names = []
        places = [p for p, w in enumerate(self.words) if w.concept in CAMERA_VERBS and not self._is_participle(p)]
        for number, place in enumerate(places):
            end = places[number + 1] if number + 1 < len(places) else len(self.words)
            if self._is_cameras(place) and not (number and self.words[place].concept == "widen"):
                names += self._moved(place, end, alone=number + 1 == len(places))
        if self.verb is None and not names and self.inherits.verb and self._is_fragment:
            names = self._aimed(self.inherits.verb, self._ways(0, len(self.words)))
        if not places and not names and self.subject in ("", "camera", "stranger"):
            names = self._without_verb()
        names += self._unsteady()
        if names:
            self.used.update(self._places("camera"))
        return names

    def _is_cameras(self, place: int) -> bool:
        """Whether it is the camera that does this: named, told to (“pan left”), or as in the clause before."""
        if self.subject in ("", "stranger") and self.words[place].third:
            by_camera = self.inherits.subject == "camera" or "camera" in self
            return not self.subject and (by_camera or self.words[place].concept in ("pan", "zoom", "tilt"))
        if not self.subject and self.joint == "and" and self.inherits.subject == "agent" and "camera" not in self:
            return False  # “a man opens the door and steps in”
        if self.subject == "stranger" and self._is_third:
            return False  # “the chef pulls it back out”
        return self.subject in ("", "stranger", "camera")

    @property
    def _is_fragment(self) -> bool:
        """“and up”, “and to the right”: nothing but a way."""
        free = WAYS | HOW | {"to", "not", "from"}
        said = [word for word in self.words if word.text not in FUNCTION and word.concept not in HOW | {"to"}]
        leads = self.joint == "and" and bool(said) and said[0].concept in WAYS  # “and down in the distance”
        return leads or (all(word.concept in free for word in said) and bool(self._places(*WAYS)))

    def _ways(self, start: int, end: int) -> list[int]:
        """Places of directions, without where a move comes from."""
        return [
            place
            for place in range(start, end)
            if self.words[place].concept in WAYS and not self._is_origin(place)
            if self.words[place].text not in ("wide", "tight", "close") or not self._describes(place)
        ]

    def _is_origin(self, place: int) -> bool:
        """“from the left”, “on the left”."""
        earlier = [word for word in self.words[:place] if word.text not in FUNCTION]
        sides = ("from", "on") if self.words[place].concept in ("left", "right") else ("from",)
        return bool(earlier) and (earlier[-1].concept in sides and earlier[-1].text != "onto")

    def _is_near(self, verb: int, place: int) -> bool:
        """Whether nothing stands between a verb and its direction but how and other directions."""
        return all(w.concept in WAYS | HOW | {"", "to", "camera"} for w in self.words[verb + 1 : place])

    def _moved(self, place: int, end: int, *, alone: bool) -> list[str]:
        verb, word = self.words[place].concept, self.words[place]
        ways = [p for p in self._ways(place + 1, end) if self.words[p].concept not in ZOOMS or self._is_near(place, p)]
        ways = self._along(place, ways)
        if "stop" in self and word.text in ("movement", "motion", "movements", "motions"):
            return []
        names = self._aimed(verb, ways)
        if not names and not word.third and self.subject in ("", "stranger", "camera"):  # “an upward tilt”
            before = next((p for p in range(place - 1, -1, -1) if self.words[p].concept != "camera"), place)
            names = self._aimed(verb, [before]) if self.words[before].concept in WAYS else []
        by_name = self.subject == "camera" or "camera" in self or (self.inherits.subject == "camera" and word.third)
        if not names and verb in OPEN and not ways_of(ways, self.words) & set(PANS):
            unbidden = verb in UNBIDDEN and not word.text.startswith("open")
            unbidden = unbidden and not (self.joint == "and" and self.inherits.subject in LIVING)
            unbidden = unbidden or (verb in ("rise", "sink") and not place and not word.third)  # “rise over the city”
            if by_name or unbidden or (verb in ("tilt", "roll") and "camera" in self):
                names = [OPEN[verb]]
                self.guessed.update(names if verb in GUESSED else ())
            if verb == "push" and not names and self._next(place) in ("to", "on"):
                names = ["zoom_in"]
            if verb in ("move", "drift") and "wander" in self:
                names = ["wander"]
        if verb == "wander" and not by_name and word.text.endswith("ly"):
            names = []
        if names:
            self.used.add(place)
        return names

    def _along(self, verb: int, ways: list[int]) -> list[int]:
        """Without “down the alley” where the camera goes another way already."""
        places = [p for p in ways if self.words[p].text in ("up", "down") and self._next_text(p) in ARTICLES]
        others = [p for p in ways if p not in places]
        if self.words[verb].concept in ("zoom", "push", "pull", "approach", "retreat"):
            return others  # “retreats down the hallway”
        return others if others and self.words[verb].concept in ("move", "slide", "drift") else ways

    def _next_text(self, place: int) -> str:
        return self.words[place + 1].text if place + 1 < len(self.words) else ""

    def _aimed(self, verb: str, ways: list[int]) -> list[str]:
        """Moves of a verb and its directions; those of another plane than the verb's are no directions of it."""
        said = {self.words[place].concept: place for place in ways}
        table: dict[str, str] = {}
        turned = "sideways" in said and verb not in ("push", "slide", "pan", "wander")
        if verb == "roll" or {"clockwise", "counter"} & set(said) or turned:
            table = ROLLS
            if "counter" in said:
                said.pop("clockwise", None)
        elif verb in ("look", "turn", "rise", "sink", "crane"):
            table = PANS
        elif verb == "push" and set(said) & {"left", "right"} and not set(said) & set(ZOOMS):
            table = PANS  # “dolly to the right”
        elif verb == "tilt":
            table = {**ROLLS, "up": "tilt_up", "down": "tilt_down"}
        elif verb in ("zoom", "push", "pull", "come", "approach", "retreat"):
            table = ZOOMS
            if verb in ("pull", "retreat"):
                said.pop("in", None)
            if verb == "come" and self.subject != "camera" and "camera" not in self._objects:
                said = {way: place for way, place in said.items() if way in ("closer", "away")}
        elif verb in ("pan", "slide", "follow", "move", "drift", "wander"):
            table = PANS if set(said) & set(PANS) else ZOOMS
        if verb == "zoom" and len(said) > 1 and "closer" in said:
            said = {"closer": said["closer"]}
        used = [(table[way], place) for way, place in said.items() if way in table]
        if table is ZOOMS and used and "and" not in self:
            used = used[:1]
        self.used.update(place for _, place in used)
        self.used.update(place for place in ways if self.words[place].concept in ("sideways", "clockwise"))
        return [name for name, _ in used]

    def _unsteady(self) -> list[str]:
        free = self.subject in ("", "camera", "stranger")
        shaken = [p for p in self._places("handheld") if free and (not self.words[p].third or self._by_camera)]
        shaken += [p for p in self._places("sway") if self._by_camera]
        self.used.update(shaken)
        return ["handheld"] if shaken else []

    def _without_verb(self) -> list[str]:
        """“Closer and closer”, “a close up of the cat”, “camera left”, “counterclockwise”."""
        texts = [word.text for word in self.words if word.text not in FUNCTION]
        bare_way = not self.joint and all(w.concept in WAYS | HOW or w.text in FUNCTION for w in self.words)
        if bare_way and (found := self._aimed("look", self._places("up", "down"))):
            return found  # “Up, slowly”
        bare = [word.text for word in self.words if word.text in texts and word.concept not in HOW]
        if bare in (["closer"], ["nearer"], ["wider"]) or texts[:1] in (["close up"], ["closeup"]):
            self.used.update(self._places("closer", "away"))
            return ["zoom_out" if bare == ["wider"] else "zoom_in"]
        ways = [p for p in self._ways(0, len(self.words)) if not p or self.words[p - 1].concept not in ("on", "over")]
        if (texts and texts[0] in ("toward", "towards")) or (len(texts) > 1 and texts[1] == "towards" and self.pace):
            return ["zoom_in"]  # “slowly towards the house”
        turned = [p for p in ways if self.words[p].concept in ("clockwise", "counter")]
        if turned:
            return self._aimed("roll", turned)
        at = self._first("camera")
        near = [p for p in ways if at < p and self._is_near(at, p)]
        near = [
            p
            for p in near
            if self.words[p].concept in PANS or self.words[p].text in ("nears", "nearing", "wide", "wider")
        ]
        return self._aimed("move", near) if self.subject == "camera" and self.verb is None else []

    @property
    def _by_camera(self) -> bool:
        return (self.subject or self.inherits.subject) == "camera"

    # The light

    def _lights(self) -> list[str]:
        names = [name for name, rule in LIGHTS.items() if rule(self)]
        if {"sunrise", "sunset"} <= set(names) and "sunrise" not in self:
            names.remove("sunrise")  # “golden light of the setting sun”
        return names if len(names) < 2 else self._became(names)

    def _became(self, names: list[str]) -> list[str]:
        """Of several lights the last, where one becomes another: “dusk turns to night”, “from day to night”."""
        places = {name: max(self._places(name), default=-1) for name in names}
        last = max(places.values())
        between = self.words[min(places.values()) : last] if min(places.values()) >= 0 else ()
        becomes = any(word.concept in ("turn", "change", "stop", "to", "in") for word in between)
        becomes = becomes and any(word.concept in ("to", "in") for word in between)
        return [name for name in names if places[name] == last] if becomes else names

    def _named(self, concept: str) -> bool:
        """A noun that is enough to ask for its light, unless it ends: “the storm dies”."""
        places = self._places(concept)
        ends = [p for p in places if self._next(p) in ("stop", "clear") and self.words[p + 1].concept in HOW | ENDS]
        ends += [p for p in places if concept == "fog" and self._next_text(p).startswith("lift")]
        kept = [place for place in places if place not in ends and not self._is_kept(place)]
        self.used.update(kept)
        return bool(kept)

    def _is_kept(self, place: int) -> bool:
        """“Keep the daylight”: it is there already."""
        earlier = [word for word in self.words[:place] if word.text not in FUNCTION]
        return bool(earlier) and earlier[-1].concept == "stay" and not earlier[-1].third

    def _turns(self, concept: str) -> bool:
        """“becomes dark”, “turns white”: the picture takes on what the word says."""
        for place in self._places(concept):
            turned = [p for p in self._places("come", "turn", "change") if p < place]
            if turned and not self._describes(place):
                self.used.update([turned[-1], place])
                return True
        return False

    def _does(self, concept: str, verbs: set[str]) -> bool:
        """Whether the noun `concept` does or suffers one of `verbs`: as the subject, or as “drifting clouds”."""
        done = {w.concept for p, w in enumerate(self.words) if w.concept in verbs and self._is_verb(p)}
        mine = self.subject == concept
        told = [p for p in self._places(*verbs) if self._is_participle(p) and self._next(p) == concept]
        if not told and not (mine and done):
            return False
        self.used.update([*self._places(concept), *told, *(self._places(*done) if mine else ())])
        return True

    @property
    def _is_alone(self) -> bool:
        """One word that means something, as keywords are."""
        return sum(bool(word.concept) or word.text not in FUNCTION for word in self.words) == 1

    def _is_night(self) -> bool:
        if self._named("night") or self._turns("dark"):
            return True
        darkens = [p for p in self._places("dark") if self.words[p].text.endswith(("ens", "ims"))]
        lies = [p for p in self._places("dark") if p > 1 and self.words[p - 2].text == "in" and not self._describes(p)]
        if "weather" in self and self.words[-1].text in ("dark", "black"):  # “the sky is black”
            lies.append(len(self.words) - 1)
        if (darkens and "weather" not in self and self.subject != "camera") or lies:
            self.used.update(darkens + lies)
            return True
        return False

    def _is_sunrise(self) -> bool:
        if self._named("sunrise") or (self._has_sun and "stay" not in self and self._has("rise", "up", "come")):
            return True
        gold = self._places("gold")
        lit = [p for p in gold if self._next(p) in ("light", "weather") or (self._is_alone and not self.joint)]
        self.used.update(lit)
        return bool(lit)

    def _is_noon(self) -> bool:
        high = self._has_sun and ("stay" in self and self._has("up"))
        if high or self._named("noon") or self._turns("bright") or (self._has_sun and self._has("twinkle")):
            return True
        shown = [p for p in self._places("bright") if self._next(p) in ("weather", "light")]
        shown += [p for p in self._places("bright") if self.words[p].third]
        cleared = [p for p in self._places("clear") if self._is_verb(p) and ("weather" in self or self.words[p].third)]
        self.used.update(shown + cleared)
        return bool(shown or cleared)

    def _is_sunset(self) -> bool:
        return self._named("sunset") or (self._has_sun and self._has("set", "sink", "down"))

    @property
    def _has_sun(self) -> bool:
        return self.subject == "sun" and self._has("sun")

    def _is_fog(self) -> bool:
        return not self._is_haze() and self._named("fog")

    def _is_storm(self) -> bool:
        dark = [p for p in self._places("dark") if self._next(p) == "cloud"]
        dark += [p for p in self._places("dark") if self.words[p].third and "weather" in self]
        self.used.update(dark)
        return self._named("storm") or bool(dark)

    def _is_autumn(self) -> bool:
        if self._named("autumn"):
            return True
        fall = self._first("fall")
        if fall < len(self.words) and self.words[fall].text == "fall":
            follows = self._next(fall) in ("come", "colour") and not self.subject
            if follows or self._is_alone:
                self.used.add(fall)
                return True
        brown = [p for p in self._places("brown", "gold") if self._next(p) in ("leaf", "brown")]
        if self._does("leaf", {"fall"}):
            return True
        if "leaf" in self and self.subject != "agent" and (brown or self._turns("brown") or self._turns("gold")):
            self.used.update([*brown, *self._places("leaf", "brown")])
            return True
        return False

    def _is_winter(self) -> bool:
        if self._named("winter") or self._turns("white"):
            return True
        return not self._is_snow() and self._named("snow")

    # What lives

    def _lives(self) -> list[str]:
        return [name for name, rule in LIVES.items() if rule(self)]

    def _is_ripple(self) -> bool:
        if self._is_calm() or self.subject in ("camera", "agent", "tree", "leaf"):
            return False
        waves = self._places("wave")
        self.used.update(waves)
        return bool(waves) or self._does("water", {"move", "sway", "wave"})

    def _is_sway(self) -> bool:
        if self._is_calm() or self.subject in ("camera", "agent"):
            return False
        moved = {"sway", "move", "wave", "pan"}
        if any(self._does(noun, moved) for noun in ("tree", "leaf")):
            return True
        return self._is_windy() and not self._rises and self._has("tree", "leaf")

    def _is_drift(self) -> bool:
        if self._is_calm():
            return False
        moved = {"drift", "slide", "move", "roll"}
        return self._does("cloud", moved) or (self.subject == "weather" and self._does("weather", {"move", "drift"}))

    def _is_wind(self) -> bool:
        return self._is_windy() and (self._rises or not self._places("tree", "leaf"))

    @property
    def _rises(self) -> bool:
        """“The wind comes up”, over whatever."""
        return self.subject == "wind" and bool(self._places("rise", "come", "up"))

    def _is_windy(self) -> bool:
        return not self._is_calm() and self._has("wind")

    def _is_haze(self) -> bool:
        moved = {"drift", "slide", "move", "rise"}
        if any(word.text.startswith("lift") for word in self.words):
            return False
        arrives = [p for p in self._places("in") if self.words[p - 1].concept in moved and not self._describes(p)]
        return (not arrives and self._does("fog", moved)) or self._does("smoke", moved | {"come"})

    def _is_snow(self) -> bool:
        if not self._named("snow"):
            return False
        flakes = any(self.words[p].text in FLAKES for p in self._places("snow"))
        return flakes or self._does("snow", {"fall", "drift", "slide"}) or self._it_snows

    @property
    def _it_snows(self) -> bool:
        return any(word.text == "it" for word in self.words[: self._first("snow")])

    def _is_rain(self) -> bool:
        return self._named("rain")

    def _is_twinkle(self) -> bool:
        if self.subject in ("sun", "water", "agent", "camera"):
            return False
        return any(self._does(noun, {"twinkle"}) for noun in ("lamp", "light"))

    def _is_calm(self) -> bool:
        if self.subject in ("camera", "agent", "light"):
            return False
        restless = self.subject in ("wave", "tree", "leaf", "cloud", "wind")
        ends = self.subject in ("wind", "rain", "snow", "storm", "smoke", "") and self.verb is not None
        stops = self._places("stop")
        ended = stops and (restless or ends) and "fog" not in self
        stay = restless and any(not self.words[p].third for p in self._places("stay"))
        became = self._places("come", "turn") and not all(self._describes(p) for p in self._places("still", "stay"))
        if not (ended or stay or became):
            return False
        self.used.update([*self._places("come", "still", "stay", "stop", self.subject)])
        return True

    # Nothing

    def _rests(self) -> list[str]:
        return ["stay"] if self._has("still", "stay") or ("camera" in self and self._has("stop")) else []


def ways_of(places: Iterable[int], words: tuple[_Word, ...]) -> set[str]:
    return {words[place].concept for place in places}


Rule = Callable[[_Clause], bool]
LIGHTS: dict[str, Rule] = {
    "night": _Clause._is_night,
    "sunrise": _Clause._is_sunrise,
    "noon": _Clause._is_noon,
    "sunset": _Clause._is_sunset,
    "fog": _Clause._is_fog,
    "storm": _Clause._is_storm,
    "autumn": _Clause._is_autumn,
    "winter": _Clause._is_winter,
}
LIVES: dict[str, Rule] = {
    "ripple": _Clause._is_ripple,
    "sway": _Clause._is_sway,
    "drift": _Clause._is_drift,
    "wind": _Clause._is_wind,
    "haze": _Clause._is_haze,
    "snow": _Clause._is_snow,
    "rain": _Clause._is_rain,
    "twinkle": _Clause._is_twinkle,
    "calm": _Clause._is_calm,
}

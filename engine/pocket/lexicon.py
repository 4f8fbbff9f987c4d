"""The words that prompts are read by: each belongs to a concept.

A word that is not here changes nothing, whatever stands beside it. Verbs have a second concept for the third person
("pans"), which asks for nothing without its subject: a dog that moves left is not the camera. Plain Python.
"""

from functools import cache

# concept: nouns and adjectives as they stand (a plural is added, but not after "="), verbs after "to"
_WORDS = {
    # who moves
    "camera": """we camera cam view shot frame lens viewpoint perspective viewer drone gimbal cameraman cinematographer
        pov""",
    "agent": """man woman boy girl child kid person people crowd dog cat horse bird ship boat train car bus bike truck
        plane dancer singer actor tourist fisherman sailor walker rider runner player soldier king queen baby
        mother father friend stranger hero heroine figure couple family animal fish whale dolphin wolf fox bear
        lion tiger cheetah deer rabbit duck swan seagull gull eagle owl crow pigeon butterfly bee insect dragon
        robot astronaut rocket balloon kite ball wheel door curtain flag =he =she =they =it someone somebody
        everybody children men women tram taxi lorry sheep cow goat pig chicken monkey elephant teacher student
        doctor farmer monk painter knight nurse detective cyclist puppy kitten guest waiter pilot captain driver
        baker violinist hunter neighbour neighbor soldier schoolgirl schoolboy grandmother grandfather tailor
        juggler""",
    # camera
    "pan": "to:pan to:sweep to:track to:scroll to:swivel to:swing to:scan to:survey",
    "follow": "to:follow",
    "slide": "to:slide to:glide to:travel to:shift to:pass to:sail to:fly",
    "move": "to:move to:go to:head to:walk to:step to:run to:ease to:take to:flow movement motion",
    "drift": "to:drift to:float to:hover",
    "turn": "to:turn",
    "look": "to:look to:point to:gaze to:peer to:glance",
    "tilt": "to:tilt",
    "crane": "to:crane to:boom to:jib pedestal",
    "rise": "to:curl to:rise to:climb to:ascend to:lift to:raise to:soar",
    "sink": "to:sink to:descend to:lower to:drop to:dip",
    "left": "left leftward leftwards leftmost",
    "right": "right rightward rightwards rightmost",
    "up": "up higher upward upwards skyward skywards overhead",
    "down": "down downward downwards groundward below",
    "zoom": "to:zoom",
    "push": "to:push to:dolly to:creep to:edge to:crawl to:punch",
    "pull": "to:pull",
    "in": "in into inward inwards toward towards forward forwards",
    "out": "out outward outwards",
    "closer": "closer nearer =close near closeup tighter tight",
    "away": "away back backward backwards wider wide farther further",
    "widen": "to:widen to:open to:reveal to:uncover",
    "approach": "to:approach to:advance to:near to:tighten closes closing to:magnify to:enlarge",
    "retreat": "to:retreat to:recede to:withdraw",
    "roll": "to:roll to:rotate to:spin to:bank to:lean to:cant to:tip rotation",
    "clockwise": "clockwise",
    "counter": "counterclockwise anticlockwise",
    "sideways": "sideways sideway askew diagonal diagonally",
    "handheld": "handheld shaky jittery wobbly unsteady held to:shake to:wobble to:jitter",
    "wander": "to:wander to:roam to:meander to:explore freely aimlessly somewhere",
    # how
    "not": """no not never without don doesn isn aren won wouldn didn wasn cannot nor neither none avoid lack lacking
        forget""",
    "little": """little slightly bit slight subtle subtly barely faint faintly small tad somewhat hint touch partly
        partially half tiny mild mildly""",
    "far": """far completely fully entirely dramatic dramatically deep deeply long strong
        strongly heavy heavily great greatly huge hugely much lot big extreme totally intense
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
    "sway": "to:nod to:sway to:rustle to:bend to:flutter to:tremble to:stir to:quiver waving waved",
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
    "take": "takes taking taken took", "nod": "nods nodding nodded",
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
THIRD = "s"  # what the concept of a verb in the third person ends in


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

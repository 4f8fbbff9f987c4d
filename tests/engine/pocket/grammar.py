"""Sentences that ask for moves, drawn at random from a grammar, each with the move that it asks for: what `reading` is
tried on.

In a pattern [a|b|] stands for one of its alternatives, {way} for a direction and {subject} for what is in the picture.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.pocket.world import CAMERAS, LIGHTS, LITTLE, MUCH, Move

CAM = "[the camera|the camera|the camera|camera|the view|the shot|the frame|the lens|the drone|our viewpoint]"
ON = "[ over {subject}| across {subject}| along {subject}| past {subject}|||| above {subject}]"
SUBJECTS = (
    "the harbour", "the city", "an old town", "the valley", "a quiet street", "the mountains", "the lake", "the castle",
    "a small house", "the cat", "the forest", "a garden", "the sea", "the bridge", "a boat on the water", "the field",
    "the temple", "a lonely tree", "the woman", "a man in a coat", "the street market", "the tower", "the village",
    "a dog in the grass", "the river", "the desert", "the beach", "the train station", "a lighthouse", "the road",
    "the hills", "the island", "the picture", "the scene", "the whole view", "a child by the window", "the square",
    "a golden retriever", "the red door", "a white swan", "the dark forest", "the warm kitchen", "a bright kitchen",
    "an old man", "the back of a car", "a black cat", "the brown bear", "the yellow taxi",
)  # fmt: skip
OPENINGS = (
    "", "", "", "", "", "", "a wide shot of {subject}, ", "cinematic, ", "now ", "then ", "and ", "in this clip, ",
    "over time, ", "wide shot, ", "in a wide view of {subject}, ", "a beautiful shot of {subject}: ", "{subject}. ",
    "{subject}, ", "high detail, ", "a photograph of {subject}. ", "from the front, ", "close to {subject}, ",
)  # fmt: skip
ENDINGS = (
    "", "", "", "", "", "", ", cinematic", " again", ", high detail", ", beautiful colours", " as time passes",
    ", soft light", ", warm colours", " in the distance", ", 4k", ", in one long shot", ", a calm mood", " once more",
    ", golden tones", ", seen from the left", ", with {subject} in the back",
)  # fmt: skip
SLOWLY = ("slowly", "gently", "gradually", "in a slow, smooth way", "very slowly", "smoothly")
QUICKLY = ("quickly", "fast", "rapidly", "suddenly", "in a quick way", "swiftly", "abruptly")
A_LITTLE = ("a little", "slightly", "a bit", "just a little", "a tiny bit", "a touch", "somewhat", "only slightly")
MUCH_MORE = ("far", "very far", "a lot", "completely", "all the way", "dramatically", "strongly", "deeply", "very much")
JOINS = (
    "{a} while {b}", "{b} and {a}", "{a}, {b}", "{a} as {b}", "{a}. {b}", "{b} while {a}", "{a} and {b}", "{a}; {b}",
    "{a}, then {b}", "as {b}, {a}", "while {a}, {b}", "{a} with {b}", "{a} and then {b}", "{a}, and "
    "{b}", "{a} when {b}",
)  # fmt: skip
# Sentences of things that are not the camera, and of words that mean nothing here.
OTHERS = (
    "[a man|the woman|the dog|she|he|a child|the cat|a bird|the boat|a train|the car|someone|the ship] "
    "[looks|turns|moves|goes|walks|runs|drifts|glides|slides|sails|flies|floats] "
    "[left|right|up|down|away|back|closer|in|out|around|to the left|to the right|past {subject}|]",
    "[a ship|the boat|the train|a man|the dog] [leaves|enters|reaches|approaches|passes] {subject}",
    "[a woman|the man|the dog|the cat] [walks|runs|comes|goes] [towards|to|away from|closer to] the camera",
    "[the camera|the shot|the view] [follows|shows|sees|is on|keeps] [the man|the woman|the dog|a boat|{subject}]",
    "[the ball|the balloon|the rocket|the bird|an eagle] [rises|falls|drops|climbs|sinks|flies] [up|down|away|]",
    "[a man|the woman|a child] [in|with] [a white coat|a red dress|a black hat|a golden crown|a yellow jacket]",
    "[the wheel|the dancer|the propeller] [turns|spins|rotates] [left|right|]",
    "[a man|the woman|he|she] [smiles|waits|rests|sits still|stands|remains calm|keeps quiet|holds a lamp|stays]",
    "[a man|the woman|a child|the dog|she|he] in [a|the] [dark|white|red|black|golden|winter|warm|bright] "
    "[coat|dress|hat|jacket|light|room] [looks|turns|walks|waits|leans|goes] [left|right|up|down|"
    "away|back|closer|in|out|]",
    "[a man|the knight|she|he|a child|someone] [opens|closes|pushes|pulls|raises|lifts|lowers|drops|rolls|spins|turns] "
    "[a door|the door|the box|a hand|the wheel|it|the window|the curtain][ up| down| in| out| away| back|||]",
    "[winter|night|autumn|snow|summer|storm|morning] [boots|dress|coat|club|bus|school|paper|shoes|jacket]",
    "[the left|the right|a left|a right|left|right] [hand|shoe|leg|foot|eye]",
    "[a plane|the bird|the rocket|a balloon|the kite|the cat] [goes|comes|flies|climbs|sinks] [up|"
    "down|in|out|left|right]",
    "[nobody|no one|nothing] moves",
    "[light|colours|colors] and shade",
)


def _camera(way: str) -> tuple[str, ...]:
    return (
        f"{CAM} [pans|slides|glides|moves|drifts|sweeps|travels|turns|swings|tracks|shifts|goes|looks|floats]"
        f"{{how}} [to the |towards the ||| on to the ]{way}[|wards|ward||]{ON}{{how}}",
        f"[pan|slide|glide|move|sweep|turn|look|swing|track|drift|travel|shift|go|float]{{how}} [to the |||]"
        f"{way}[|||ward]{ON}",
        f"[a |]{{adj}}[pan|sweep|slide|glide|movement|drift|turn|shift|swing] [to the |||]{way}{ON}{{how}}",
        f"{CAM} [panning|sliding|moving|gliding|turning|drifting|sweeping|tracking]{{how}} [to the |]{way}{ON}",
        f"{CAM} [is |][panning|moving|turned|moved|swept] {way}{{how}}",
        f"[move|turn|swing|slide|pan|sweep|point|shift] [the camera|the view|the lens|the shot]{{how}} "
        f"[to the |||]{way}{ON}",
        f"[pan|{CAM} pans|move|sweep|{CAM} moves|{CAM} glides|slide] from {'right' if way == 'left' else 'left'} "
        f"to {way}{ON}",
    )


_PATTERNS: dict[str, tuple[str, ...]] = {
    "pan_left": _camera("left"),
    "pan_right": _camera("right"),
    "tilt_up": (
        "[raise|lift] [the camera|the view|the lens]{how}[ up||]",
        "[tilt|turn|move|point] [the camera|the view|the lens]{how} [up|upwards]",
        "[up|upwards]{how}",
        f"{CAM} [tilts|looks|moves|goes|drifts|floats|lifts|points|turns|pans]{{how}} [up|upwards|upward|skyward]"
        "[ over {subject}| to the sky| above {subject}| towards the sky|||]{how}",
        f"{CAM} [rises|climbs|lifts|ascends|soars]{{how}}[ up| over {{subject}}| above {{subject}}|]{{how}}",
        "[tilt|look|move|pan|rise|climb|go|turn]{how} [up|upwards]{how}[ to the sky| at the sky| over {subject}||]",
        f"[a |]{{adj}}[tilt|move|look] [up|upwards]{ON}{{how}}",
        f"{CAM} [tilting|rising|climbing|moving|looking]{{how}} [up|upwards]{{how}}",
    ),
    "tilt_down": (
        "[lower|drop|sink|dip] [the camera|the view|the lens]{how}[ down||]",
        "[tilt|turn|move|point] [the camera|the view|the lens]{how} [down|downwards]",
        "[down|downwards]{how}",
        f"{CAM} [tilts|looks|moves|goes|drifts|floats|points|turns|pans]{{how}} [down|downwards|downward]"
        "[ over {subject}| to the ground| below {subject}| towards the ground|||]{how}",
        f"{CAM} [sinks|descends|lowers|drops|dips]{{how}}[ down| to {{subject}}| towards {{subject}}|]{{how}}",
        "[tilt|look|move|pan|sink|descend|go|turn]{how} [down|downwards]{how}[ to the ground| at {subject}||]",
        f"[a |]{{adj}}[tilt|move|look] [down|downwards]{ON}{{how}}",
        f"{CAM} [tilting|sinking|descending|moving|looking]{{how}} [down|downwards]{{how}}",
    ),
    "zoom_in": (
        "[push|move|bring|dolly|take|zoom] [the camera|the view|the shot]{how} [in|closer|forward|"
        "nearer][ to {subject}||]",
        "[close in on|walk towards|run towards|step closer to|come close to|get near|walk closer to] {subject}{how}",
        "[closer|nearer]{how}",
        f"{CAM} closes in on {{subject}}{{how}}",
        f"{CAM} zooms{{how}} [in|into|in on|closer to|towards|] {{subject}}{{how}}",
        "[a |]{adj}zoom[ in| into {subject}| in on {subject}| towards {subject}|]{how}",
        f"{CAM} [moves|comes|goes|glides|drifts|floats|gets|creeps|edges|travels|flies]{{how}} "
        "[closer|nearer|in|inwards|forward|forwards|closer and closer|closer in][ to {subject}| towards "
        "{subject}|]{how}",
        "[push|dolly|move|come|go|glide|creep|get|edge|fly|travel|track]{how} "
        "[in|closer|nearer|forward|inwards|in closer][ on {subject}| to {subject}| towards {subject}||]{how}",
        f"{CAM} [pushes|dollies|creeps|edges|crawls|tracks]{{how}} [in|forward|into {{subject}}|in on {{subject}}|"
        "towards {subject}]{how}",
        f"{CAM} [approaches|advances on|advances towards|nears|magnifies] {{subject}}{{how}}",
        "[a |]{adj}[push|push in|dolly in|approach|move in] [on|to|towards] {subject}{how}",
        f"[a close up of {{subject}}|closer and closer|moving closer{{how}}|zooming in{{how}}|{CAM} zooming in{{how}}]",
    ),
    "zoom_out": (
        "[pull|move|take|bring|dolly|zoom] [the camera|the view|the shot]{how} [back|away|out|farther "
        "away|further back]",
        "[retreat|back away|step back|walk away|back out|move farther away|withdraw|go farther "
        "away]{how}[ from {subject}||]",
        f"{CAM} zooms{{how}} [out|back|away|out of {{subject}}|out from {{subject}}]{{how}}",
        "[a |]{adj}zoom [out|back|away][ from {subject}||]{how}",
        f"{CAM} [moves|goes|glides|drifts|floats|pulls|backs|travels|flies|dollies|creeps]{{how}} "
        "[away|back|out|backwards|farther away|outwards][ from {subject}||]{how}",
        "[pull|move|dolly|go|glide|drift|fly|zoom|get]{how} [back|away|out|backwards][ from {subject}||]{how}",
        f"{CAM} [retreats|recedes|withdraws|widens|pulls back][ from {{subject}}|]{{how}}",
        f"{CAM} [widens|opens wide|gets wider|becomes wider|grows wider]{{how}}[ to reveal {{subject}}||]",
        f"{CAM} [reveals|uncovers] [more|all|the whole] of {{subject}}",
        "[a |]{adj}[pull back|dolly out|pull out|move back|retreat][ from {subject}|]{how}",
        f"[wider and wider|moving away{{how}}|zooming out{{how}}|{CAM} pulling back{{how}}|pulling away{{how}}]",
    ),
    "roll_left": (
        "[roll|rotate|spin|turn|bank] [the camera|the view|the shot]{how} [counterclockwise|anticlockwise]",
        "[roll|rotate|bank] [the camera|the view] [to the |]left{how}",
        f"{CAM} [rolls|rotates|spins|leans|banks]{{how}} [to the |||]"
        "[left|counterclockwise|anticlockwise|counter clockwise]{how}",
        "[roll|rotate|spin|bank|lean]{how} [to the |||][left|counterclockwise|anticlockwise]{how}",
        f"{CAM} [turns|tilts|moves|swings]{{how}} [counterclockwise|anticlockwise|sideways to the left]{{how}}",
        "[a |]{adj}[roll|rotation|turn] [counterclockwise|anticlockwise|roll to the left]",
    ),
    "roll_right": (
        "[roll|rotate|spin|turn|bank] [the camera|the view|the shot]{how} clockwise",
        "[roll|rotate|bank] [the camera|the view] [to the |]right{how}",
        f"{CAM} [rolls|rotates|spins|leans|banks]{{how}} [to the |||][right|clockwise]{{how}}",
        "[roll|rotate|spin|bank|lean]{how} [to the |||][right|clockwise]{how}",
        f"{CAM} [turns|tilts|moves|swings]{{how}} [clockwise|sideways to the right]{{how}}",
        "[a |]{adj}[roll|rotation|turn] [clockwise|roll to the right]",
    ),
    "pan": (
        f"{CAM} [pans|sweeps|tracks|slides|swings]{{how}}[ over| across| along| past|] {{subject}}{{how}}",
        f"{CAM} [pans|is panning|sweeps]{{how}}",
        "[a |]{adj}[pan|sweep|slide][ over| across| along] {subject}{how}",
        "[pan|sweep|slide]{how}[ over| across|] {subject}",
    ),
    "tilt": (f"{CAM} tilts{{how}}", "[a |]{adj}tilt of the camera{how}", "the camera is tilting{how}"),
    "roll": (f"{CAM} [rolls|rotates|banks]{{how}}", "[a |]{adj}[roll|rotation] of the camera{how}"),
    "wander": (
        f"{CAM} [wanders|roams|meanders|explores {{subject}}|moves freely|drifts freely|floats|hovers|drifts]"
        "{how}[ around| around {subject}||]",
        f"{CAM} moves{{how}}[ around| around {{subject}}|]",
        "[wander|roam|a free movement of the camera|a floating camera]{how}",
    ),
    "handheld": (
        "[a |][handheld|hand held|shaky|jittery|wobbly|unsteady] [camera|shot|view]{how}",
        f"{CAM} [shakes|wobbles|jitters|trembles|is handheld|is shaky|is held by hand]{{how}}",
        "handheld{how}",
        "filmed handheld{how}",
    ),
    "night": (
        "[after dark|night swallows {subject}|{subject} sinks into the [dark|night|darkness]|the light goes out{how}]",
        "[the |]night [falls|comes|arrives|begins|sets in|settles]{how} [over|on|around|in|] {subject}",
        "darkness [falls|comes|settles|spreads]{how} [over|on|around] {subject}",
        "it [becomes|gets|grows|turns] [night|dark]{how}[, {subject} in the moonlight| around {subject}|]",
        "{subject} [at|by|in the] [night|midnight|moonlight]",
        "{subject} [grows|becomes|gets|turns] dark{how}",
        "[nightfall|midnight|moonlight|night][ over {subject}| covers {subject}|]",
        "[moonlight|the moonlight] [covers|fills|reaches|spreads over] {subject}",
        "[the day|the light|day] [turns|changes|fades] [in|to|into] [night|darkness]",
        "[the moon|moon] [rises|comes up]{how} over {subject}",
    ),
    "sunrise": (
        "[the sun rose over {subject}|the first light of day|early in the morning]",
        "the sun [rises|comes up|appears|climbs]{how}[ over {subject}| behind {subject}|]",
        "[sunrise|dawn|daybreak|morning|the morning|a golden morning][ over| for| comes to| begins for] {subject}",
        "[dawn|the morning|morning|daybreak|sunrise] [breaks|comes|arrives|begins|spreads]{how} over {subject}",
        "golden light [fills|covers|reaches|spreads over] {subject}",
        "a golden morning[ begins| for {subject}||]",
        "{subject} [in the morning light|at dawn|at sunrise|at daybreak|in the morning]",
    ),
    "noon": (
        "[the midday sun|the noon sun|the bright sun] [shines|is high|beats down|stands high] [over|on] {subject}",
        "[bright |clear |][daylight|sunlight|sunshine] [over|on|fills|covers|comes to] {subject}",
        "[noon|midday][: the sky clears above {subject}| comes to {subject}| over {subject}|]",
        "{subject} at [midday|noon]",
        "a [sunny|cloudless|bright] day[, {subject} in clear daylight| over {subject}|]",
        "the [weather|sky|day] clears{how}[ and {subject} is bright again| over {subject}|]",
        "{subject} [gets|becomes|grows|turns] [bright|sunny|brighter]{how}",
        "the sun shines{how} on {subject}",
        "[the day|the sky|it] [brightens|becomes bright|gets brighter|turns bright]{how}",
    ),
    "sunset": (
        "[golden hour|the golden hour][ over {subject}||]",
        "[the |a |][sunset|dusk|twilight][ over| falls over| comes to| covers] {subject}",
        "the sun [sets|goes down|sinks|is setting]{how}[ behind {subject}| over {subject}|]",
        "dusk: [a red evening light on {subject}|{subject} glows red]",
        "{subject} [in the evening glow|at dusk|at sunset|in the evening|at twilight|in the twilight]",
        "[the |]evening [comes|falls|arrives|begins]{how}[ and the sun sets| over {subject}|]",
        "red [twilight|evening light] covers {subject}",
        "[the day ends in a sunset|a sunset begins|evening|dusk|sunset|twilight]",
    ),
    "fog": (
        "the [fog|mist|haze] [thickens|grows thick|gets dense]{how}",
        "[fog|mist|haze|a thick fog|thick fog|the fog|the mist] [rolls in|comes in|comes|gathers|settles|spreads|grows]"
        "{how}[ over {subject}| around {subject}|]",
        "[fog|mist|haze|the mist|the fog|a thick fog] [covers|hides|fills|reaches|envelops|wraps] {subject}{how}",
        "{subject} [disappears|vanishes|lies|stands] in the [haze|fog|mist]",
        "{subject} [becomes|gets|grows|turns|is] [foggy|misty|hazy]{how}",
        "[it becomes|it gets|a] [foggy|misty][ day|][ around {subject}|]",
        "[fog|mist|haze][ over| around] {subject}",
        "{subject} in [fog|mist|the mist|the haze]",
    ),
    "storm": (
        "[a |the ]storm [gathers|comes|begins|breaks|arrives|reaches]{how}[ over|] {subject}",
        "[dark |][storm|thunder|stormy] clouds [cover|gather over|come over|hide] {subject}{how}",
        "[thunder|a thunderstorm|lightning|a tempest] [comes to|over|reaches|breaks over] {subject}",
        "{subject} [under stormy clouds|in a storm|in the storm|under an overcast sky]",
        "the [weather|sky] [turns|becomes|gets|grows] [stormy|overcast]{how}",
        "[the sky darkens|dark clouds gather|dark clouds come|overcast sky|stormy weather]{how}",
    ),
    "autumn": (
        "[fall colours|fall foliage|the season changes to fall|leaves fall|falling leaves][ around {subject}||]",
        "[autumn|fall|october|the autumn] [comes|arrives|begins]{how}[ to {subject}|]",
        "{subject} in [autumn|autumn colours|october|autumnal colours]",
        "[yellow|brown|golden|red] leaves [of autumn |]around {subject}",
        "[autumn: |]golden brown leaves [cover|fill] {subject}",
        "[autumn|october|november] [colours|light] [cover |over |]{subject}",
        "the leaves [turn|become|grow|change to] [brown|yellow|red|orange]{how}[ near {subject}|]",
        "[autumn|autumn weather|late autumn]",
        "[the season|summer] [changes|turns] to autumn",
    ),
    "winter": (
        "[snow blankets|snow buries|ice spreads over] {subject}{how}",
        "{subject} is [buried under|blanketed in|covered with] snow",
        "[winter|the winter|december] [comes|arrives|begins]{how}[ to {subject}|]",
        "[snow|fresh snow|frost|ice|frost and ice|white snow] [covers|settles on|spreads over|hides] {subject}{how}",
        "{subject} [on a cold winter day|in winter|in the snow|under snow|in deep snow|covered by snow]",
        "{subject} [freezes|becomes icy|turns white|becomes snowy]{how}",
        "[frost|ice|winter|snow|a cold winter|wintry weather][ on| over| around] {subject}",
        "[everything|the whole scene|the season] [freezes|turns to winter|becomes winter]{how}",
    ),
    "ripple": (
        "the [water|sea|lake|river|ocean|pond|harbour] [ripples|shimmers|glistens|moves|stirs|undulates|splashes]{how}",
        "{many}[waves|ripples] [roll|lap|move|splash|run|spread|drift|come|go|travel] [over|on|across|along|against|] "
        "[the water|the sea|the lake|the shore|the river|the boat|{subject}]{how}",
        "[waves|ripples|small waves|soft ripples] on the [water|sea|lake|river]{how}",
        "[moving|rippling|shimmering|undulating] [water|waves|sea]{how}",
        "the waves [roll|move|lap|come and go|travel]{how}",
    ),
    "sway": (
        "the [trees|leaves|branches|grass|reeds|flowers|bushes|palms|plants|wheat] "
        "[sway|rustle|bend|flutter|tremble|move|stir|wave|quiver|swing]{how}[ in the wind| in the breeze|||]",
        "[the |a |]{many}[wind|breeze] [blows|moves|goes|passes|sweeps|runs|stirs|rustles|bends] "
        "[through|in|over|] the "
        "[trees|grass|leaves|branches|reeds|flowers|forest|field of wheat]{how}",
        "[swaying|rustling|trembling|waving] [trees|grass|leaves|branches|flowers]{how}",
        "[grass|leaves|trees|flowers] in the [wind|breeze]{how}",
        "the grass [sways|waves|bends|moves]{how}",
    ),
    "drift": (
        "{many}[the clouds|clouds|white clouds|the sky's clouds] [drift|float|move|pass|slide|sail|glide|"
        "go|travel|roll]"
        "{how}[ by| past| over the sky| across the sky| over {subject}||]",
        "[drifting|moving|passing|floating|sailing] clouds{how}[ over {subject}|]",
        "the [sky|clouds in the sky] [moves|drifts|move|drift]{how}",
        "a cloud [drifts|passes|floats|sails]{how}[ over {subject}|]",
    ),
    "wind": (
        "[the |a |]{many}[wind|breeze] [blows|rises|comes up|starts|picks up]{how}[ over {subject}|]",
        "[windy|a windy day]",
    ),
    "haze": (
        "[mist|fog|haze|smoke|steam] [drifts|floats|moves|passes|glides]{how} [past|around|over|through|"
        "across] {subject}",
        "[smoke|steam|vapour] [rises|drifts|floats|climbs|goes up|comes]{how}[ from {subject}| over {subject}|]",
        "[drifting|floating|rising|moving] [smoke|mist|fog|steam]{how}",
    ),
    "snow": (
        "[snow|the snow|{many}snow|snowflakes|flakes] [falls|fall|drifts|drift|floats|float|is falling] "
        "[down|from the sky|on {subject}|over {subject}|around {subject}|]{how}",
        "it [snows|is snowing|starts to snow|begins to snow]{how}[ on {subject}|]",
        "[falling|drifting] [snow|snowflakes]{how}",
        "[a snowstorm|a blizzard|snowfall|a flurry of snow] [comes|begins|over {subject}|]",
    ),
    "rain": (
        "[rain drops|raindrops|drops of rain] [fall|come down]{how}",
        "{many}[rain|the rain] [falls|comes|pours|starts|begins|is falling][ down| on {subject}| over {subject}|]{how}",
        "it [rains|is raining|starts to rain|begins to rain]{how}[ on {subject}|]",
        "[falling rain|a downpour|a shower of rain|drizzle|rainfall|a rainstorm|rainy weather][ over {subject}|]{how}",
        "{subject} in the rain",
    ),
    "twinkle": (
        "the [stars|lamps|lights|lanterns|candles|windows|street lamps|streetlights] "
        "[twinkle|flicker|glitter|sparkle|blink|gleam|shine]{how}",
        "[twinkling|flickering|sparkling|glittering] [stars|lights|lamps|lanterns|windows|candles]{how}",
        "a lamp [flickers|blinks]{how}",
    ),
    "calm": (
        "the [water|sea|lake|river|air] [becomes|grows|gets|turns] [calm|still|quiet|smooth and still]{how}",
        "the [wind|breeze|rain|snow|storm|smoke] [dies|stops|ceases|ends|dies down|subsides|fades]{how}",
        "the [waves|ripples|trees|leaves|clouds|branches] [stop|rest|cease|come to rest|stand still|stay "
        "still|stop moving]",
        "[everything|all movement|all motion] [stops|ceases|comes to rest|becomes still|dies down]{how}",
    ),
}
# What any of the lights may also be called, and how it may be asked for by that name.
_NAMES = {
    "night": "[night|midnight|a moonlit night|nighttime]",
    "sunrise": "[sunrise|dawn|morning|daybreak]",
    "noon": "[noon|midday|bright daylight|a sunny day]",
    "sunset": "[sunset|dusk|evening|twilight]",
    "fog": "[fog|mist|a foggy day|haze]",
    "storm": "[a storm|a thunderstorm|stormy weather|an overcast day]",
    "autumn": "[autumn|october|an autumn day|november]",
    "winter": "[winter|a winter day|a snowy day|frost]",
}
_ASKED = (
    "[make it|make it look like|let it be|turn it into|change it to|it is|it becomes|turn to] {name}{how}",
    "[change the light to|change the weather to|the time changes to|the light of|under the light of|as in] {name}",
    "{name}[ now| here|, {subject}| at {subject}||]",
    "{subject}, {name}",
)
for _light, _name in _NAMES.items():
    _PATTERNS[_light] += tuple(pattern.replace("{name}", _name) for pattern in _ASKED)
STAY = (
    "{subject}",
    "{subject} [stays|is|remains|rests|lies|waits] [still|quiet|unchanged|calm|as it is|the same]",
    "[nothing|nothing at all] [changes|happens|moves] around {subject}",
    "{subject} in a quiet, calm moment",
    "{subject} rests, unchanged",
    "everything [stays|remains] as it is",
    "{subject} waits, the light is unchanged",
    "a still view of {subject}",
    "a [static|still|fixed|locked|motionless] [camera|shot|view]",
    f"{CAM} [stays|remains|holds|rests|waits|is|stands|keeps] [still|fixed|static|motionless|locked|in place|quiet]",
    f"{CAM} [does not move|doesn't move|never moves|is not moving|stops|rests|waits|holds]",
    "the light [stays|remains|is] [the same|unchanged|as it is]",
    "no [movement|motion|camera movement|change]",
    "[the camera zooms|zoom] in and out",
    "[the camera pans|pan|move the camera] left and right",
    "[the camera tilts|look|tilt] up and down",
    "",
)
STEADY = (
    f"{CAM} [stays|remains|holds|rests|is|keeps|stands] [still|fixed|static|motionless|locked|quiet|perfectly still]",
    "[a |][static|still|fixed|locked|motionless] [camera|shot|view]",
    f"{CAM} [does not move|doesn't move|never moves|is not moving|is still|rests|waits]",
    "with a [static|still|fixed|locked] camera",
)
_DIAGONAL = (
    f"{CAM} [pans|moves|glides|drifts|sweeps|looks|turns]{{how}} {{a}} and {{b}}{{how}}",
    "[pan|move|look|drift]{how} {a} and {b}{how}",
)
_WAYS = {"pan_left": "left", "pan_right": "right", "tilt_up": "up", "tilt_down": "down"}
_NOT = (
    "[no|without|never any|not any|but no|without any|there is no] "
    "[fog|mist|haze|rain|snow|storm|thunder|wind|clouds|waves|ripples|winter|ice|frost|night|darkness|sunset|zoom|pan|"
    "camera movement|zooming|panning|tilting|roll|smoke|moving clouds|breeze|shake|handheld camera|"
    "drift|autumn leaves]",
    "[without|not] [moving the camera|zooming in|zooming out|panning left|panning right|turning dark|rolling|"
    "zooming|tilting up|getting dark|moving closer|pulling back|shaking]",
    f"{CAM} [does not|doesn't|never|won't|will not|is not|isn't] [pan|move|zoom in|zoom out|zoom|tilt|roll|turn left|"
    "turn right|moving|panning|zooming|look up|rise|rotate|come closer|pull back|shake|shaking]",
    "[don't|do not|never] [zoom|pan|move the camera|zoom in|pan left|pan right|tilt|roll|zoom out|move closer|turn]",
    "[it does not|it doesn't|it never] [rain|snow|get dark|become night|get foggy|get stormy|become winter|freeze]",
    "[don't|do not|never] [turn the day into night|make it night|make it dark|let it snow|let it rain|change the light|"
    "change the season|bring fog|let the sun set]",
    "[never|do not|don't] [pan|zoom|tilt|roll|turn|move] [left|right|in|out|up|down|closer|away]",
    "[no one|nobody] [moves|turns] the camera",
    "not [night|dark|foggy|snowy|rainy|stormy|autumn|winter|sunset][ yet||]",
    "[the sun does not|the sun doesn't|the sun never] [set|rise|go down|come up]",
    "[the water|the trees|the clouds|the leaves|the grass] [does|do] not [move|ripple|sway|drift|stir]",
    "[night|fog|winter|a storm|snow|the rain] [does not|doesn't|never] [come|fall|arrive|cover {subject}]",
)
LEVEL_LIGHT = {"snow": ("winter", 0.4), "rain": ("storm", 0.6)}  # what falling snow and rain do to the light
OPEN = {"pan": "pan_right", "tilt": "tilt_up", "roll": "roll_right"}  # where no way is named
CAMERA_NAMES = (*CAMERAS, "pan", "tilt", "roll", "wander", "handheld")
LIGHT_NAMES = tuple(LIGHTS)
LIVING_NAMES = ("ripple", "sway", "drift", "wind", "haze", "snow", "rain", "twinkle", "calm")
POOLS = {"camera": CAMERA_NAMES, "light": LIGHT_NAMES, "living": LIVING_NAMES}
PLAIN = 0.3  # share of captions that ask for one thing and say nothing else: without them zoom in and out stay one


@dataclass(frozen=True)
class Caption:
    text: str
    move: Move


@dataclass(frozen=True)
class _Clause:
    text: str
    name: str
    amount: float
    wind: float = 0.0


def caption(rng: random.Random) -> Caption:
    """A random prompt: nothing, one, two or three things in any order, sometimes with what is not wanted."""
    if rng.random() < 0.02:
        return _diagonal(rng)
    if rng.random() < PLAIN:
        kind = rng.choices(tuple(POOLS), (0.5, 0.2, 0.3))[0]
        return compose([_pick(kind, rng)], rng, plain=True)
    count = rng.choices((0, 1, 2, 3), (0.10, 0.42, 0.34, 0.14))[0]
    return compose(_names(count, rng), rng)


def compose(names: Sequence[str], rng: random.Random, *, plain: bool = False) -> Caption:
    """A random prompt that asks for the moves `names`. plain: in their normal amount and pace, without fluff."""
    clauses = [_clause(name, rng, plain=plain) for name in names]
    texts = [clause.text for clause in clauses]
    if not names:
        texts.append(_expand(rng.choice(rng.choices((STAY, OTHERS, _NOT), (0.5, 0.3, 0.2))[0]), rng))
    pace = "free"
    if not plain:
        draw = rng.random()
        if draw < 0.16:
            pace = "slow" if rng.random() < 0.6 else "quick"
            position = rng.randrange(len(texts))
            adverb = rng.choice(SLOWLY if pace == "slow" else QUICKLY)
            text = texts[position]
            texts[position] = f"{text} {adverb}" if rng.random() < 0.7 else f"{adverb} {text}"
        if rng.random() < 0.22:
            texts.insert(rng.randint(0, len(texts)), _expand(rng.choice(_NOT), rng))
        if rng.random() < 0.20:
            texts.insert(rng.randint(0, len(texts)), _expand(rng.choice(OTHERS), rng))
        if names and not set(names) & set(CAMERA_NAMES) and rng.random() < 0.15:
            texts.insert(rng.randint(0, len(texts)), _expand(rng.choice(STEADY), rng))
    text = texts[0]
    for other in texts[1:]:
        text = rng.choice(JOINS).format(a=text, b=other)
    if not plain:
        text = _expand(rng.choice(OPENINGS), rng) + text + _expand(rng.choice(ENDINGS), rng)
    for adverb in ("slow", "gentle", "smooth"):
        pace = "slow" if pace == "free" and re.search(rf"\b{adverb}\b", text) else pace
    if re.search(r"\b(fast|quick)\b", text) and pace == "free":
        pace = "quick"
    return Caption(_finish(text, rng), _move(clauses, pace))


def _diagonal(rng: random.Random) -> Caption:
    """“The camera pans left and up”: one verb for two ways."""
    names = [rng.choice(("pan_left", "pan_right")), rng.choice(("tilt_up", "tilt_down"))]
    rng.shuffle(names)
    first, second = (_WAYS[name] for name in names)
    amount, word = rng.choice(
        ((1.0, ""), (1.0, ""), (LITTLE, f" {rng.choice(A_LITTLE)}"), (MUCH, f" {rng.choice(MUCH_MORE)}"))
    )
    pattern = rng.choice(_DIAGONAL).replace("{a}", first).replace("{b}", second)
    text = _expand(_with_one(pattern, "{how}", word, rng), rng)
    return Caption(_finish(text, rng), _move([_Clause("", name, amount) for name in names], "free"))


def _names(count: int, rng: random.Random) -> list[str]:
    """Moves that may be asked for together: now and then two cameras or two lights."""
    kinds = rng.sample(("camera", "light", "living"), count) if count < 3 else ["camera", "light", "living"]
    if count == 1:
        kinds = rng.choices(("camera", "light", "living"), (0.42, 0.34, 0.24))
    names = [_pick(kind, rng) for kind in kinds]
    if count < 3 and rng.random() < 0.12:
        kind = rng.choice(("camera", "light", "living"))
        names.append(_pick(kind, rng))
    if len([name for name in names if name in LIGHT_NAMES]) > 2 or names.count("handheld") > 1:
        return names[:count]
    rng.shuffle(names)
    return list(dict.fromkeys(names))


def _pick(kind: str, rng: random.Random) -> str:
    """A move of a kind; zooms, which are said in more ways than any other, twice as often."""
    pool = POOLS[kind]
    return rng.choices(pool, [2 if name.startswith("zoom") else 1 for name in pool])[0]


def _clause(name: str, rng: random.Random, *, plain: bool) -> _Clause:
    pattern = rng.choice(_PATTERNS[name])
    amount, how, adjective, many = 1.0, "", "", ""
    draw = 1.0 if plain else rng.random()
    if draw < 0.30:
        amount = LITTLE if draw < 0.17 else MUCH
        adverb = rng.choice(A_LITTLE if amount == LITTLE else MUCH_MORE)
        if "{how}" in pattern and (rng.random() < 0.75 or ("{adj}" not in pattern and "{many}" not in pattern)):
            how = f" {adverb}"
        elif "{adj}" in pattern:
            adjective = rng.choice(("slight ", "small ", "subtle ") if amount == LITTLE else ("big ", "long ", "deep "))
        elif "{many}" in pattern:
            many = rng.choice(("slight ", "small ", "faint ") if amount == LITTLE else ("heavy ", "strong ", "great "))
        else:
            amount = 1.0
    if "{adj}" in pattern and not adjective and not plain and rng.random() < 0.3:
        adjective = rng.choice(("slow ", "gentle ", "smooth ", "fast ", "quick "))
    text = _with_one(pattern, "{how}", how, rng)
    text = _with_one(text, "{adj}", adjective, rng)
    text = _with_one(text, "{many}", many, rng)
    wind = 0.0
    if name == "drift" and not plain and rng.random() < 0.3:
        wind = rng.choice((-1.0, 1.0))
        text += rng.choice((" to the ", " ", " towards the ")) + ("left" if wind < 0 else "right")
    return _Clause(_expand(text, rng), name, amount, wind)


def _with_one(pattern: str, slot: str, word: str, rng: random.Random) -> str:
    """The pattern with `word` in one of its slots and the others closed."""
    places = pattern.count(slot)
    chosen = rng.randrange(places) if places else 0
    parts = pattern.split(slot)
    text = parts[0]
    for index, part in enumerate(parts[1:]):
        text += (word if index == chosen else "") + part
    return text


def _expand(pattern: str, rng: random.Random) -> str:
    while found := re.search(r"\[([^\[\]]*)\]", pattern):
        choice = rng.choice(found[1].split("|"))
        pattern = pattern[: found.start()] + choice + pattern[found.end() :]
    while "{subject}" in pattern:
        pattern = pattern.replace("{subject}", rng.choice(SUBJECTS), 1)
    return re.sub(r" +", " ", pattern)


def _move(clauses: Sequence[_Clause], pace: str) -> Move:
    """What the clauses ask for together: camera moves add up, of each level the highest counts."""
    camera = [0.0, 0.0, 0.0, 0.0]
    free, lights, levels = [], {}, {}
    for clause in clauses:
        if clause.name in CAMERAS:
            camera = [a + clause.amount * b for a, b in zip(camera, CAMERAS[clause.name], strict=True)]
        elif clause.name in LIGHTS:
            lights[clause.name] = min(clause.amount, 1.0)
        elif clause.name in OPEN:
            camera = [a + clause.amount * b for a, b in zip(camera, CAMERAS[OPEN[clause.name]], strict=True)]
        elif clause.name in CAMERA_NAMES:
            free.append((clause.name, clause.amount))
        elif clause.name == "wind":
            levels |= {"sway": min(0.7 * clause.amount, 1), "drift": min(0.7 * clause.amount, 1)}
        else:
            level = 1.0 if clause.name == "calm" else min(0.6 * clause.amount, 1.0)
            levels[clause.name] = max(levels.get(clause.name, 0.0), level)
    for name, (light, amount) in LEVEL_LIGHT.items():
        if name in levels and not lights:
            lights[light] = amount
    wind = sum(clause.wind for clause in clauses)
    return Move(tuple(camera), tuple(free), tuple(lights.items())[:2], tuple(levels.items()), wind, pace)


def _finish(text: str, rng: random.Random) -> str:
    text = re.sub(r"\s+([,.;:])", r"\1", re.sub(r" +", " ", text)).strip(" ,;")
    if rng.random() < 0.3:
        text = text.lower()
    elif text:
        text = text[0].upper() + text[1:]
    return text + rng.choice(("", "", ".", "!"))

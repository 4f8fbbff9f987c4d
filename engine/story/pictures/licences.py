"""Which licences a picture may have to become a film: those that let anybody use and change it, also for money.

CC0, public domain, CC BY and CC BY-SA. Not ND: a film is a changed picture. Not NC: nobody here knows what a film is
for. The address of a licence is built here and never taken from an answer.
"""

import re
from dataclasses import dataclass

DEEDS = "https://creativecommons.org"
OPENVERSE_CODES = ("by", "by-sa", "cc0", "pdm")
_VERSION = re.compile(r"[1-4]\.[0-5]")
# Names as Commons shows them: "CC BY-SA 3.0 de", "CC0", "Public domain".
_NAME = re.compile(r"CC (?P<code>BY|BY-SA) (?P<version>[1-4]\.[0-5])(?: (?P<place>[a-z]{2,3}|igo|scotland))?")


@dataclass(frozen=True)
class Licence:
    name: str
    url: str | None


CC0 = Licence("CC0 1.0", f"{DEEDS}/publicdomain/zero/1.0/")
PUBLIC_DOMAIN_MARK = Licence("Public Domain Mark 1.0", f"{DEEDS}/publicdomain/mark/1.0/")
PUBLIC_DOMAIN = Licence("Public domain", None)


def from_code(code: str, version: str | None) -> Licence | None:
    """The licence of Openverse's `license` and `license_version`; None when a film may not be made from it."""
    if code == "cc0":
        return CC0
    if code == "pdm":
        return PUBLIC_DOMAIN_MARK
    if code in ("by", "by-sa") and version and _VERSION.fullmatch(version):
        return _cc(code, version)
    return None


def from_name(name: str) -> Licence | None:
    """The licence that Commons calls `name`; None when a film may not be made from it, or when it is not known."""
    if name in ("CC0", "CC0 1.0"):
        return CC0
    if name.lower() == "public domain":
        return PUBLIC_DOMAIN
    match = _NAME.fullmatch(name)
    return _cc(match["code"].lower(), match["version"], match["place"] or "") if match else None


def _cc(code: str, version: str, place: str = "") -> Licence:
    path = "/".join(part for part in (code, version, place) if part)
    return Licence(f"CC {code.upper()} {version}{f' {place}' if place else ''}", f"{DEEDS}/licenses/{path}/")

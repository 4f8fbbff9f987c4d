"""Which endpoints may be spoken to (S11): this computer, and hosts that the operator has listed, by their exact names.

Everything else, and a model's name or a key that cannot be one, is refused before anything is sent. Knows nothing about
the protocol spoken there.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

from engine.errors import ConfigError

EXAMPLE = "Write it like http://127.0.0.1:8000/v1 or https://llm.example.org/v1."
PRINTABLE = re.compile(r"[!-~]+")
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HOST_NAME = re.compile(rf"{LABEL}(\.{LABEL})*")
ODD_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)")  # as a last label: some resolvers read 127.1, 0x7f.1 or 2130706433
PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")


@dataclass(frozen=True)
class Address:
    """base: the checked URL without a slash at its end; host: with its port when it has one, for people."""

    base: str
    host: str
    is_loopback: bool


def allowed_address(url: str, *, hosts: str, has_key: bool) -> Address:
    """The address that `url` is, when it may be used. Raises `ConfigError`.

    hosts: names or addresses that are allowed beside this computer, with commas. Those need https; http is allowed to
    a listed host as long as no key would travel over it in the clear.
    """
    listed = listed_hosts(hosts)
    if not PRINTABLE.fullmatch(url) or "\\" in url:
        raise ConfigError("The endpoint's URL holds blanks or characters that no URL has.", EXAMPLE)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise ConfigError("The endpoint's URL cannot be read.", EXAMPLE) from err
    if parts.scheme not in ("http", "https"):
        raise ConfigError("The endpoint's URL must begin with http:// or https://.", EXAMPLE)
    if "@" in parts.netloc:
        raise ConfigError("The endpoint's URL must not hold a name or password.", "The key goes into SVI_ENDPOINT_KEY.")
    if "?" in url or "#" in url:
        raise ConfigError("The endpoint's URL must end with its path: no ? and no #.", EXAMPLE)
    if not PATH.fullmatch(parts.path):
        raise ConfigError("The path of the endpoint's URL holds characters that are not allowed.", EXAMPLE)
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ConfigError("The endpoint's URL must end before /chat/completions.", EXAMPLE)
    host = checked_host(parts.hostname or "")
    is_loopback = on_this_computer(host)
    if not is_loopback:
        check_listed(host, listed)
        if parts.scheme == "http" and has_key:
            raise ConfigError(f"The key would travel to {host} unencrypted.", "Use https://, or run without a key.")
    written = f"[{host}]" if ":" in host else host
    place = written if port is None else f"{written}:{port}"
    return Address(f"{parts.scheme}://{place}{parts.path.rstrip('/')}", place, is_loopback)


def listed_hosts(text: str) -> frozenset[str]:
    """The hosts in a list with commas, each checked: a listing that means nothing would be a false comfort."""
    names = [name.strip().lower() for name in text.split(",")]
    for name in filter(None, names):
        try:
            checked_host(name.removeprefix("[").removesuffix("]"))
        except ConfigError as err:
            raise ConfigError(
                f"“{name[:80]}” in SVI_ENDPOINT_HOSTS is not a host.", "List names alone: llm.example.org, 10.0.0.5"
            ) from err
    return frozenset(name.removeprefix("[").removesuffix("]") for name in names if name)


def checked_host(host: str) -> str:
    """`host` when it has one meaning only: a plain DNS name, or an IP address written the usual way."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not HOST_NAME.fullmatch(host) or len(host) > 253 or ODD_NUMBER.fullmatch(host.rpartition(".")[2]):
            raise ConfigError("The endpoint's host is not a plain name or address.", EXAMPLE) from None
        return host
    if str(address) != host or "%" in host:
        raise ConfigError("The endpoint's address is written in an unusual way.", f"Write {address}.")
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.sixtofour or address.teredo):
        raise ConfigError("The endpoint's address wraps another one.", "Write the IPv4 address itself.")
    if address.is_unspecified or address.is_multicast:
        raise ConfigError(f"{host} is not the address of one computer.", EXAMPLE)
    return host


def on_this_computer(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_listed(host: str, listed: frozenset[str]) -> None:
    if host not in listed:
        raise ConfigError(
            f"The endpoint's host {host} is not on this computer and not listed.",
            f"The operator allows it with SVI_ENDPOINT_HOSTS={host}.",
        )


def checked_model(model: str) -> str:
    """The model's name as the server knows it, which is shown on the page and sent, and nothing else."""
    if not re.fullmatch(r"[\w.:/@+-]{1,200}", model):
        raise ConfigError(
            "The endpoint's model has no name yet, or one with odd characters.",
            "Set SVI_ENDPOINT_MODEL to what the server calls it.",
        )
    return model


def has_key(key: SecretStr) -> bool:
    """Whether there is a key. One that cannot travel in a header raises `ConfigError`, which does not repeat it."""
    secret = key.get_secret_value()
    if secret and not re.fullmatch("[!-~]+", secret):
        raise ConfigError(
            "The endpoint's key holds blanks, line ends or other characters that no key has.",
            "Set SVI_ENDPOINT_KEY again.",
        )
    return bool(secret)

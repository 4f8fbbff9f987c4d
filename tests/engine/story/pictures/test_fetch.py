"""What the one fetcher opens, and the many things it does not (S10)."""

import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from engine.errors import BackendUnavailable
from engine.story.pictures import fetch
from engine.story.pictures.fetch import Fetcher
from tests.engine.story.pictures.loopback import PUBLIC, answer, redirect

HOST = "pictures.test"
FILE = f"https://{HOST}/a.jpg"
MOST = 25_000_000

# Never opened, and never even looked up: none of them names an allowed host over https at port 443.
REFUSED = [
    "http://pictures.test/a.jpg",
    "HTTP://pictures.test/a.jpg",
    "ftp://pictures.test/a.jpg",
    "file:///etc/passwd",
    "file://pictures.test/etc/passwd",
    "gopher://pictures.test:443/_GET",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "jar:https://pictures.test/a!/b",
    "view-source:https://pictures.test/",
    "",
    "/a.jpg",
    "//pictures.test/a.jpg",
    "https:pictures.test/a.jpg",
    "https:/pictures.test/a.jpg",
    "https:///pictures.test/a.jpg",
    "https://",
    "https:// pictures.test/a.jpg",
    " https://pictures.test/a.jpg",
    "https://pictures.test/a.jpg\n",
    "https://pictures.test/a\r\nHost: evil.test",
    "https://pictures.test/a b.jpg",
    "https://pictures.test/a\x00.jpg",
    "https://pictures.test/\u202egpj.exe",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://0/",
    "https://localhost/",
    "https://localhost.localdomain/",
    "https://127.0.0.1.nip.io/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[fe80::1%25eth0]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fd00:ec2::254]/latest/meta-data/",
    "https://169.254.169.254/latest/meta-data/",
    "https://169.254.170.2/v2/credentials",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://100.100.100.200/latest/meta-data/",
    "https://168.63.129.16/machine",
    "https://192.0.0.192/opc/v1/instance/",
    "https://10.0.0.1/",
    "https://192.168.0.1/",
    "https://evil.test/a.jpg",
    "https://evil.test/pictures.test",
    "https://evil.test?pictures.test",
    "https://evil.test#pictures.test",
    "https://evil.test#@pictures.test/",
    "https://evil.test\\@pictures.test/",
    "https://pictures.test\\@evil.test/",
    "https://pictures.test@evil.test/a.jpg",
    "https://user@pictures.test/a.jpg",
    "https://user:password@pictures.test/a.jpg",
    "https://:@pictures.test/a.jpg",
    "https://pictures.test:80/a.jpg",
    "https://pictures.test:8443/a.jpg",
    "https://pictures.test:443@evil.test/a.jpg",
    "https://pictures.test:0443/a.jpg",
    "https://pictures.test:/a.jpg",
    "https://pictures.test:443:22/a.jpg",
    "https://pictures.test./a.jpg",
    "https://pictures.test../a.jpg",
    "https://.pictures.test/a.jpg",
    "https://pictures.test.evil.test/a.jpg",
    "https://evilpictures.test/a.jpg",
    "https://sub.pictures.test/a.jpg",
    "https://pictures.test%2eevil.test/a.jpg",
    "https://pictures%2etest/a.jpg",
    "https://pictures.test%00.evil.test/a.jpg",
    "https://pictures\u3002test/a.jpg",
    "https://pictures\uff0etest/a.jpg",
    "https://p\u0456ctures.test/a.jpg",
    "https://xn--pctures-q2e.test/a.jpg",
    "https://\uff50ictures.test/a.jpg",
    "https://pictures.te\u017ft/a.jpg",
    "https://pictures.test\u2044a.jpg",
    "https://pictures.test\uff0fa.jpg",
    "https://pictures.test;evil.test/a.jpg",
    "https://pictures.test?https://evil.test",
    f"https://pictures.test/{'a' * 5000}",
]

# Those of them that fit into a header, without the relative ones, which a redirect may be.
HOSTILE_LOCATIONS = [
    address
    for address in REFUSED
    if address.isascii() and address.isprintable() and address.strip() == address != "" and address[0] != "/"
]

HOSTILE_ADDRESSES = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "192.88.99.1", "168.63.129.16", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::",
    "2002:808:808::", "3fff::1", "4000::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0",
    "fec0::1", "ff02::1", "2130706433", "0x7f.1", "127.1", "017700000001", "not an address", "", "93.184.216.34:443",
]  # fmt: skip


def refused(web, address: str = FILE, **options: float) -> BackendUnavailable:
    with pytest.raises(BackendUnavailable) as refusal:
        web.fetcher(HOST, **options).get(address, accept="image/*", max_bytes=MOST)
    assert refusal.value.message.count(".") >= 1 and refusal.value.hint
    return refusal.value


def test_a_file_of_an_allowed_host_is_fetched_at_the_pinned_address(web):
    web.answers["/a.jpg"] = answer(b"the picture")
    assert web.fetcher(HOST).get(FILE, accept="image/jpeg", max_bytes=MOST) == b"the picture"
    assert web.connected == [(PUBLIC, 443)]
    assert web.names == [HOST]
    assert web.requests == [(HOST, "/a.jpg")]


@pytest.mark.parametrize("spelled", ["https://PICTURES.test/a.jpg", "https://pictures.test:443/a.jpg"])
def test_other_spellings_of_the_same_address_are_the_same(web, spelled):
    web.answers["/a.jpg"] = answer(b"the picture")
    assert web.fetcher(HOST).get(spelled, accept="*/*", max_bytes=MOST) == b"the picture"


def test_a_request_names_the_product_and_carries_nothing_of_anybody(web, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    web.answers["/a.jpg"] = answer(b"x", set_cookie="tracked=1")
    fetcher = web.fetcher(HOST, contact="studio@example.org")
    fetcher.get(FILE, accept="image/jpeg", max_bytes=MOST)
    fetcher.get(FILE, accept="image/jpeg", max_bytes=MOST)
    assert web.headers[0] == web.headers[1]
    assert set(web.headers[1]) == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert web.headers[1]["user-agent"].startswith("StableVideoInfinityStudio/")
    assert "(studio@example.org)" in web.headers[1]["user-agent"]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_an_allowed_host_over_https_is_never_opened(web, address):
    refused(web, address)
    assert web.resolved == [] and web.connected == []


@pytest.mark.parametrize("location", HOSTILE_LOCATIONS)
def test_a_redirect_is_checked_like_any_other_address(web, location):
    web.answers["/a.jpg"] = redirect(location)
    refused(web)
    assert web.requests == [(HOST, "/a.jpg")]


def test_the_suite_is_as_large_as_it_says():
    assert len(set(REFUSED)) >= 60 and len(set(HOSTILE_ADDRESSES)) >= 40


@pytest.mark.parametrize("location", ["/b.jpg", "//pictures.test/b.jpg", "https://pictures.test/b.jpg"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_within_the_allowed_hosts_is_followed(web, location, status):
    web.answers |= {"/a.jpg": redirect(location, status), "/b.jpg": answer(b"moved here")}
    assert web.fetcher(HOST).get(FILE, accept="*/*", max_bytes=MOST) == b"moved here"
    assert len(web.connected) == len(web.resolved) == 2


def test_three_redirects_are_followed_and_a_fourth_is_not(web):
    web.answers |= {f"/{n}": redirect(f"/{n + 1}") for n in range(9)} | {"/3": answer(b"there")}
    assert web.fetcher(HOST).get(f"https://{HOST}/0", accept="*/*", max_bytes=MOST) == b"there"
    web.answers["/3"] = redirect("/4")
    web.requests.clear()
    refused(web, f"https://{HOST}/0")
    assert len(web.requests) == 4


@pytest.mark.parametrize("location", ["", "b.jpg", "?b", "\xe9"])
def test_a_redirect_to_nowhere_is_an_error(web, location):
    web.answers["/a.jpg"] = redirect(location)
    refused(web)
    assert len(web.requests) == 1


@pytest.mark.parametrize("address", HOSTILE_ADDRESSES)
def test_a_name_that_leads_inside_is_never_connected_to(web, address):
    for answers in ([address], [PUBLIC, address], [address, PUBLIC]):
        web.addresses = lambda host, answers=answers: answers
        refused(web)
    assert web.connected == []


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "2606:4700::6810:85e5", "2620:0:861:ed1a::2:b", "2a02:ec80:300::1"]
)
def test_public_addresses_are_public(address):
    assert fetch.is_public(address)


def test_a_name_is_looked_up_once_a_request_and_that_answer_is_connected_to(web):
    """DNS rebinding: a resolver that says something else the second time is not asked a second time."""
    answers = iter([["93.184.216.99"], ["127.0.0.1"]])
    web.addresses = lambda host: next(answers)
    web.answers["/a.jpg"] = answer(b"the picture")
    assert web.fetcher(HOST).get(FILE, accept="*/*", max_bytes=MOST) == b"the picture"
    assert web.connected == [("93.184.216.99", 443)]
    refused(web)
    assert len(web.connected) == 1


def test_a_redirect_to_the_same_host_is_looked_up_again(web):
    answers = iter([[PUBLIC], ["169.254.169.254"]])
    web.addresses = lambda host: next(answers)
    web.answers["/a.jpg"] = redirect("/b.jpg")
    refused(web)
    assert web.connected == [(PUBLIC, 443)]


def test_a_name_without_an_address_is_not_reached(web):
    def unknown(host):
        raise socket.gaierror(-2, "Name or service not known")

    for addresses in (unknown, lambda host: []):
        web.addresses = addresses
        refused(web)
    assert web.connected == []


def test_the_next_address_is_tried_when_one_does_not_answer(web):
    web.addresses = lambda host: ["2606:4700::1", PUBLIC]
    web.deaf = {"2606:4700::1"}
    web.answers["/a.jpg"] = answer(b"the picture")
    assert web.fetcher(HOST).get(FILE, accept="*/*", max_bytes=MOST) == b"the picture"
    assert web.connected == [("2606:4700::1", 443), (PUBLIC, 443)]
    web.deaf |= {PUBLIC}
    refused(web)


# Time


@pytest.mark.parametrize("deadline_s", [1.0, 10.0, 30.0])
def test_an_address_that_hangs_leaves_time_for_the_next(web, deadline_s):
    web.addresses = lambda host: ["2606:4700::1", "2606:4700::2", PUBLIC]
    web.hanging = {"2606:4700::1", "2606:4700::2"}
    web.answers["/a.jpg"] = answer(b"the picture")
    assert web.fetcher(HOST, deadline_s=deadline_s).get(FILE, accept="*/*", max_bytes=MOST) == b"the picture"
    first, second, last = web.limits_s
    assert min(deadline_s, max(2, deadline_s / 3)) == pytest.approx(first, abs=0.5)
    assert min(deadline_s, max(2, deadline_s / 2)) == pytest.approx(second, abs=0.5)
    assert deadline_s == pytest.approx(last, abs=0.5)
    web.hanging |= {PUBLIC}
    assert "too long" in refused(web).message


def test_a_resolver_that_hangs_is_given_up(web):
    hang = threading.Event()
    web.addresses = lambda host: hang.wait(5) and []
    began = time.monotonic()
    assert "too long" in refused(web, deadline_s=0.2).message
    assert time.monotonic() - began < 2
    hang.set()


def dripping(data: bytes):
    """Sends `data` and then one byte every 20 ms, without end."""

    def send(handler):
        handler.wfile.write(data)
        for _ in range(500):
            handler.wfile.write(b"a")
            time.sleep(0.02)

    return send


@pytest.mark.parametrize(
    "said",
    [
        dripping(b""),
        dripping(b"HTTP/1.1 200 Said\r\nx: "),
        dripping(b"HTTP/1.1 200 Said\r\ncontent-length: 400\r\n\r\n"),
        lambda handler: time.sleep(1),
    ],
    ids=["status", "headers", "body", "silence"],
)
def test_the_deadline_is_for_the_whole_answer(web, said):
    web.answers["/a.jpg"] = said
    began = time.monotonic()
    assert "too long" in refused(web, deadline_s=0.3).message
    assert time.monotonic() - began < 2


def test_redirects_share_one_deadline(web):
    def late(handler):
        time.sleep(0.2)
        handler.wfile.write(redirect("/a.jpg"))

    web.answers["/a.jpg"] = late
    refused(web, deadline_s=0.3)
    assert len(web.requests) <= 2


# Bytes


def endless(head: bytes, piece: bytes):
    """Sends `piece` for as long as the client listens, at most 60 MB. Returns the sender and what it counts."""
    sent = [0]

    def send(handler):
        handler.wfile.write(head)
        for _ in range(60_000_000 // len(piece)):
            handler.wfile.write(piece)
            sent[0] += len(piece)

    return send, sent


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 Said\r\n\r\n", b"a" * 65536),
        (b"HTTP/1.1 200 Said\r\ntransfer-encoding: chunked\r\n\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n"),
        (b"HTTP/1.1 200 Said\r\ntransfer-encoding: chunked\r\n\r\n1;", b"x" * 65536),
        (b"HTTP/1.1 200 Said\r\n", b"x: " + b"a" * 4000 + b"\r\n"),
        (b"HTTP/1.1 200 Said\r\nx: ", b"a" * 65536),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
        (b"", b"\0" * 65536),
    ],
    ids=["body", "chunks", "chunk extension", "headers", "one header", "continue", "early hints", "zeros"],
)
def test_an_endless_answer_is_cut_off(web, head, piece):
    web.answers["/a.jpg"], sent = endless(head, piece)
    with pytest.raises(BackendUnavailable) as refusal:
        web.fetcher(HOST, deadline_s=30).get(FILE, accept="*/*", max_bytes=100_000)
    assert "too long" not in refusal.value.message  # its bytes ended it, not its time
    assert sent[0] < 20_000_000


def test_an_answer_that_declares_too_much_is_not_read(web):
    for length in ("25000001", "9" * 30):
        web.answers["/a.jpg"] = answer(b"a", content_length=length)
        refused(web)


def test_an_answer_of_exactly_the_limit_passes(web):
    web.answers["/a.jpg"] = answer(b"a" * 1000)
    assert len(web.fetcher(HOST).get(FILE, accept="*/*", max_bytes=1000)) == 1000
    with pytest.raises(BackendUnavailable, match="more than"):
        web.fetcher(HOST).get(FILE, accept="*/*", max_bytes=999)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, gzip", "GZIP", "zstd"])
def test_a_compressed_answer_is_refused_before_it_is_unpacked(web, encoding):
    web.answers["/a.jpg"] = answer(gzip.compress(b"\0" * 5_000_000), content_encoding=encoding)
    assert "compressed" in refused(web).message


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\r\n\r\n",
        b"not http at all",
        b"HTTP/1.1 200 Said\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 Said\r\ncontent-length: -1\r\n\r\nabc",
        b"HTTP/1.1 200 Said\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 Said\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 Said\r\nbad header\r\n\r\nabc",
        b"HTTP/1.1 20x Said\r\n\r\n",
    ],
)
def test_a_broken_answer_is_an_error(web, said):
    web.answers["/a.jpg"] = said
    refused(web)


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 407, 418, 429, 500, 503])
def test_only_200_is_an_answer(web, status):
    web.answers["/a.jpg"] = answer(b"", status)
    said = refused(web)
    assert ("pause" in said.message) == (status == 429)


# TLS, for real


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    names = ["-addext", f"subjectAltName=DNS:{HOST}", "-keyout", folder / "key", "-out", folder / "certificate"]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return folder


class Loopback(fetch.httpcore.SyncBackend):
    """Every connection ends at one port of this machine; TLS is the real one."""

    def __init__(self, port: int) -> None:
        self._port = port

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        return super().connect_tcp("127.0.0.1", self._port, timeout)


def over_tls(certificate, address: str, *, trusted: bool) -> tuple[bytes, list[str]]:
    """What a TLS server on loopback is asked at `address` by a fetcher, and the names it is greeted with."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "certificate", certificate / "key")
    names: list[str] = []
    server.sni_callback = lambda connection, name, context: names.append(name)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            with server.wrap_socket(listener.accept()[0], server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(answer(b"over TLS"))
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    context = ssl.create_default_context(cafile=certificate / "certificate") if trusted else None
    fetcher = Fetcher(
        {HOST, "other.test"},
        resolve=lambda host: [PUBLIC],
        backend=Loopback(listener.getsockname()[1]),
        ssl_context=context,
        deadline_s=5,
    )
    try:
        return fetcher.get(address, accept="*/*", max_bytes=MOST), names
    finally:
        listener.close()


def test_the_handshake_names_the_host_though_the_address_is_pinned(certificate):
    assert over_tls(certificate, FILE, trusted=True) == (b"over TLS", [HOST])


def test_a_certificate_of_another_host_is_refused(certificate):
    with pytest.raises(BackendUnavailable):
        over_tls(certificate, "https://other.test/a.jpg", trusted=True)


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate):
    with pytest.raises(BackendUnavailable):
        over_tls(certificate, FILE, trusted=False)

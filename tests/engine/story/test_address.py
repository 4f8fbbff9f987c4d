import pytest
from pydantic import SecretStr

from engine.errors import ConfigError
from engine.story.address import allowed_address, checked_model, has_key

LISTED = "llm.example.org, 10.0.0.5,fd00::7"


def allowed(url, *, hosts=LISTED, key=True):
    return allowed_address(url, hosts=hosts, has_key=key)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://localhost:11434/v1/", "http://[::1]/v1", "https://127.8.8.8/v1"]
)
def test_this_computer_is_always_allowed_and_may_get_the_key_over_http(url):
    address = allowed(url, hosts="")
    assert address.is_loopback and address.base == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["https://llm.example.org/v1", "https://10.0.0.5:8443/v1", "https://[fd00::7]/v1", "https://LLM.example.org"]
)
def test_a_listed_host_is_allowed_over_https(url):
    address = allowed(url)
    assert not address.is_loopback and address.base == url.lower()


def test_http_to_a_listed_host_is_allowed_only_without_a_key():
    assert allowed("http://10.0.0.5:8000/v1", key=False).host == "10.0.0.5:8000"
    with pytest.raises(ConfigError, match="unencrypted"):
        allowed("http://10.0.0.5:8000/v1", key=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example.org/v1",
        "https://llm.example.org.evil.example/v1",
        "https://xllm.example.org/v1",
        "https://10.0.0.50/v1",
        "http://169.254.169.254/v1",
        "https://0.0.0.0/v1",
        "https://[::]/v1",
        "https://224.0.0.1/v1",
        "https://127.0.0.1@evil.example/v1",
        "https://llm.example.org:key@evil.example/v1",
        "https://evil.example\\@llm.example.org/v1",
        "https://evil.example#@llm.example.org/v1",
        "https://llm.example.org/v1?to=evil.example",
        "https://llm.example.org/v1#x",
        "https://llm.example.org/../v1",
        "https://llm.example.org/%2e%2e/v1",
        "https://llm.example.org//evil.example/v1",
        "https://llm.example.org:99999/v1",
        "https://llm.example.org:x/v1",
        "https://llm.example.org/v1/chat/completions",
        "https://llm.example.org./v1",
        "https://localhost./v1",
        "https://localhost.evil.example/v1",
        "https://ｌｌｍ.example.org/v1",
        "https://llm。example.org/v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://0x7f.0.0.1/v1",
        "http://0177.0.0.1/v1",
        "http://127.1/v1",
        "http://127.0.0.01/v1",
        "http://[::ffff:127.0.0.1]/v1",
        "http://[::ffff:7f00:1]/v1",
        "http://[0:0:0:0:0:0:0:1]/v1",
        "http://[2002:7f00:1::]/v1",
        "http://[::1%25lo]/v1",
        "http://[::1/v1",
        "http:///v1",
        "http://",
        "//127.0.0.1/v1",
        "127.0.0.1:8000/v1",
        "ftp://127.0.0.1/v1",
        "file:///etc/passwd",
        "unix:///run/llm.sock",
        "javascript:alert(1)",
        "http://127.0.0.1/v1\r\nX-Key: 1",
        " http://127.0.0.1/v1",
        "http://127.0.0.1 /v1",
        "",
    ],
)
def test_any_other_address_is_refused_with_what_to_do(url):
    with pytest.raises(ConfigError) as err:
        allowed(url, key=False)
    assert err.value.hint and "key@evil" not in str(err.value)


@pytest.mark.parametrize(
    "hosts", ["*", "*.example.org", "https://llm.example.org", "llm.example.org:443", "a b", "127.1"]
)
def test_a_listing_that_means_nothing_is_refused(hosts):
    with pytest.raises(ConfigError, match="SVI_ENDPOINT_HOSTS"):
        allowed("http://127.0.0.1/v1", hosts=hosts)


@pytest.mark.parametrize("secret", ["zebra 4711", "zebra\n", "zebra\t", "zebrä", "\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_repeated(secret):
    with pytest.raises(ConfigError) as err:
        has_key(SecretStr(secret))
    assert secret.strip() not in str(err.value)


def test_a_model_has_a_plain_name():
    assert checked_model("Qwen/Qwen2.5-VL-7B-Instruct:latest@q4") == "Qwen/Qwen2.5-VL-7B-Instruct:latest@q4"
    for name in ("", "a model", "x\ny", "<b>", "m" * 201):
        with pytest.raises(ConfigError, match="SVI_ENDPOINT_MODEL"):
            checked_model(name)

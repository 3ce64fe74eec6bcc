"""The key: its sources, and its absence from every output and file, whatever a server sends."""

from __future__ import annotations

import base64
import html
import json
import signal
import sys
import time
import urllib.parse
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import wire
from asking import KEY
from hypothesis import example, given
from hypothesis import strategies as st

from aiml_magic import credentials, errors
from aiml_magic.api.masking import Secrets

STREAM = {"Content-Type": "text/event-stream"}
HEADER = "tool-server-secret-42"


def holds(text: str, secret: str = KEY, run: int = 8) -> bool:
    """Whether `text` holds `run` characters of the secret in a row."""
    return any(secret[start : start + run] in text for start in range(len(secret) - run + 1))


def in_json(text: str) -> str:
    """Every character as JSON may escape it."""
    return "".join(f"\\u{ord(sign):04x}" for sign in text)


def in_html(text: str) -> str:
    return "".join(f"&#{ord(sign)};" for sign in text)


def in_address(text: str) -> str:
    return "".join(f"%{ord(sign):02X}" for sign in text)


WRITTEN = {
    "plain": KEY,
    "JSON": in_json(KEY),
    "one escape": KEY.replace("-", "\\u002d"),
    "HTML": in_html(KEY),
    "hexadecimal": "".join(f"&#x{ord(sign):x};" for sign in KEY),
    "address": in_address(KEY),
    "twice": urllib.parse.quote(in_address(KEY)),
    "HTML twice": html.escape(in_html(KEY)),
    "Markdown": KEY.replace("-", "\\-"),
    "base64": base64.b64encode(f"user:{KEY}".encode()).decode(),
}


def read(text: str) -> list[str]:
    """A text with its escapes decoded, once or several times, and its base64."""
    found = [text]
    for _ in range(3):
        text = urllib.parse.unquote(html.unescape(text))
        for sign in sorted(set(KEY)):
            text = text.replace(f"\\u{ord(sign):04x}", sign).replace(f"\\{sign}", sign)
        found.append(text)
    return found


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_masked_as_it_is_written(written):
    """In any encoding of the key, no decoding of the masked text has eight characters of it in a row; the rest stays."""
    masked = Secrets(KEY).mask(f"You sent {written} here.")
    assert not any(holds(text) for text in read(masked))
    assert base64.b64encode(KEY.encode()[3:12]).decode()[:12] not in masked
    assert masked.startswith("You sent ")
    assert masked.endswith(" here.")


around = st.text(max_size=12)


parts = st.tuples(st.integers(0, len(KEY)), st.integers(0, len(KEY))).map(
    lambda ends: KEY[slice(*ends)]
)


@given(around, parts, around, parts, around)
@example("", KEY[:23], "", "", "")
@example("", "", "", KEY[:9], "")
@example("resp_", KEY[9:], "", "", "")
@example("", KEY, "", KEY[4:12], "")
def test_any_part_is_masked(before, part, between, other, after):
    """A masked text that held most of the key, or its beginning at the end, has no eight characters of it in a row; others stay."""
    text = before + part + between + other + after
    masked = Secrets(KEY).mask(text)
    is_told = holds(text, run=17) or any(text.endswith(KEY[:end]) for end in range(8, len(KEY)))
    assert not is_told or not holds(masked)
    assert is_told or text == masked


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from([KEY, KEY[:20], f"a{KEY}b", f"{KEY[:12]}x", in_html(KEY), KEY[9:]]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "type", KEY, f"x-{KEY}"]), inner)
    ),
    max_leaves=12,
)


@given(trees)
def test_any_json(value):
    """Masked JSON that held the key has no eight characters of it in a name or text; other JSON stays unchanged."""
    body = json.dumps(value)
    loaded = Secrets(KEY).load(body)
    is_told = holds(body, run=17) or "&#" in body
    assert not is_told or not holds(json.dumps(loaded))
    assert is_told or loaded == value
    assert json.loads(Secrets(KEY).clean(body.encode())) == loaded


def test_number_that_is_the_key():
    """A key of digits is masked in numbers as well, and the result is valid JSON."""
    assert {"code": "…", "n": [1, 2.5, True]} == Secrets("4711471147114711").load(
        '{"code": 4711471147114711, "n": [1, 2.5, true]}'
    )


@pytest.mark.parametrize("key", ["sk-no-key-required", "lm-studio", "placeholder"])
def test_words_stay(key):
    """Parts of a placeholder for a key stay in texts; the whole placeholder is masked."""
    text = "It is required that the studio and the server have a place."
    secrets = Secrets(key)
    assert text == secrets.mask(text)
    assert "key: …." == secrets.mask(f"key: {key}.")


def test_deep_json():
    """JSON with the deepest allowed nesting is masked as well."""
    body = "[" * 900 + json.dumps(KEY) + "]" * 900
    assert not holds(repr(Secrets(KEY).load(body)))


def test_headers_are_masked():
    """The words of a tool server's headers are secrets under every scheme, except for common words."""
    secrets = Secrets(
        KEY,
        {
            "docs": {
                "Authorization": f"bearer {HEADER}",
                "Cookie": "sid=0123abcd4567; keep-alive",
                "Accept": "text",
            }
        },
    )
    assert "a … b … c text" == secrets.mask(f"a {HEADER} b 0123abcd4567 c text")


def delta(text: str) -> str:
    return f"data: {json.dumps({'type': 'response.output_text.delta', 'output_index': 0, 'delta': text})}\n\n"


def stream(*pieces: str, end: dict | None = None) -> wire.Reply:
    last = f"data: {json.dumps({'type': 'response.completed', 'response': end})}\n\n" if end else ""
    return wire.Reply(200, STREAM, [f"{''.join(map(delta, pieces))}{last}".encode()])


def page(text: str, status: int = 400) -> wire.Reply:
    return wire.Reply(status, {"Content-Type": "text/html"}, [text.encode()])


ECHO = {"code": KEY, "param": f"x.{KEY}", "type": KEY, "message": f"No {KEY}"}
REPLIES = {
    **{f"page, cut {left} before its end": page("x" * (299 - left) + KEY) for left in (1, 8, 22, 23, 24, 25)},
    "page in entities": page(f"<p>Your key {in_html(KEY)}</p>"),
    "page of an odd kind": page(f"Your key {KEY}", 200),
    "long page": page("x" * 19_990 + KEY),
    "page of a mebibyte": page("<i>" * ((2**20 - 12) // 3) + KEY),
    "error's fields": wire.json_reply({"error": ECHO, "requestId": KEY}, 400),
    "error's issues": wire.json_reply({"message": "no", "issues": [{"path": [KEY, 1], "message": KEY}]}, 400),
    "error's names": wire.json_reply({KEY: KEY}, 400),
    "error in escapes": wire.Reply(400, {}, [f'{{"message":"{in_json(KEY)}","requestId":"{KEY}"}}'.encode()]),
    "error in success": wire.json_reply({"error": ECHO}),
    "redirect": wire.Reply(302, {"Location": f"https://e.example/?key={KEY}"}),
    "another coding": wire.Reply(200, {"Content-Encoding": KEY}, [b"x"]),
    "wait": wire.Reply(400, {"Retry-After": KEY, "x-inference-id": KEY}),
    "no HTTP": wire.Reply(raw=f"HTTP/1.1 {KEY}\r\n\r\n".encode()),
    "no header": wire.Reply(raw=f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode()),
    "id": wire.json_reply(wire.response(id=f"resp_{KEY}")),
    "everywhere": wire.json_reply(
        wire.response(KEY, id=KEY, model=KEY, status=KEY, metadata={KEY: [KEY]}, previous_response_id=KEY)
        | {"output": [{"type": KEY, "id": KEY, "name": KEY}, {"type": "message", "content": [{"type": "output_text", "text": KEY}]}]}
    ),
    "failed": wire.json_reply(wire.response(status="failed", error={"code": KEY, "message": KEY})),
    "cut": wire.Reply(200, {"Content-Type": "application/json"}, [f'{{"output_text": "{KEY[:20]}'.encode()], end="reset"),
    "sign by sign": stream(*KEY, end=wire.response(KEY)),
    "two deltas": stream("So: ", KEY[:7], KEY[7:14], KEY[14:]),
    **{f"delta, cut at {cut}": stream("So: ", KEY[:cut], KEY[cut:]) for cut in (8, 12, 17, 20)},
    "delta and no more": stream("So: ", KEY[:12]),
    "two deltas and no more": wire.Reply(200, STREAM, [(delta(KEY[:20]) + delta(KEY[20:])).encode()], end="reset"),
    "events in pieces": wire.Reply(200, STREAM, [bytes([sign]) for sign in delta(f"{KEY} {in_html(KEY)}").encode()]),
    "events of no kind": wire.Reply(200, {"Content-Type": "text/plain"}, [delta(f"a {KEY}").encode(), delta(KEY).encode()]),
    "event of an error": wire.Reply(200, STREAM, [f"data: {json.dumps({'type': 'error', 'error': ECHO})}\n\n".encode()]),
    "item of a kind": wire.Reply(
        200, STREAM, [f"data: {json.dumps({'type': 'response.output_item.added', 'item': {'type': KEY, 'id': KEY}})}\n\n".encode()]
    ),
}  # fmt: skip


def told(job) -> list[str]:
    """All outputs of a job while it runs, and of its result."""
    seen = []
    for progress in job.follow():
        seen += [repr(progress), repr(job), job.status]
    try:
        came = answer = job.outcome()
    except errors.RequestFailed as error:
        came, answer = error, error.answer
    seen += [repr(vars(came)), str(came), repr(came), job.status, repr(job)]
    if answer is not None:
        seen += [
            repr(vars(answer)),
            str(answer),
            json.dumps(answer.raw),
            repr(answer.items),
            repr(answer.response),
        ]
    return seen


def test_key_that_a_server_echoes(asker, home, capsys):
    """Wherever an answer has the key, no file, attribute or output has eight characters of it in a row."""
    leaks = set()
    for name, reply in REPLIES.items():
        with wire.serve(lambda _, reply=reply: reply) as server:
            if holds(str(told(asker.start(server.url)))):
                leaks.add(name)
    assert set() == leaks
    assert not holds(str(capsys.readouterr()))
    assert not any(
        holds(file.read_bytes().decode("latin-1")) for file in home.rglob("*") if file.is_file()
    )


def test_key_in_what_is_asked_for(asker):
    """Replies and errors of a server for balance, log and models show no part of the key."""
    replies = [wire.json_reply({"current_balance": 1, KEY: [KEY]}), page(f"{'x' * 280}{KEY}")]
    with wire.serve(lambda _: replies.pop(0)) as server:
        assert not holds(str(asker.on(server.url).get("/v2/billing")))
        with pytest.raises(errors.RequestFailed) as failed:
            asker.on(server.url).get("/v2/billing")
        assert not holds(str(vars(failed.value)))


def test_id_that_holds_the_key(asker):
    """A response id that holds the key is dropped: the conversation goes on as a transcript."""
    replies = [
        wire.json_reply(wire.response("One.", id=f"resp_{KEY}")),
        wire.json_reply(wire.response("Two.", id="resp_2")),
    ]
    with wire.serve(lambda _: replies.pop(0)) as server:
        assert asker.ask(server.url, "First?").id is None
        assert "Two." == asker.ask(server.url, "Second?").text
        second = server.posts[1].body
    assert "previous_response_id" not in second
    assert ["First?", "One.", "Second?"] == [
        part["text"] for item in second["input"] for part in item["content"]
    ]


def test_address_that_holds_the_key(asker, home):
    """An address that holds the key, which the journal would keep, is refused before anything is sent."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        for address in (
            f"{server.url}/{KEY}",
            server.url.replace("//", f"//user:{KEY}@"),
            f"{server.url}?key={KEY}",
        ):
            with pytest.raises(errors.BadInput) as refused:
                asker.ask(address)
            assert not holds(str(refused.value))
    assert [] == server.requests
    assert not any(
        holds(file.read_bytes().decode("latin-1")) for file in home.rglob("*") if file.is_file()
    )


KEYS = [
    *(f"{before}{KEY}{after}" for before, after in [("", ""), ('"', '"'), ("'", "'\n"), ("“", "”"), ("  ", "\r\n"), ("\ufeff", "\n"),
                                                    ("\u200b\u00a0", "\u2060\u00ad"), ("Bearer ", ""), ("\x00", "\x1b"), ("", ";")]),
    f"AIML_API_KEY={KEY}", f"export AIML_API_KEY='{KEY}'", f'  export AIMLAPI_API_KEY = "{KEY}" ', f"set AIML_API_KEY={KEY}\r",
    f'$env:AIML_API_KEY="{KEY}"', f'"AIML_API_KEY": "{KEY}",', f"Authorization: Bearer {KEY}", f'setx AIML_API_KEY "{KEY}"',
]  # fmt: skip


@pytest.mark.parametrize("text", KEYS, ids=range(len(KEYS)))
def test_what_is_copied_along(text, home, monkeypatch):
    """Characters that are easily copied along with a key are removed, in the environment and in the file."""
    home.mkdir()
    (home / "key").write_text(text, "utf-8", newline="")
    if "\0" not in text:
        monkeypatch.setenv("AIML_API_KEY", text)
        assert KEY == credentials.need_key().text
    monkeypatch.delenv("AIML_API_KEY")
    assert KEY == credentials.need_key().text


@pytest.mark.parametrize(
    "text",
    [
        "two words",
        f"{KEY}\n{KEY}",
        "sk-\u200b0123456789",
        'sk-"0123456789',
        "sk-…cdef",
        "ключ-к-апи",
    ],
)
def test_what_is_no_key(text, home, monkeypatch):
    """A text that cannot be a key is an error of two lines that does not show it."""
    monkeypatch.setenv("AIML_API_KEY", text)
    with pytest.raises(errors.BadInput) as refused:
        credentials.need_key()
    assert 2 == len(str(refused.value).splitlines())
    assert text not in str(refused.value)


@pytest.mark.parametrize("text", ['""', " ", "AIML_API_KEY=", "\ufeff"])
def test_no_key_at_all(text, home, monkeypatch):
    """A variable with only blanks, quotes or a prefix counts as empty, and the next source is used."""
    monkeypatch.setenv("AIML_API_KEY", text)
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    assert "AIMLAPI_API_KEY" == credentials.need_key().source


SECRET = "key-among-secrets-0123456789"
REFUSALS = [
    type(name, (Exception,), {})
    for name in ("NotebookAccessError", "SecretNotFoundError", "TimeoutException")
]


@pytest.fixture
def colab(home, monkeypatch):
    """Loads a stand-in for Colab's package, whose secrets a function returns; yields the requested names."""
    return partial(_service, monkeypatch, "google.colab")


@pytest.fixture
def kaggle(home, monkeypatch):
    monkeypatch.setenv("KAGGLE_USER_SECRETS_TOKEN", "a.token.of.kaggle")
    return partial(_service, monkeypatch, "kaggle_secrets")


def _service(monkeypatch, module, answer):
    asked = []

    def get(name):
        asked.append(name)
        return answer()

    for variable in credentials.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(credentials, "_replies", {})
    made = ModuleType(module)
    made.userdata = SimpleNamespace(get=get)
    made.UserSecretsClient = lambda: SimpleNamespace(get_secret=get)
    monkeypatch.setitem(sys.modules, module, made)
    return asked


def refuse(kind):
    raise kind(f"No {SECRET}.")


@pytest.mark.parametrize("name", ["Colab", "Kaggle"])
def test_secret_of_a_service(name, request, shell, monkeypatch, capsys):
    """The secret of Colab or Kaggle is the key: requested once, after the environment, named in the status, and shown nowhere."""
    asked = request.getfixturevalue(name.lower())(lambda: f" {SECRET}\n")
    monkeypatch.setenv("AIML_API_KEY", KEY)
    assert KEY == credentials.need_key().text
    assert not asked
    monkeypatch.delenv("AIML_API_KEY")
    with wire.serve(lambda _: wire.json_reply({"current_balance": 1, "echo": SECRET})) as server:
        shell.run_line_magic("config", f"O3Pro.base_url = {server.url!r}")
        shell.run_cell("%aiml status\n%aiml status")
    told = "".join(capsys.readouterr())
    assert f"Key      {name}'s secret AIML_API_KEY, …6789" in told
    assert SECRET not in told + repr(credentials.need_key())
    assert f"Bearer {SECRET}" == server.requests[0].headers["authorization"]
    assert ["AIML_API_KEY"] == asked


@pytest.mark.parametrize("kind", [*REFUSALS, SystemExit])
def test_service_that_refuses(kind, colab, home, shell, capsys):
    """After a refusal of a service the next source is used; the message has no words of the service, and it is not asked again."""
    asked = colab(partial(refuse, kind))
    with pytest.raises(errors.NoKey, match=f"secret AIML_API_KEY: {kind.__name__}; asked again"):
        credentials.need_key()
    shell.run_cell("%aiml status")
    told = "".join(capsys.readouterr())
    assert (
        f"none: %aiml login, or set AIML_API_KEY (Colab's secret AIML_API_KEY: {kind.__name__};"
        in told
    )
    assert SECRET not in told
    home.mkdir(exist_ok=True)
    (home / "key").write_text(KEY)
    assert KEY == credentials.need_key().text
    assert ["AIML_API_KEY"] == asked


@pytest.mark.parametrize("reply", [None, "", " ", 7])
def test_service_without_a_key(reply, kaggle):
    """A source without a key counts as missing."""
    kaggle(lambda: reply)
    assert credentials.find_key() is None


def test_services_elsewhere(monkeypatch, colab, kaggle):
    """Outside Colab and Kaggle neither is asked for a key."""
    asked = [colab(lambda: SECRET), kaggle(lambda: SECRET)]
    monkeypatch.setitem(sys.modules, "google.colab", None)
    monkeypatch.delenv("KAGGLE_USER_SECRETS_TOKEN")
    assert credentials.find_key() is None
    assert [[], []] == asked


def test_interrupt_while_a_service_is_asked(colab):
    """An interrupt ends the wait for the page at once, and does not count as a refusal."""
    asked = colab(lambda: signal.raise_signal(signal.SIGINT) or time.sleep(10))
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            credentials.find_key()
    assert time.monotonic() - began < 5
    assert 2 == len(asked)

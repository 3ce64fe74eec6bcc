"""The stand-in for the API: like the real one, the same in every run, and failing on demand."""

from __future__ import annotations

import http.client
import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

import pytest
import wire
from asking import KEY
from calling import ask, call, text

from aiml_magic import credentials, errors
from aiml_magic.sandbox import memory
from aiml_magic.sandbox import start as sandbox


def test_says_what_it_is(sandbox_url):
    """Every answer says that there is no model, and has the parts of the request."""
    _, response = ask(
        sandbox_url, "What is 6*7?", instructions="Be brief.", reasoning={"effort": "high"}
    )
    for words in ("no model is behind it", "What is 6*7?", "Be brief.", "high", "openai/o3-pro"):
        assert words in text(response)


def test_remembers(sandbox_url):
    """A conversation is remembered by id and by transcript; by id only with `store`."""
    _, one = ask(sandbox_url, "First question")
    _, two = ask(sandbox_url, "Second", previous_response_id=one["id"])
    _, three = ask(sandbox_url, "Third", previous_response_id=two["id"])
    assert "1. First question\n2. Second" in text(three)
    told = [
        {"role": "user", "content": "First question"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "Second"},
    ]
    assert "1. First question" in text(ask(sandbox_url, told)[1])
    _, gone = ask(sandbox_url, "Unstored", store=False)
    status, error = ask(sandbox_url, "More", previous_response_id=gone["id"])
    assert (400, "previous_response_id") == (status, error["error"]["param"])


def test_same_every_time(sandbox_url):
    """The same conversation gets the same response, id, date and usage in every run."""
    assert ask(sandbox_url, "Again?") == ask(sandbox_url, "Again?")


def test_usage_and_cost(sandbox_url):
    """Usage counts reasoning, and the cost is reported as the vendor does, in the body or in the stream's last chunk."""
    _, response = ask(sandbox_url, "Why?", reasoning={"effort": "high", "summary": "auto"})
    assert 1024 == response["usage"]["output_tokens_details"]["reasoning_tokens"]
    assert response["meta"]["usage"]["usd_spent"] > 0
    assert response["output"][0]["summary"]


def test_limit(sandbox_url):
    """A low limit is spent on reasoning, and the answer is incomplete."""
    _, response = ask(sandbox_url, "Why?", max_output_tokens=100)
    assert ("incomplete", {"reason": "max_output_tokens"}, 100) == (
        response["status"], response["incomplete_details"], response["usage"]["output_tokens"])  # fmt: skip


WRONG = [
    {"model": None}, {"input": ""}, {"max_output_tokens": 5}, {"reasoning": {"effort": "huge"}}, {"reasoning": 5}, {"input": [1]},
    {"input": [{"content": 5}]}, {"reasoning": {"effort": ["high"]}},
    {"text": {"format": {"type": "json_schema"}}}, {"text": {"format": "json"}}, {"text": "x"}, {"instructions": 5},
    {"previous_response_id": ["x"]}, {"tools": {"x": 1}}, {"tools": [1]}, {"tools": [{"type": "function"}]},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_validates(sandbox_url, wrong):
    """An invalid request is refused in the vendor's form."""
    status, body = ask(sandbox_url, "x", **wrong)
    assert 400 == status
    assert body["message"].startswith("Body validation error")


def test_needs_a_key(sandbox_url):
    """A request without a key is refused, as by the API."""
    assert (
        401 == call(f"{sandbox_url}/responses", {"model": "m", "input": "x"}, Authorization="")[0]
    )


def test_orders_alone(sandbox_url):
    """A message of orders alone is named so in its answer and in the list of earlier turns."""
    _, first = ask(sandbox_url, "sandbox: delay=0")
    assert "It read orders, and no question.\n\n| sent with it |" in text(first)
    _, second = ask(sandbox_url, "And now?", previous_response_id=first["id"])
    assert "you asked:\n\n1. orders alone\n" in text(second)


def test_background_get_cancel_delete(sandbox_url):
    """A background response is queued, then complete; it can be fetched, cancelled and deleted."""
    _, queued = ask(sandbox_url, "Later?\nsandbox: delay=0.3", background=True)
    assert "queued" == queued["status"]
    one = f"{sandbox_url}/responses/{queued['id']}"
    time.sleep(0.4)
    assert "completed" == call(one)[1]["status"]
    _, slow = ask(sandbox_url, "Never?\nsandbox: delay=60", background=True)
    assert "cancelled" == call(f"{sandbox_url}/responses/{slow['id']}/cancel", {})[1]["status"]
    assert (200, True) == (lambda answer: (answer[0], answer[1]["deleted"]))(
        call(one, method="DELETE")
    )
    assert 404 == call(one)[0]


def test_service_routes(sandbox_url):
    """Models, balance and logs reply like the vendor's; a request is found in the logs by its id."""
    root = sandbox_url.removesuffix("/v1")
    assert "openai/o3-pro" == call(f"{sandbox_url}/models")[1]["data"][0]["id"]
    assert 100.0 == call(f"{root}/v2/billing")[1]["current_balance"]
    call(
        f"{sandbox_url}/responses",
        {"model": "m", "input": "x"},
        **{"X-Client-Request-Id": "find-me"},
    )
    (found,) = [
        entry
        for entry in call(f"{root}/v2/logs")[1]["data"]
        if entry["client_request_id"] == "find-me"
    ]
    assert "succeeded" == found["status"]
    assert found["cost"]["usd"] > 0


@pytest.mark.parametrize(
    "query", ["offset=x", "limit=-1", "limit=", "offset=" + "9" * 5000, "period=x"]
)
def test_logs_that_cannot_be_asked_for(sandbox_url, query):
    """A value other than a number is refused with the vendor's error."""
    assert 400 == call(f"{sandbox_url.removesuffix('/v1')}/v2/logs?{query}")[0]


FAULTS = [
    ("401", errors.AuthError), ("403", errors.OutOfCredits), ("404", errors.NotFound), ("413", errors.PayloadTooLarge),
    ("html", errors.BadGateway), ("504", errors.GatewayTimeout), ("reset", errors.ConnectionLost), ("cut", errors.StreamInterrupted),
    ("empty", errors.MalformedResponse), ("error", errors.ServerError), ("failed", errors.ResponseFailed), ("400", errors.InvalidRequest),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "kind"), FAULTS)
def test_faults(module_asker, sandbox_url, fault, kind):
    """Each fault of the table can be ordered."""
    with pytest.raises(kind) as failed:
        module_asker.ask(sandbox_url, f"Why?\nsandbox: fault={fault}", chat=None)
    assert kind is type(failed.value)


@pytest.mark.parametrize(
    "order",
    ["delay=5s", "delay=nan", "pace=-1", "fault=503 times=x", "fault=999", "fault=200", "deley=5"],
)
def test_wrong_orders(module_asker, sandbox_url, order):
    """An unknown order is refused, so that a typing error is noticed."""
    with pytest.raises(errors.InvalidRequest, match=order.split()[-1]) as refused:
        module_asker.ask(sandbox_url, f"Why?\nsandbox: {order}", chat=None)
    assert not refused.value.may_cost


def test_fault_that_passes(module_asker, sandbox_url):
    """A retry succeeds after a fault with times=1."""
    assert (
        "completed"
        == module_asker.ask(sandbox_url, "Why?\nsandbox: fault=503 times=1", chat=None).status
    )


@pytest.mark.parametrize(
    ("fault", "outcome"), [("incomplete", "incomplete"), ("refusal", "refusal")]
)
def test_unwanted_answers(module_asker, sandbox_url, fault, outcome):
    """Orders produce incomplete, failed and refused answers."""
    assert (
        outcome
        == module_asker.ask(
            sandbox_url, f"Why?\nsandbox: fault={fault}", chat=None
        ).response.outcome
    )


def test_idle_sandbox_ends():
    """An idle sandbox ends by itself."""
    command = [sys.executable, "-m", "aiml_magic.sandbox", "--idle", "0.5"]
    process = subprocess.run(command, capture_output=True, timeout=10, check=False)
    assert 0 == process.returncode


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """The home of a sandbox that runs."""
    sandbox.find_or_start(tmp_path)
    yield tmp_path
    sandbox.stop(tmp_path)


def port_of(url: str) -> int:
    return int(url.split(":")[2].removesuffix("/v1"))


def status_of(port: int, method: str, path: str, body: str = "", **headers: str | None) -> int:
    """The status of a request with exactly these headers; `None` leaves one out."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    sent = {
        "Host": f"127.0.0.1:{port}",
        "Authorization": "Bearer x",
        "Content-Length": str(len(body)),
    } | headers
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body.encode())
    with connection.getresponse() as response:
        assert "access-control-allow-origin" not in {
            name.lower() for name, _ in response.getheaders()
        }
        connection.close()
        return response.status


ROUTES = [
    ("POST", "/v1/responses"), ("GET", "/v1/responses/sandbox_1"), ("DELETE", "/v1/responses/sandbox_1"),
    ("POST", "/v1/responses/sandbox_1/cancel"), ("GET", "/v1/models"), ("GET", "/v2/billing"), ("GET", "/v2/logs"),
    ("GET", "/sandbox"), ("DELETE", "/sandbox"), ("GET", "/elsewhere"), ("OPTIONS", "/v1/responses"),
]  # fmt: skip
QUESTION = json.dumps({"model": "m", "input": "x"})


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{}", "127.0.0.1.evil.example", "localhost.evil.example:{}", "10.0.0.1:{}", "0.0.0.0:{}", "[::2]:{}",
     "127.0.0.1:{}@evil.example", "127.0.0.1, evil.example", "evil@127.0.0.1", "0x7f.1", "2130706433", "", "[", ":{}", None],
)  # fmt: skip
def test_other_names_are_refused(sandbox_url, host):
    """A request with a foreign host name, as after DNS rebinding, is refused before its body is read."""
    port = port_of(sandbox_url)
    for method, path in (
        ("POST", "/v1/responses"),
        ("GET", "/v2/logs"),
        ("DELETE", "/sandbox"),
        ("GET", "/sandbox/proof"),
    ):
        assert status_of(port, method, path, QUESTION, Host=host and host.format(port)) in (
            400,
            403,
        )


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:{}", "localhost", "LOCALHOST:{}", "127.8.9.1:{}", "[::1]", "[::1]:{}"],
)
def test_names_of_this_machine(sandbox_url, host):
    """Each name of loopback is served, with its port and without."""
    port = port_of(sandbox_url)
    assert 200 == status_of(port, "POST", "/v1/responses", QUESTION, Host=host.format(port))


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:8888", "http://127.0.0.1:{}", ""]
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_web_pages_are_refused(sandbox_url, origin, method, path):
    """A web page of any origin can neither ask, read nor stop the sandbox, even with a key."""
    port = port_of(sandbox_url)
    assert 403 == status_of(port, method, path, QUESTION, Origin=origin.format(port))


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_needs_the_token(own, method, path):
    """A sandbox of a home accepts its own token only; one that was started by hand accepts any key."""
    note = sandbox._note(own)
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer x",
        f"Bearer {note.token}x",
        f"Basic {note.token}",
        "Bearer \xff",
    ):
        assert 401 == status_of(note.port, method, path, QUESTION, Authorization=wrong)
    if (method, path) != ("DELETE", "/sandbox"):
        assert 401 != status_of(
            note.port, method, path, QUESTION, Authorization=f"Bearer {note.token}"
        )


@pytest.mark.parametrize("key", [None, "", "Bearer", "Bearer ", "Basic x"])
def test_by_hand_any_key(sandbox_url, key):
    """A sandbox that was started by hand requires a key, but accepts any."""
    assert 401 == status_of(port_of(sandbox_url), "GET", "/v2/logs", Authorization=key)
    assert 200 == status_of(
        port_of(sandbox_url), "GET", "/v2/logs", Authorization="Bearer anything"
    )


def test_proof_is_of_the_token(own):
    """A sandbox's proof is valid for one nonce and one port, and does not reveal the token."""
    note = sandbox._note(own)
    told = {
        sandbox._call(note.port, "GET", f"/sandbox/proof?nonce={nonce}").decode() for nonce in "ab"
    }
    assert told == {credentials.proof(note.token, note.port, nonce) for nonce in "ab"}
    assert credentials.proof(note.token, note.port + 1, "a") not in told
    assert not any(note.token in proof for proof in told)


def echo(request: wire.Request) -> wire.Reply:
    """The answer of an impostor that knows everything but the token."""
    nonce = request.path.rpartition("nonce=")[2]
    if "proof" in request.path:
        return wire.Reply(chunks=[credentials.proof("sandbox-token-", 1, nonce).encode()])
    return wire.json_reply(wire.response("I am the sandbox.") | {"name": "aiml_magic sandbox"})


def test_impostor(asker, home):
    """Another program at the port of an ended sandbox gets neither its token nor a question."""
    asker.session.sandbox_url = sandbox.find_or_start(home)
    assert "no model is behind it" in asker.ask("", "Before?").text
    token = sandbox._note(home).token
    sandbox._started[-1].kill()
    sandbox._started[-1].wait(10)
    with wire.serve(echo, port=port_of(asker.session.sandbox_url)) as impostor:
        with pytest.raises(errors.ConnectError, match="Nothing was sent") as refused:
            asker.ask("", "A secret?")
        assert not refused.value.may_cost
        with pytest.raises(errors.RequestFailed):
            asker.on("").get("/v2/billing")
        asker.session.sandbox_url = sandbox.find_or_start(home)
        assert "no model is behind it" in asker.ask("", "A secret?").text
        assert asker.session.sandbox_url != impostor.url
        assert impostor.requests
        seen = b"".join(
            request.raw + repr((request.path, request.headers)).encode()
            for request in impostor.requests
        )
    assert not any(secret in seen for secret in (token.encode(), b"secret", KEY.encode()))
    sandbox.stop(home)


def test_gone(asker, home):
    """A question to an ended sandbox is not sent, and the error says how to start another."""
    asker.session.sandbox_url = sandbox.find_or_start(home)
    sandbox.stop(home)
    with pytest.raises(errors.AimlMagicError, match="Nothing was sent") as refused:
        asker.ask("", "Why?")
    assert "%aiml sandbox" in refused.value.hint


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="this system shows no environment of a process"
)
def test_key_is_in_no_environment(asker, home, monkeypatch):
    """Neither the sandbox nor the runner has the key in its environment; the runner gets it by its pipe."""
    monkeypatch.setenv("AIMLAPI_API_KEY", f"other-{KEY}")
    asker.session.sandbox_url = sandbox.find_or_start(home)
    asker.ask("", "Why?")
    started = [sandbox._started[-1].pid, asker.asking.runner._child.process.pid]
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in started]
    sandbox.stop(home)
    assert [(True, False)] * 2 == [
        (b"PATH=" in told, KEY.encode() in told) for told in environments
    ]


def test_key_is_not_told_to_the_sandbox(asker, home):
    """A question that holds the API key is refused for the sandbox as well."""
    asker.session.sandbox_url = sandbox.find_or_start(home)
    with pytest.raises(errors.BadInput, match="The API key is part"):
        asker.ask("", f"What is {KEY} for?")
    sandbox.stop(home)


def memory_of(pid: int) -> int:
    """The peak memory of a process in kB, if the system reports it."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else ["VmHWM: 0 kB"]
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def send_what_fits(connection: socket.socket, sent: bytes) -> None:
    """Sends as much as the server reads at once: after a refusal it reads no more."""
    connection.settimeout(0.2)
    try:
        connection.sendall(sent)
    except OSError:
        return


@pytest.mark.parametrize("ending", ["unfinished", "silent"])
def test_memory_is_bounded(ending):
    """Endless and unanswered requests take less than 300 MB together, and a short question is answered meanwhile."""
    orders = "\nsandbox: fault=silent" if ending == "silent" else ""
    text = json.dumps({"model": "m", "input": orders + " " * (20 * 2**20)})
    length = len(text) + (ending == "unfinished")
    head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: {length}\r\n\r\n"
    request = (head + text).encode()
    command = [sys.executable, "-m", "aiml_magic.sandbox"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.terminate)  # also after a failure, which would wait for its end
        url = process.stdout.readline().split()[-1]
        for _ in range(18):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(url))))
            send_what_fits(connection, request)
        assert 200 == ask(url, "Short?")[0]
        peak = memory_of(process.pid)
    assert peak < 300_000


def test_too_long(sandbox_url):
    """A request that is too long is refused as by the API, with and without a Content-Length."""
    assert 413 == ask(sandbox_url, "x" * 33 * 2**20)[0]
    many = {"x": [[]] * 3_000_000}
    assert 400 == ask(sandbox_url, "x", metadata=many)[0]


def test_remembers_in_bounds(monkeypatch):
    """The oldest conversations are removed at the limit of memory; new ones are stored."""
    monkeypatch.setattr(memory, "_MAX_STORED", 2**20)
    state = memory.Memory()
    body = {"model": "m", "store": True}
    ids = [
        state.respond(body | {"input": f"{number} {'x' * 2**18}"}, {})["id"] for number in range(10)
    ]
    assert [False, True] == [ids[place] in state.turns for place in (0, -1)]
    assert (
        sum(len(text) for turns in state.turns.values() for turn in turns for text in turn) < 2**20
    )
    assert state.responses.keys() == state.turns.keys() == state.sizes.keys()


@pytest.mark.parametrize("place", ["file/home", "/proc/home"])
def test_that_cannot_start(tmp_path, place):
    """A sandbox that cannot start is an error at once, with the reason and the remedy."""
    (tmp_path / "file").touch()
    started = time.monotonic()
    with pytest.raises(
        errors.SandboxError, match="Not a directory|No such file|not permitted|denied"
    ) as failed:
        sandbox.find_or_start(tmp_path / place)
    assert time.monotonic() - started < 10
    assert 2 == len(str(failed.value).splitlines())
    assert "AIML_MAGIC_HOME" in failed.value.hint


def test_home_of_two_machines(own, monkeypatch):
    """Two machines that share a home have a sandbox each, with separate files."""
    here = sandbox._note(own)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert not sandbox.stop(own)
    monkeypatch.undo()
    assert here == sandbox._running(own)


UNSHARED = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c"]


def test_home_of_two_containers(own):
    """Two containers of one name, each with a network of its own, have a sandbox each in the home that they share."""
    code = f"from aiml_magic.sandbox import start as sandbox; from pathlib import Path; print(sandbox.find_or_start(Path({str(own)!r})))"
    stop = code.replace("find_or_start", "stop")
    run = f"{shlex.quote(sys.executable)} -c"
    script = f'ip link set lo up && {run} "{code}" && {run} "{stop}"'
    try:
        subprocess.run([*UNSHARED, "ip link set lo up"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no networks of their own can be had here")
    ran = subprocess.run(
        [*UNSHARED, script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "True" == ran.stdout.split()[-1]
    assert sandbox._running(own)


def test_leavings_are_removed(own, tmp_path):
    """A new sandbox removes the notes and locks of ended machines, but not those in use."""
    sandbox.stop(own)
    (tmp_path / "sandbox-gone.json").touch()
    (tmp_path / "sandbox-gone.lock").touch()
    (tmp_path / "sandbox-held.json").touch()
    held = sandbox._locked(tmp_path / "sandbox-held.lock")
    sandbox.find_or_start(own)
    held.close()
    assert {"sandbox-held.json", "sandbox-held.lock"} < {path.name for path in tmp_path.iterdir()}
    assert not list(tmp_path.glob("sandbox-gone*"))


def test_one_for_each_user(tmp_path: Path):
    """A sandbox is started once for a home, found again, and stopped."""
    try:
        url = sandbox.find_or_start(tmp_path)
        assert url == sandbox.find_or_start(tmp_path)
        assert {0o600} == {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert sandbox.stop(tmp_path)
        assert not sandbox.stop(tmp_path)
    finally:
        sandbox.stop(tmp_path)


def test_started_at_once(tmp_path: Path):
    """Of several sandboxes started for a home at once one goes on, and all kernels find it."""
    try:
        with ThreadPoolExecutor(4) as pool:
            urls = set(pool.map(sandbox.find_or_start, [tmp_path] * 4))
        started, deadline = sandbox._started[-4:], time.monotonic() + 10
        while (
            sum(process.poll() is None for process in started) > 1 and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        assert 1 == sum(process.poll() is None for process in started)
        assert {sandbox.find_or_start(tmp_path)} == urls
    finally:
        for process in sandbox._started:
            process.terminate()
        sandbox.stop(tmp_path)


def test_started_while_one_ends(tmp_path: Path):
    """A sandbox that is started while an earlier one ends is a new one."""
    sandbox.find_or_start(tmp_path)
    of_another_kernel = sandbox._started.pop()
    try:
        assert sandbox.stop(tmp_path)
        sandbox.find_or_start(tmp_path)
        of_another_kernel.wait(10)
        assert sandbox.stop(tmp_path)
    finally:
        of_another_kernel.terminate()
        sandbox.stop(tmp_path)


NOTES = [
    "nonsense",
    '{"port": 1}',
    '{"port": 1, "token": "x"}',
    '{"port": 1, "token": ""}',
    '{"port": 1, "token": 7}',
    '{"port": 99999}',
    '{"port": -5}',
    '{"port": Infinity}',
    "[]",
    "[" * 5000,
    "\udcff",
]


@pytest.mark.parametrize("note", NOTES, ids=range(len(NOTES)))
def test_stale_note(tmp_path: Path, note):
    """The note of an ended sandbox, and an invalid note, are ignored."""
    sandbox.path_of(tmp_path, "json").write_text(note, errors="surrogateescape")
    assert not sandbox.stop(tmp_path)


@pytest.mark.parametrize("sent", [b": ping\n\n", b"[" * 900])
def test_stranger_on_the_port(tmp_path: Path, sent):
    """An endless reply of another program at the port of an ended sandbox is not waited for."""
    ends = []

    def long() -> Iterator[bytes]:
        yield from repeat(sent, 400)
        ends.append("read to its end")

    with wire.serve(lambda _: wire.Reply(chunks=long(), pace=0.02)) as stranger:
        sandbox.Note(port_of(stranger.url), credentials.new_token()).write(tmp_path)
        assert not sandbox.stop(tmp_path)
        assert [] == ends


def test_stop_without_a_reply(tmp_path: Path):
    """A sandbox that does not confirm that it stops raises SandboxError."""
    token = credentials.new_token()

    def reply(request: wire.Request) -> wire.Reply:
        nonce = request.path.rpartition("=")[2]
        proof = credentials.proof(token, port_of(busy.url), nonce)
        raw = b"" if request.method == "DELETE" else f"HTTP/1.1 200 OK\r\n\r\n{proof}".encode()
        return wire.Reply(raw=raw, end="close")

    with wire.serve(reply) as busy:
        sandbox.Note(port_of(busy.url), token).write(tmp_path)
        with pytest.raises(errors.SandboxError, match="may go on"):
            sandbox.stop(tmp_path)

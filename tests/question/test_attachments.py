"""Attachments: kinds by content, variables of a notebook, and values that cannot be sent."""

from __future__ import annotations

import base64
import io
import json
import os
import zlib
from types import SimpleNamespace

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from variables import PNG, Figure, Table

from aiml_magic.api.responses import user_message
from aiml_magic.errors import BadInput, ReplayMiss
from aiml_magic.journal import recording
from aiml_magic.journal.replay import request_key, with_hashes
from aiml_magic.question import attachments, prompts
from aiml_magic.question.attachments import MAX_BYTES, attach, labels, parts

FILES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0 a photo",
    "image/gif": b"GIF89a a drawing",
    "image/webp": b"RIFF\x10\x00\x00\x00WEBPVP8 ",
}


def told(found) -> str:
    """The label of the first attachment."""
    return labels({"input": [{"content": [{"type": "input_text", "text": "?"}, *found]}]})[0]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", ["picture.png", "picture.txt", "picture"])
def test_images_by_content(tmp_path, kind, name):
    """An image is sent with the media type of its content, under any name."""
    (tmp_path / name).write_bytes(FILES[kind])
    label, image = attach(str(tmp_path / name), {})
    assert {
        "type": "input_image",
        "detail": "auto",
        "image_url": f"data:{kind};base64,{base64.b64encode(FILES[kind]).decode()}",
    } == image
    assert label["text"].startswith(f"Attachment {name} (")


def test_pdf(tmp_path):
    """A PDF is sent inline, with a name that ends with .pdf."""
    (tmp_path / "paper").write_bytes(b"%PDF-1.7 words")
    label, file = attach(str(tmp_path / "paper"), {})
    assert ("input_file", "paper.pdf") == (file["type"], file["filename"])
    assert b"%PDF-1.7 words" == base64.b64decode(
        file["file_data"].removeprefix("data:application/pdf;base64,")
    )
    assert "paper (PDF, 14 bytes)" == told([label])


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "def f():\n    return '```'\n", "日本語", "\ufeffwith a mark"]
)
def test_text_files(tmp_path, text):
    """Text is sent in a fence that nothing in it can end."""
    (tmp_path / "file.py").write_text(text, "utf-8")
    (part,) = attach(str(tmp_path / "file.py"), {})
    opened, _, rest = part["text"].partition("\n\n")[2].partition("\n")
    assert text.removeprefix("\ufeff") + "\n" + opened.removesuffix("py") == rest
    assert rest.count(opened.removesuffix("py")) == 1


ENCODED = {
    "UTF-8 with a mark": ("naïve;café\n1;2\n", "utf-8-sig", ""),
    "Windows": ("Prénom;Prix\nZoé;3\u00a0€\nœuvre – “là”…\n", "cp1252", ", read as Windows-1252"),
    "UTF-16": ("a,b\nä,日本\n", "utf-16", ", read as UTF-16"),
    "UTF-16-BE": ("a,b\nä,日本\n", "utf-16-be", ", read as UTF-16-BE"),
    "UTF-16-LE of another script": (
        "Имя,Город\nИван,Москва\n1,2\n",
        "utf-16-le",
        ", read as UTF-16-LE",
    ),
    "UTF-32": ("a,b\n", "utf-32", ", read as UTF-32"),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_encodings(tmp_path, kind):
    """A text in any common encoding is decoded; an encoding other than UTF-8 is named."""
    text, encoding, read_as = ENCODED[kind]
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    (part,) = attach(str(tmp_path / "table.csv"), {})
    size = len(text.encode(encoding))
    assert (
        f"Attachment table.csv (text, {size} bytes{read_as}):\n\n```csv\n{text}\n```"
        == part["text"]
    )


@pytest.mark.parametrize("encoding", ["cp1251", "shift-jis", "gbk", "euc-kr"])
def test_unknown_encodings(tmp_path, encoding):
    """A text in an unknown encoding is refused: a wrong decoding would be paid for."""
    words = {
        "cp1251": "Имя;Город;Москва",
        "shift-jis": "名前、都市",
        "gbk": "姓名;城市;北京上海",
        "euc-kr": "이름;도시;서울특별시",
    }
    (tmp_path / "table.csv").write_bytes(f"{words[encoding]}\n1;2;3\n".encode(encoding))
    with pytest.raises(BadInput, match="text, best to UTF-8"):
        attach(str(tmp_path / "table.csv"), {})


@given(st.binary(max_size=300))
def test_any_bytes(content):
    """Any bytes are an attachment or an error of two lines, and no NUL is sent as text."""
    try:
        found = list(parts(content, "x"))
    except BadInput as refused:
        assert 2 == len(str(refused).splitlines())
    else:
        assert not any("\0" in part.get("text", "") for part in found)


def test_notebook_file(tmp_path):
    """A notebook is sent as its cells and the text of their outputs, without its pictures."""
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {
            "cell_type": "code",
            "source": "1+1",
            "outputs": [{"data": {"text/plain": "2", "image/png": "iVBOR"}}, {"text": ["printed"]}],
        },
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"nbformat": 4, "cells": cells}))
    (part,) = attach(str(tmp_path / "n.ipynb"), {})
    assert all(
        words in part["text"] for words in ("# Title", "1+1", "# output\n2", "printed", "notebook")
    )
    assert "iVBOR" not in part["text"]


def test_image_address():
    """The address of an image is sent as it is."""
    assert "https://example.org/a.png" == attach("https://example.org/a.png", {})[1]["image_url"]
    assert (
        "https://example.org/a.png"
        == attach("where", {"where": "https://example.org/a.png"})[1]["image_url"]
    )


class Broken:
    def savefig(self, *_, **__) -> None:
        raise RuntimeError("no colours left")


def test_variables():
    """Tables, figures, bytes, texts and lists of them are attached in their own forms."""
    assert "df (3 rows, 8 bytes of CSV)" == told(attach("df", {"df": Table()}))
    assert "fig (PNG image, 70 bytes)" == told(attach("fig", {"fig": Figure()}))
    assert "raw (PNG image, 70 bytes)" == told(attach("raw", {"raw": bytearray(PNG)}))
    assert "words (11 characters)" == told(attach("words", {"words": "some words "}))
    several = attach("both", {"both": [Figure(), Table()]})
    assert ["both[0] (PNG image, 70 bytes)", "both[1] (3 rows, 8 bytes of CSV)"] == labels(
        {"input": [{"content": several}]}
    )
    for drawing in (PNG, base64.b64encode(PNG).decode(), (PNG, {"width": 200})):
        assert "x (PNG image, 70 bytes)" == told(
            attach("x", {"x": SimpleNamespace(_repr_png_=lambda drawing=drawing: drawing)})
        )
    assert "μ (2 characters)" == told(attach("µ", {"μ": "as"})), "the same name to Python"


@pytest.mark.parametrize(
    "text",
    [
        "plot.png",
        "./plot.png",
        "{folder}/plot.png",
        "my plot.png",
        "no_ending",
        "plots/a b c d e.png",
        "~/plot.png",
    ],
)
def test_text_that_names_a_file(tmp_path, monkeypatch, text):
    """A text that names a file is sent as that file, also in a list and with blanks in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = text.format(folder=tmp_path)
    (tmp_path / "plots").mkdir()
    (tmp_path / text.removeprefix("~/")).write_bytes(PNG)
    assert "img (PNG image, 70 bytes)" == told(attach("img", {"img": text}))
    assert "imgs[0] (PNG image, 70 bytes)" == told(attach("imgs", {"imgs": [text]}))


@pytest.mark.parametrize(
    "text",
    ["plot.png", "./plot", "../x", "/no/such", "~/x", "data/a b c d e f.csv", "my plot.PNG", "C:\\plot.png", "file:///plot.png", "results.csv", "", "  \n", "folder/"],
)  # fmt: skip
def test_text_that_could_only_be_a_path(tmp_path, monkeypatch, text):
    """A text that can only be the path of a missing file is refused: its few characters would be paid for in vain."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        attach("img", {"img": text if text != "folder/" else "./folder/"})
    assert 2 == len(str(refused.value).splitlines())


@pytest.mark.parametrize(
    "text",
    ["folder", "some words", "a,b\n1,2\n", "Compare the run of Monday with plot.png", "and/or", "1/2", "See https://example.org/a.png now", "e.g.", "3.14", "x" * 5000,
     "# Title\n./a.png", "import os\nprint('a.py')", "Dr. No", "~5 %"],
)  # fmt: skip
def test_text_stays_text(tmp_path, monkeypatch, text):
    """Other text is sent as text, even if it mentions files or is the name of a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert f"t ({len(text):,} characters)" == told(attach("t", {"t": text}))


def test_inline_image():
    """A data URL of an image is sent as that image."""
    text = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert text == attach("img", {"img": text})[1]["image_url"]


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Lazy:
    """A proxy that raises at every access."""

    def __getattr__(self, name):
        raise RuntimeError("not bound\nas yet")


class Silent(Table):
    def to_csv(self, **_) -> str:
        raise Wordless


class Drawn(Figure):
    def savefig(self, *_, **__) -> None:
        raise RuntimeError("to draw it\n\ninstall this\nand that")


class Endless(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError("no end")


itself: list = []
itself.append(itself)
HOSTILE = {
    "folder": lambda path: path.mkdir(),
    "fifo": os.mkfifo if hasattr(os, "mkfifo") else None,
    "broken link": lambda path: path.symlink_to("nowhere"),
    "2 GB": lambda path: path.touch() or os.truncate(path, 2 * 2**30),
    "empty": lambda path: path.touch(),
    "bytes": lambda path: path.write_bytes(b"\x00\x01\xfe\xff"),
    "unreadable name": lambda path: None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_that_cannot_be_sent(tmp_path, kind):
    """A folder, a pipe, a broken link, and a file that is too large, empty or unknown are errors of two lines, and nothing is sent."""
    if HOSTILE[kind] is None:
        pytest.skip("this system has no such files")
    HOSTILE[kind](tmp_path / "thing")
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        attach(str(tmp_path / "thing"), {})
    assert 2 == len(str(refused.value).splitlines())


UNSENDABLE = {
    "figure that fails": Broken(), "object": object(), "number": 7, "nothing": None, "no list": [], "dict": {}, "function": len,
    "no bytes": b"", "unknown bytes": b"\xff\x00", "long text": "x" * 900_000, "huge table": Table(10**6), "mixed": [Table(), object()],
    "proxy": Lazy(), "table that fails": Silent(), "figure that fails at length": Drawn(), "list in itself": itself, "text without length": Endless("x"),
}  # fmt: skip


@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE)
def test_values_that_cannot_be_sent(value):
    """A figure that fails to draw, an unreadable table, and a value that cannot be attached are errors of two lines."""
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        attach("thing", {"thing": value})
    assert 2 == len(str(refused.value).splitlines())


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a" * 300, "/".join(["a" * 200] * 40)])
def test_names_that_no_file_can_have(name):
    """The home of an unknown user and a name that is too long are errors of two lines."""
    with pytest.raises(BadInput, match="Nothing was sent") as refused:
        attach(name, {})
    assert 2 == len(str(refused.value).splitlines())


def test_nearest_name():
    """The error for a misspelt name suggests the nearest variable."""
    with pytest.raises(BadInput, match="Did you mean figure?"):
        attach("figrue", {"figure": Figure()})


def test_all_together():
    """Attachments that are too large only together are refused together."""
    each = list(parts(PNG + b"\0" * (MAX_BYTES // 2), "x"))
    attachments.check_size(each)
    with pytest.raises(BadInput, match="Nothing was sent"):
        attachments.check_size(each * 3)


def test_braces():
    """{{table}} is replaced by its CSV and {{figure}} is attached, also with a conversion whose text would be incomplete."""
    text, attached = prompts.fill(
        "Of {{df}} and {{fig}}: {{df.shape[0]}}", {"df": Table(), "fig": Figure()}
    )
    assert "Of \n\na\n0\n1\n2\n\n and (the attached fig): 3" == text
    assert "fig (PNG image, 70 bytes)" == told(attached)
    text, attached = prompts.fill("Of {{df!r}} and {{fig!r}}", {"df": Table(), "fig": Figure()})
    assert "Of \n\na\n0\n1\n2\n\n and (the attached fig)" == text
    assert "fig (PNG image, 70 bytes)" == told(attached)


def test_request(asker):
    """An attachment is a part of the message and listed in the details; the key covers its content, and the replay is free."""
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        for picture in (PNG, PNG, PNG + b"\0"):
            answer = asker.ask(
                server.url,
                "What is it?",
                cell="a",
                attached=list(parts(picture, "fig")),
                replay="auto",
            )
        assert 2 == len(server.posts)
        (message,) = server.posts[0].body["input"]
    assert ["input_text", "input_text", "input_image"] == [
        part["type"] for part in message["content"]
    ]
    assert ["fig (PNG image, 71 bytes)"] == labels(answer.request)
    assert "What is it?" == asker.journal.row(1).question
    assert [1] == [row.id for row in asker.journal.search("What") if row.id == 1]


def test_recording_holds_hashes_of_texts(asker, tmp_path):
    """A recording holds the name, size and hash of an attached text, and is replayed with the same text.

    The question with its inserted values is in the recording unchanged; a later
    transcript has a placeholder for the attached text.
    """
    from asking import Asker

    path, attached = tmp_path / "r.jsonl", list(parts("patient,secret\n1,xyzzy\n", "cohort"))
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        asker.session.recordings.start(path)
        asker.session.recordings.keep(
            asker.ask(server.url, "Who?\nAnd why?", attached=attached), asker.journal
        )
        assert "xyzzy" not in path.read_text()
        (record,) = recording.read(path).values()
        assert ["cohort (23 characters)"] == labels(record.request)
        assert "Who?\nAnd why?" == record.request["input"][0]["content"][0]["text"]
        assert record.key == request_key(record.server, asker.journal.row(1).request, None)
        reader = Asker(tmp_path / "reader" / "journal.sqlite3")
        reader.asking.replay_file(path)
        assert reader.ask(server.url, "Who?\nAnd why?", attached=attached, replay="only").replayed
        other = list(parts("patient,secret\n1,plugh\n", "cohort"))
        with pytest.raises(ReplayMiss):
            reader.ask(server.url, "Who?\nAnd why?", attached=other, replay="only")
        reader.ask(server.url, "And now?", chain="transcript")
        reader.session.close(10)
    told = server.posts[-1].body["input"][0]["content"]
    assert "Attachment cohort (23 characters): (it is not available any more)" == told[-1]["text"]


EARLIER = {
    # What 1ba6bdb made of "What?" with {"t": "some words"} attached, asked at http://127.0.0.1:9/v1.
    "key": "5b6131308254d1cddac26bdaf951e84c50c54cd6268f9f136b30cfa077ddcea4", "server": "http://127.0.0.1:9/v1",
    "request": {
        "model": "openai/o3-pro", "stream": True, "store": True,
        "input": [{"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "What?"},
            {"type": "input_text", "text": "Attachment t (10 characters):\n\n```\nsome words\n```"},
        ]}],
    },
    "parent": None, "response": wire.response("Words."), "notices": [], "cost_usd": 0.1, "seconds": 1.0, "asked_at": 1.7e9,
}  # fmt: skip


def test_earlier_recordings(asker, tmp_path):
    """A recording and a journal of an earlier version with attached texts are replayed; a rewritten recording has their hashes."""
    path, url = tmp_path / "r.jsonl", EARLIER["server"]
    path.write_text(json.dumps(EARLIER) + "\n")
    asker.asking.replay_file(path)
    assert EARLIER["key"] == asker.journal.row(1).key, "as that version kept it"
    asked = {"attached": list(parts("some words", "t")), "replay": "only"}
    assert "Words." == asker.ask(url, "What?", **asked).text
    asker.session.recordings.start(path)
    assert "some words" not in path.read_text()
    (key,) = recording.read(path)
    assert key != EARLIER["key"]
    path.write_text(json.dumps({**EARLIER, "key": key[::-1]}) + "\n")
    with pytest.raises(BadInput, match="was changed"):
        recording.read(path)


@given(st.text(), st.text(), st.text())
def test_key_is_that_of_the_hashes(question, name, text):
    """A request has the same key with its attachments as with their hashes; hashing twice changes nothing."""
    request = {
        "model": "m",
        "input": [user_message(question, attachments.parts(f"{text}\nand more", name))],
    }
    hashed = with_hashes(request)
    assert hashed == with_hashes(hashed)
    assert request_key("s", request, None) == request_key("s", hashed, None)
    assert labels(request) == labels(hashed)
    assert question == hashed["input"][0]["content"][0]["text"]


@given(st.binary(min_size=1, max_size=200), st.binary(min_size=1, max_size=200))
def test_key_knows_the_content(one, two):
    """Requests have the same key only if their attachments are equal."""
    keys = [
        request_key(
            "s",
            {
                "input": [
                    {
                        "content": [
                            {
                                "image_url": f"data:image/png;base64,{base64.b64encode(content).decode()}"
                            }
                        ]
                    }
                ]
            },
            None,
        )
        for content in (one, two)
    ]
    assert (one == two) == (keys[0] == keys[1])


def test_recording_holds_hashes(asker, tmp_path):
    """A recording holds the hash of an attached file, and is replayed with the same file."""
    path = tmp_path / "r.jsonl"
    noise = PNG + os.urandom(100_000)
    with wire.serve(lambda _: wire.json_reply(wire.response())) as server:
        asker.session.recordings.start(path)
        asker.session.recordings.keep(
            asker.ask(server.url, "What?", attached=list(parts(noise, "fig"))), asker.journal
        )
        assert path.stat().st_size < 5000
        (record,) = recording.read(path).values()
        assert "sha256," in json.dumps(record.request)
        from asking import Asker

        reader = Asker(tmp_path / "reader" / "journal.sqlite3")
        reader.asking.replay_file(path)
        assert reader.ask(
            server.url, "What?", attached=list(parts(noise, "fig")), replay="only"
        ).replayed
        after = reader.ask(server.url, "And now?", chain="transcript")
        reader.session.close(10)
    told = server.posts[-1].body["input"][0]["content"]
    assert "(it is not available any more)" == told[-1]["text"]
    assert after.text


def test_numpy():
    """An array of pixels becomes a PNG; an array of another shape or with other numbers is an error."""
    np = pytest.importorskip("numpy")
    for array in (np.zeros((4, 3), "uint8"), np.ones((4, 3, 3)), np.zeros((4, 3, 4), bool)):
        content = attachments.as_picture(array, "a")
        assert content.startswith(b"\x89PNG")
        start = content.index(b"IDAT") + 4
        assert 4 * (1 + array.size // 4) == len(
            zlib.decompress(content[start : content.index(b"IEND") - 8])
        )
    for array in (np.zeros((4, 3), "int64"), np.full((2, 2), 7.5), np.array([[np.nan]])):
        with pytest.raises(BadInput):
            attach("a", {"a": array})
    with pytest.raises(BadInput, match="ndarray"):
        attach("a", {"a": np.zeros(5)})


def test_numbers_in_a_question():
    """An array in a question is inserted as numbers; an array of bytes is attached as a picture."""
    np = pytest.importorskip("numpy")
    for array in (
        np.array([[0.1, 0.9]]),
        np.eye(2, dtype=bool),
        np.eye(2, dtype=int),
        np.zeros((2, 2, 3)),
        np.float64(0.5),
    ):
        assert (f"Of {array}", []) == prompts.fill("Of {{a}}", {"a": array})
    text, attached = prompts.fill("Of {{a}}", {"a": np.zeros((2, 2), "uint8")})
    assert ("Of (the attached a)", "a (PNG image") == (text, told(attached)[:12])


def test_pillow_reads_what_we_write():
    """Pillow reads the same pixels from our PNG."""
    np, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    pixels = np.arange(2 * 3 * 3, dtype="uint8").reshape(2, 3, 3)
    read = image.open(io.BytesIO(attachments.as_picture(pixels, "a")))
    assert (pixels == np.asarray(read)).all()
    assert "photo (PNG image" in told(attach("photo", {"photo": read}))
    assert "(the attached photo)" == prompts.fill("{{photo}}", {"photo": read})[0]


def test_pandas():
    """A DataFrame and a Series are CSV, with their row labels unless these are only numbers."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert "a,b\n1,x\n2,\n" in attach("df", {"df": frame})[0]["text"]
    assert "k,1,x" in attach("df", {"df": frame.set_index(pd.Index(["k", "l"]))})[0]["text"]
    assert "2 rows" in told(attach("s", {"s": frame["a"]}))


def test_polars():
    pl = pytest.importorskip("polars")
    assert "a\n1\n2\n" in attach("df", {"df": pl.DataFrame({"a": [1, 2]})})[0]["text"]
    nested = {"df": pl.DataFrame({"a": [[1, 2], [3]]})}
    for refuse in (lambda: attach("df", nested), lambda: prompts.fill("{{df}}", nested)):
        with pytest.raises(BadInput, match=r"cannot be written as CSV: .* Nothing was sent"):
            refuse()


def test_matplotlib():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure as Real

    figure = Real()
    figure.subplots().plot([1, 2])
    assert "fig (PNG image, " in told(attach("fig", {"fig": figure}))


def test_altair():
    altair = pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    chart = altair.Chart(altair.Data(values=[{"a": 1}])).mark_bar().encode(x="a:Q")
    assert "chart (PNG image, " in told(attach("chart", {"chart": chart}))


def test_plotly_without_its_renderer():
    """A figure that its library cannot draw is an error with the library's reason."""
    go = pytest.importorskip("plotly.graph_objects")
    try:
        import kaleido  # noqa: F401
    except ImportError:
        with pytest.raises(BadInput, match="could not be drawn"):
            attach("fig", {"fig": go.Figure()})

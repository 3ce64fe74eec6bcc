"""A first look without a browser: a question, its answer and its details in the terminal.

    python -m aiml_magic

It needs no key: the sandbox answers, in this process. No key, journal or setting of the user is
read or written, and what it starts ends with it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from aiml_magic import errors
from aiml_magic.journal.answer import Answer
from aiml_magic.sandbox import start as sandbox
from aiml_magic.session.asking import Session
from aiml_magic.session.question import Place, Question
from aiml_magic.show.terminal import TerminalPanel, print_answer

_QUESTION = """\
A bat and a ball cost $1.10 together. The bat costs $1.00 more than the ball.
What does the ball cost, and why do most people get it wrong?"""
_NEXT = """
No key was needed, nothing was sent to another machine, and nothing was saved.

Next, in IPython or in a notebook:

    %load_ext aiml_magic         adds %%o3pro, %o3pro and %aiml; it asks nothing and reads no key
    %aiml sandbox --if-no-key    lets the sandbox answer, as here, if no key is found
    %o3pro Why?                  asks, and keeps the answer: run again, it is replayed for free

%aiml login saves an API key: then o3-pro answers. %%o3pro? and %aiml help show the rest."""

_NEEDS = "It needs a folder for temporary files, which TMPDIR may name, and a port of this machine."


def main() -> int:
    """Shows the question and its answer; returns the exit status."""
    summary = "Show a question and its answer in the terminal; the sandbox answers, without a key."
    argparse.ArgumentParser(prog="python -m aiml_magic", description=summary).parse_args()
    try:
        print(f"%%o3pro\n{_QUESTION}\n", flush=True)
        print_answer(_answer())
        print(_NEXT, flush=True)
    except BrokenPipeError:  # as of `| head`; the interpreter would fail when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError) as error:  # no thread can be started
        print(f"It cannot be shown here: {error}. Nothing was charged.\n{_NEEDS}", file=sys.stderr)
        return 1
    except errors.AimlMagicError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _answer() -> Answer:
    """The answer to the question, from a session with a temporary journal."""
    with (
        tempfile.TemporaryDirectory(prefix="aiml_magic", ignore_cleanup_errors=True) as folder,
        sandbox.in_this_process() as url,
    ):
        session, panel = Session(), TerminalPanel()
        session.sandbox_url = url
        try:
            job = session.on("", Path(folder) / "journal.sqlite3").ask(
                Question(_QUESTION, "openai/o3-pro", Place("first"))
            )
            for progress in job.follow():
                panel.show(progress)
            return job.outcome()
        finally:
            panel.close()
            session.close(10)


if __name__ == "__main__":
    sys.exit(main())

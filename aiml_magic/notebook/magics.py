"""Cell and line magics: options and settings in, a shown answer out.

What a question needs is imported with the first question, so that loading the extension costs next
to nothing.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from traitlets import Bool, Enum, Float, Integer, TraitError, TraitType, Unicode, validate

from aiml_magic import addresses, errors
from aiml_magic.notebook import commands, context, options, params
from aiml_magic.text import say

if TYPE_CHECKING:
    from aiml_magic.journal.answer import Answer
    from aiml_magic.notebook.answers import Answers
    from aiml_magic.question.schemas import Schema
    from aiml_magic.runner.jobs import Job
    from aiml_magic.session.asking import Asking, Session
    from aiml_magic.session.question import Question
    from aiml_magic.show.follow import View


@magics_class
class O3Pro(Magics):
    """The magics %%o3pro, %o3pro and %aiml, and their settings."""

    shell: InteractiveShell

    model = Unicode("openai/o3-pro", help="Which model to ask.").tag(config=True)
    base_url = Unicode(
        "", help="The server; else AIML_API_URL, else https://api.aimlapi.com/v1."
    ).tag(config=True)
    effort = Enum(options.EFFORTS, None, allow_none=True, help="How much to reason.").tag(
        config=True
    )
    mode = Enum(options.MODES, None, allow_none=True, help="How to reason.").tag(config=True)
    summary = Enum(
        ["auto", "concise", "detailed"], None, allow_none=True, help="Summarize the reasoning."
    ).tag(config=True)
    instructions = Unicode(None, allow_none=True, help="How to answer; sent with every turn.").tag(
        config=True
    )
    max_output_tokens = Integer(
        None, min=16, allow_none=True, help="Where to stop, reasoning included."
    ).tag(config=True)
    stream = Bool(True, help="Have the text come while it is written.").tag(config=True)
    store = Bool(
        True, help="Have the server keep the answer, so that a conversation can go on by its id."
    ).tag(config=True)
    timeout = Float(3600.0, min=0.1, help="Seconds without a byte after which the wait ends.").tag(
        config=True
    )
    replay = Enum(
        ["auto", "only", "off"], None, allow_none=True,
        help="Replay an answer of the journal: auto, only (never ask) or off; "
        "else AIML_MAGIC_REPLAY, else auto.",
    ).tag(config=True)  # fmt: skip
    budget_usd = Float(
        None, min=0.0, allow_none=True, help="Dollars that this session may spend at most."
    ).tag(config=True)
    max_concurrency = Integer(
        64, min=1, help="Questions that are on their way at once; the others wait."
    ).tag(config=True)
    max_tool_rounds = Integer(
        8, min=0, help="How many times results of functions are sent back for one question."
    ).tag(config=True)
    chain = Enum(
        ["auto", "id", "transcript"],
        "auto",
        help="How a conversation is sent: by the response's id, or whole.",
    ).tag(config=True)
    journal = Unicode(
        "", help="The journal's file; else AIML_MAGIC_JOURNAL, else in the user's data directory."
    ).tag(config=True)

    @validate("timeout", "budget_usd")
    def _finite(self, proposal: Any) -> float | None:
        value: float | None = proposal["value"]
        if value is not None and not math.isfinite(value):
            raise TraitError(f"{proposal['trait'].name} cannot be {value}")
        return value

    @validate("journal")
    def _absolute(self, proposal: Any) -> str:
        """A relative path begins in the folder in which it is set, wherever the notebook goes."""
        value: str = proposal["value"]
        return str(addresses.journal_path(value)) if value else value

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._configured = {name: getattr(self, name) for name in _DECISIVE if self._is_set(name)}
        self._nesting = threading.local()
        self._start_place(None)

    @cached_property
    def session(self) -> Session:
        from aiml_magic.session.asking import Session

        return Session(self._replay_mode)

    @cached_property
    def view(self) -> View:
        from aiml_magic.show.view import view_for

        return view_for(self.shell, self._saved)

    def _saved(self, row_id: int) -> Answer:
        return self.asking.journal.row(row_id).answer()

    @property
    def asking(self) -> Asking:
        """The session at the server and with the journal of the settings."""
        return self.session.on(self.base_url, self.journal_path)

    @property
    def journal_path(self) -> Path:
        return addresses.journal_path(self.journal)

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def o3pro(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> Answer | Answers | Job | None:
        given, rest = options.read_line(line)
        text, variables = _body(rest, cell), ChainMap(dict(local_ns or {}), self.shell.user_ns)
        questions = [self.question(one, text, variables) for one in options.each(given)]
        if given.get("dry_run"):
            from aiml_magic.notebook.dry_run import dry_run

            say("\n\n".join(dry_run(question, self.asking) for question in questions))
            return None
        if len(questions) > 1:
            return self._several(questions, given)
        job = self.asking.ask(questions[0])
        if given.get("background"):
            self.view.watch(job)
            self._bind(given, job)
            return job
        try:
            answer = self.view.follow(job, is_quiet=given.get("quiet", False))
        except errors.AimlMagicError as error:
            self._bind(given, error.answer)
            raise
        except Exception:  # it cannot be shown, and was paid for all the same
            self._bind(given, job.answer)
            raise
        self._bind(given, answer)
        return answer

    def _several(self, questions: Sequence[Question], given: Mapping[str, Any]) -> Answers:
        """Asks several questions of one cell, and shows their answers in a table.

        Raises the first error, after all that came is shown.
        """
        from aiml_magic.notebook.maps import gather

        if given.get("background"):
            raise errors.BadInput(
                "Several answers are not waited for in the background. Nothing was sent.",
                "Ask without -b, or one at a time.",
            )
        starts, counter = self.starts(questions), self.view.counter(len(questions))
        answers = gather(starts, self.max_concurrency, keeps_errors=True, show=counter)
        self._bind(given, answers)
        self.view.show_several(answers, is_quiet=given.get("quiet", False))
        for answer in answers:
            if isinstance(answer, errors.AimlMagicError):
                raise answer
        return answers

    def starts(self, questions: Sequence[Question]) -> Iterator[Callable[[], Job]]:
        """Starts of the questions of one cell: the first stands in it, the others beside it.

        All continue the same answer; the conversation goes on from the first.
        """
        first, *others = questions
        job = self.asking.ask(first)
        yield lambda: job
        parent = self.asking.journal.row(job.id).parent
        for other in others:
            beside = replace(
                other, cell=first.cell, chat=None, continues=parent, is_new=False, after=None
            )
            yield partial(self.asking.ask, beside)

    @no_var_expand
    @line_magic
    def aiml(self, line: str) -> None:
        question = partial(self.question, {}, "", {})
        commands.run(
            line,
            context.Context(
                self.session,
                self.base_url,
                self.journal_path,
                question,
                lambda: self.view,
                self.shell.user_ns,
            ),
        )

    def show_result(self, value: Answer | Answers | Job) -> None:
        """Told by IPython that an answer or a job is the value of a cell."""
        self.view.show_result(value)

    def complete(self, context: Any) -> Any:
        """Called by IPython when Tab is pressed; gives the only completions that are offered then.

        Before IPython 8.6 `context` is the line, and a list is wanted.
        """
        is_old = isinstance(context, str)
        completer: Any = self.shell.Completer
        before = completer.text_until_cursor if is_old else context.text_until_cursor
        found = (
            self._candidates(before, completer.splitter.split_line(before))
            if _COMPLETED.search(before)
            else []
        )
        if is_old:
            return found
        return {
            "completions": [SimpleNamespace(text=text, type="magic") for text in found],
            "suppress": True,
            "ordered": True,
        }

    complete.matcher_api_version = 2  # type: ignore[attr-defined]  # how IPython tells new ones from old

    def _candidates(self, before: str, token: str) -> list[str]:
        from aiml_magic.notebook.completion import candidates

        hidden = self.shell.user_ns_hidden
        variables = {
            name: value for name, value in self.shell.user_ns.items() if name not in hidden
        }
        return candidates(before, token, variables, lambda: self.asking.chats.names())  # noqa: PLW0108  # only if a chat is wanted

    def begin_run(self, info: Any) -> None:
        """Told by IPython that a cell begins.

        Front ends that have cell ids send them; else each run is a place of its own.
        """
        depth = self._nesting.depth = getattr(self._nesting, "depth", 0) + 1
        if depth == 1:  # a cell that a cell runs, as %%capture does, has the place of that cell
            self._start_place(info)

    def end_run(self, _: Any) -> None:
        """Told by IPython that a cell is over."""
        self._nesting.depth = max(0, getattr(self._nesting, "depth", 0) - 1)

    def begin_end(self, change: Any) -> None:
        """Called by IPython when the kernel is to end, which threads and exit functions may delay.

        Requests that were interrupted for that need not wait for it.
        """
        if change["new"] and "session" in vars(self):
            self.session.close()

    def _start_place(self, info: Any) -> None:
        self._cell_id = getattr(info, "cell_id", None)
        self._run = f"{time.time_ns():x}"
        self._asked = itertools.count(1)

    def question(
        self, given: Mapping[str, Any], text: str, variables: Mapping[str, Any]
    ) -> Question:
        """What is asked: a text, the options that were given, and else the settings.

        Raises BadInput.
        """
        from aiml_magic.question.attachments import attach, check_size
        from aiml_magic.question.prompts import fill
        from aiml_magic.question.tools import choice, tools_of
        from aiml_magic.session.question import NO_ID, Question

        filled, attached = (text, []) if given.get("raw") else fill(text, variables)
        instructions = given.get("instructions", self.instructions)
        if "instructions" in given and not given.get("raw"):
            instructions, shown = fill(instructions, variables)
            attached += shown
        for named in given.get("attach", []):
            attached += attach(named, variables)
        check_size(attached)
        fields = params.joined(given.get("param", []))
        tools = tools_of(given.get("tool", []), variables, fields.pop("tools", []))
        schema = _schema_of(given["schema"], variables) if "schema" in given else None
        chosen = choice(given["tool_choice"], tools) if "tool_choice" in given else None
        return Question(
            text=filled,
            attached=attached,
            schema=schema,
            cell=f"{self._cell_id or NO_ID + self._run}/{next(self._asked)}",
            tools=tools,
            tool_choice=chosen,
            max_tool_rounds=self.max_tool_rounds,
            model=given.get("model", self.model),
            effort=given.get("effort", self.effort),
            mode=given.get("mode", self.mode),
            summary=given.get("summary", self.summary),
            instructions=instructions,
            max_output_tokens=given.get("max_output_tokens", self.max_output_tokens),
            params=self._merged(given, fields, schema, chosen),
            stream=self.stream and not given.get("no_stream"),
            store=self.store and not given.get("no_store"),
            chat=None if given.get("alone") else given.get("chat", "main"),
            is_new=given.get("new", False),
            after=context.id_of(given["after"], variables) if "after" in given else None,
            chain=self.chain,
            replay=self._replay_of(given),
            budget_usd=self.budget_usd,
            timeout=given.get("timeout", self.timeout),
            background=given.get("background", False),
            max_concurrency=self.max_concurrency,
            sample=given.get("sample", 1),
            settings={
                name: (value, self.traits()[name].default_value)
                for name, value in self._configured.items()
                if name not in given and getattr(self, name) == value
            },
        )

    def _merged(
        self,
        given: Mapping[str, Any],
        fields: Mapping[str, Any],
        schema: Schema | None,
        choice: Any,
    ) -> dict[str, Any]:
        """The fields of --param, merged with those of the options, then of the settings.

        Raises BadInput for what both a --param and an option set.
        """
        reasoning = ("effort", "mode", "summary")
        made: dict[str, Any] = {
            "reasoning": {name: given[name] for name in reasoning if name in given},
            "text": {"format": schema.format} if schema else {},
            "tool_choice": choice,
        }
        together = params.merged({name: made[name] for name in made.keys() & fields.keys()}, fields)
        if "reasoning" in together:
            set_here = {name: value for name in reasoning if (value := getattr(self, name))}
            together["reasoning"] = {**set_here, **together["reasoning"]}
        return together

    def _is_set(self, name: str) -> bool:
        return bool(getattr(self, name) != self.traits()[name].default_value)

    def _replay_of(self, given: Mapping[str, Any]) -> str:
        mode = self._replay_mode()
        if given.get("fresh") and mode == "only":
            raise errors.ReplayMiss(
                'Replay is "only", so nothing is asked afresh, and nothing was sent.',
                'Leave --fresh out, or set %config O3Pro.replay = "auto".',
            )
        return "off" if given.get("fresh") else mode

    def _replay_mode(self) -> str:
        mode = self.replay or os.environ.get("AIML_MAGIC_REPLAY", "").strip() or "auto"
        if mode not in ("auto", "only", "off"):
            raise errors.BadInput(
                f"AIML_MAGIC_REPLAY cannot be {mode[:40]!r}. Nothing was sent.",
                "It takes auto, only or off.",
            )
        return mode

    def _bind(self, given: Mapping[str, Any], value: Answer | Answers | Job | None) -> None:
        if value is not None and "out" in given:
            self.shell.push({given["out"]: value})

    _settings: Mapping[str, TraitType[Any, Any]] = {
        "model": model, "base_url": base_url, "effort": effort, "mode": mode, "summary": summary, "instructions": instructions,
        "max_output_tokens": max_output_tokens, "stream": stream, "store": store, "timeout": timeout, "replay": replay,
        "budget_usd": budget_usd, "max_concurrency": max_concurrency, "max_tool_rounds": max_tool_rounds, "chain": chain,
        "journal": journal,
    }  # fmt: skip
    o3pro.__doc__ = options.usage({name: str(setting.help) for name, setting in _settings.items()})
    aiml.__doc__ = commands.usage()


def _schema_of(named: str, variables: Mapping[str, Any]) -> Schema:
    from aiml_magic.question.schemas import schema_of

    return schema_of(named, variables)


def _body(rest: str, cell: str | None) -> str:
    """The question: of a line magic the rest of its line, of a cell magic the cell."""
    if cell is None:
        return rest
    if rest:
        raise errors.BadInput(
            f"{rest[:60]!r} is no option, and the question of a cell goes below its first line. "
            "Nothing was sent.",
            'Values with spaces go in quotes, as in -i "be brief".',
        )
    return cell.strip("\n")


_DECISIVE = (
    "model",
    "base_url",
    "effort",
    "mode",
    "summary",
    "instructions",
    "max_output_tokens",
)  # settings that decide the answer
_COMPLETED = re.compile(r"%(o3pro|aiml)\s|\{\{")  # lines in which completion is ours

_LINE_QUESTION = re.compile(r"^(\s*(?:[\w., ]+=\s*)?)%(o3pro|aiml)\s+(.*\S\s*\?+)\s*$")


def keep_question_marks(lines: list[str]) -> list[str]:
    """An input transformer that keeps IPython from reading `%o3pro why?` as a call for help."""
    if not any(_LINE_QUESTION.match(line) for line in lines) or "".join(lines).lstrip().startswith(
        "%%"
    ):
        return lines
    kept, is_in_string = [], False
    for line in lines:
        found = None if is_in_string else _LINE_QUESTION.match(line)
        kept.append(
            f"{found[1]}get_ipython().run_line_magic({found[2]!r}, {found[3]!r})\n"
            if found
            else line
        )
        is_in_string ^= found is None and (line.count('"""') + line.count("'''")) % 2 == 1
    return kept


def begin_with_magic(lines: list[str]) -> list[str]:
    """An input transformer that drops comments above `%%o3pro`, else the cell is read as Python."""
    first = next(
        (
            number
            for number, line in enumerate(lines)
            if line.strip() and not line.lstrip().startswith("#")
        ),
        0,
    )
    return lines[first:] if re.match(r"%%o3pro(\s|$)", lines[first] if lines else "") else lines


_TRANSFORMERS = (begin_with_magic, keep_question_marks)
_SHOWN = (
    ("aiml_magic.journal.answer", "Answer"),
    ("aiml_magic.runner.jobs", "Job"),
    ("aiml_magic.notebook.answers", "Answers"),
)
_loaded: dict[int, tuple[O3Pro, Callable[[], None]]] = {}


def load(shell: InteractiveShell) -> None:
    """Registers the magics, once for each shell."""
    if id(shell) in _loaded:
        return
    addresses.begin_in(shell.starting_dir)
    magics = O3Pro(shell)
    shell.register_magics(magics)
    shell.events.register("pre_run_cell", magics.begin_run)
    shell.events.register("post_run_cell", magics.end_run)
    shell.observe(magics.begin_end, "exit_now")
    shell.input_transformers_cleanup.extend(_TRANSFORMERS)
    shell.Completer.magic_arg_matchers.append(magics.complete)
    formatter: Any = shell.display_formatter.ipython_display_formatter  # type: ignore[union-attr]  # a shell has one
    for module, name in _SHOWN:
        formatter.for_type_by_name(module, name, magics.show_result)

    def undo() -> None:
        magics.session.close()
        configurables: list[Any] = shell.configurables
        configurables.remove(magics)
        for kind in ("line", "cell"):
            for name in ("o3pro", "aiml"):
                shell.magics_manager.magics[kind].pop(name, None)
        shell.events.unregister("pre_run_cell", magics.begin_run)
        shell.events.unregister("post_run_cell", magics.end_run)
        shell.unobserve(magics.begin_end, "exit_now")
        for transformer in _TRANSFORMERS:
            shell.input_transformers_cleanup.remove(transformer)
        shell.Completer.magic_arg_matchers.remove(magics.complete)
        for module, name in _SHOWN:
            formatter.pop(f"{module}.{name}", None)

    _loaded[id(shell)] = magics, undo


def loaded() -> O3Pro | None:
    """The magics that are loaded in this process, if any are."""
    return next((magics for magics, _ in _loaded.values()), None)


def unload(shell: InteractiveShell) -> None:
    """Undoes `load`; what is in flight is finished."""
    if id(shell) in _loaded:
        _loaded.pop(id(shell))[1]()

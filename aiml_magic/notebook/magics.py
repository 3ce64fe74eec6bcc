"""The cell and line magics: they turn options and settings into a question, and show its answer.

The other rooms are imported with the first question, so that loading the extension is fast.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)

from aiml_magic import addresses, errors
from aiml_magic.notebook import commands, options, params
from aiml_magic.notebook.lines import TRANSFORMERS
from aiml_magic.notebook.settings import DECISIVE, HELP, Settings
from aiml_magic.text import say

if TYPE_CHECKING:
    from aiml_magic.journal.answer import Answer
    from aiml_magic.notebook.answers import Answers
    from aiml_magic.notebook.options import Given
    from aiml_magic.question.schemas import Schema
    from aiml_magic.question.values import Variables
    from aiml_magic.runner.jobs import Job
    from aiml_magic.session.asking import Asking, Session
    from aiml_magic.session.question import Delivery, Place, Question
    from aiml_magic.show.follow import View


@magics_class
class O3Pro(Settings):
    """The magics %%o3pro, %o3pro and %aiml, and their settings."""

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._configured = {name: getattr(self, name) for name in DECISIVE if self.is_set(name)}
        self._nesting = threading.local()
        self.for_this_call: dict[str, Any] = {}
        self._start_place(None)

    def changed(self, values: Mapping[str, Any]) -> Self:
        """The magics with other settings, for one call of the same session. Raises BadInput."""
        other = super().changed(values)
        other.for_this_call = {
            "replay": other.replay_mode(),
            "is_elsewhere": bool(values.get("base_url")),
        }
        return other

    @cached_property
    def session(self) -> Session:
        from aiml_magic.session.asking import Session

        return Session(self.replay_mode)

    @cached_property
    def view(self) -> View:
        from aiml_magic.show.view import view_for

        return view_for(self.shell, self._saved)

    def _saved(self, row_id: int) -> Answer:
        return self.asking.journal.row(row_id).answer()

    @property
    def asking(self) -> Asking:
        """The session at the server and with the journal of the settings."""
        asking = self.session.on(self.base_url, addresses.journal_path(self.journal))
        return replace(asking, **self.for_this_call)

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def o3pro(
        self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None
    ) -> Answer | Answers | Job | None:
        given, rest = options.read_line(line)
        text, variables = _body(rest, cell), ChainMap(local_ns or {}, self.shell.user_ns)
        questions = self.questions(options.each(given), text, variables)
        if given.get("dry_run"):
            from aiml_magic.notebook.dry_run import dry_run

            say("\n\n".join(dry_run(question, self.asking) for question in questions))
            return None
        if len(questions) > 1:
            return self._several(questions, given)
        job = self.asking.ask(questions[0])
        if given.get("background"):
            self._bind(given, job)
            self.view.watch(job, is_quiet=given.get("quiet", False))
            return job
        try:
            answer = self.view.follow(job, is_quiet=given.get("quiet", False))
        except errors.AimlMagicError as error:
            self._bind(given, error.answer)
            raise
        except Exception:  # the answer could not be shown, but was paid for
            self._bind(given, job.answer)
            raise
        self._bind(given, answer)
        return answer

    def _several(self, questions: Sequence[Question], given: Given) -> Answers:
        """Asks several questions of one cell, and shows their answers in a table.

        Raises the first error, after all answers are shown.
        """
        from aiml_magic.notebook.maps import gather

        counter = self.view.counter(len(questions), is_permanent=False)
        at_once = 2 * self.max_concurrency
        answers = gather(self.starts(questions), at_once, keeps_errors=True, show=counter)
        self._bind(given, answers)
        failed = [answer for answer in answers if isinstance(answer, errors.AimlMagicError)]
        if len(failed) < len(answers) or any(error.answer for error in failed):
            self.view.show_several(answers, is_quiet=given.get("quiet", False))
        for error in failed:
            raise error
        return answers

    def starts(self, questions: Sequence[Question]) -> Iterator[Callable[[], Job]]:
        """Functions that ask the questions of one cell; only the first gets the cell's place.

        All continue the same answer; later cells continue the first. Raises BadInput in the
        background, and if the person does not confirm the cost.
        """
        from aiml_magic.session.question import Place
        from aiml_magic.session.spending import confirm_together

        delivery = questions[0].delivery
        if delivery.background:
            raise errors.BadInput(
                "Several answers cannot be asked for in the background. Nothing was sent.",
                "Ask without -b, or one at a time.",
            )
        if delivery.confirm_above_usd is not None:
            delivery = confirm_together(delivery, map(self.asking.worst_case, questions))
            questions = [replace(question, delivery=delivery) for question in questions]
        first, *others = questions
        row = self.asking.chats.parent(first)
        parent = None if row is None else row.id
        yield partial(self.asking.ask, first)
        for other in others:
            beside = replace(other, place=Place(first.place.cell, chat=None, continues=parent))
            yield partial(self.asking.ask, beside)

    @no_var_expand
    @line_magic
    def aiml(self, line: str) -> None:
        from aiml_magic.notebook.context import Context

        question, view = partial(self.question, {}, "", {}), lambda: self.view
        commands.run(line, Context(self.asking, question, view, self.shell.user_ns))

    def show_result(self, value: Answer | Answers | Job) -> None:
        """Called by IPython if an answer or a job is the value of a cell."""
        self.view.show_result(value)

    def complete(self, context: Any) -> Any:
        """Called by IPython for Tab; suppresses all other completions.

        Before IPython 8.6 `context` is the line, and the result is a list.
        """
        is_old = isinstance(context, str)
        completer: Any = self.shell.Completer
        before = completer.text_until_cursor if is_old else context.text_until_cursor
        texts = (
            self._candidates(before, completer.splitter.split_line(before))
            if re.search(_COMPLETED, before)
            else []
        )
        if is_old:
            return texts
        return {
            "completions": [SimpleNamespace(text=text, type="magic") for text in texts],
            "suppress": True,
            "ordered": True,
        }

    complete.matcher_api_version = 2  # type: ignore[attr-defined]  # an attribute for IPython

    def _candidates(self, before: str, token: str) -> list[str]:
        from aiml_magic.notebook.completion import candidates

        hidden = self.shell.user_ns_hidden
        variables = {
            name: value for name, value in self.shell.user_ns.items() if name not in hidden
        }
        return candidates(before, token, variables, lambda: self.asking.chats.names())  # noqa: PLW0108  # called only if chats are needed

    def begin_run(self, info: Any) -> None:
        """Called by IPython when a cell begins.

        Without a cell id from the front end, each run is its own place.
        """
        depth = self._nesting.depth = getattr(self._nesting, "depth", 0) + 1
        if depth == 1:  # a nested cell, as in %%capture, has the place of the outer one
            self._start_place(info)

    def end_run(self, _: Any) -> None:
        """Called by IPython when a cell is over."""
        self._nesting.depth = max(0, getattr(self._nesting, "depth", 0) - 1)

    def begin_shutdown(self, change: Any) -> None:
        """Called by IPython when the kernel begins to shut down, which threads may delay.

        Closes the pipes early: then the runner finishes requests that the front end interrupted.
        """
        if change["new"] and "session" in vars(self):
            self.session.close()

    def _start_place(self, info: Any) -> None:
        self._cell_id = getattr(info, "cell_id", None)
        self._run = f"{time.time_ns():x}"
        self._asked = itertools.count(1)

    def questions(self, each: Iterable[Given], text: str, variables: Variables) -> list[Question]:
        """A question for each set of options; further samples are copies of the first.

        Raises BadInput.
        """
        made: list[Question] = []
        for given in each:
            if (sample := given.get("sample", 1)) == 1:
                made.append(self.question(given, text, variables))
            else:
                made.append(replace(made[-1], sample=sample))
        return made

    def question(self, given: Given, text: str, variables: Variables) -> Question:
        """The question made of a text, the options given, and the settings. Raises BadInput."""
        from aiml_magic.question.attachments import attach, check_size
        from aiml_magic.question.prompts import fill
        from aiml_magic.question.tools import choice, tools_of
        from aiml_magic.session.question import Question

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
        schema = None
        if "schema" in given:  # pydantic is imported where it is needed
            from aiml_magic.question.schemas import schema_of

            schema = schema_of(given["schema"], variables)
        chosen = choice(given["tool_choice"], tools) if "tool_choice" in given else None
        return Question(
            text=filled,
            attached=attached,
            schema=schema,
            place=self._place(given, variables),
            delivery=self._delivery(given),
            tools=tools,
            tool_choice=chosen,
            instructions=instructions,
            params=self._merged(given, fields, schema, chosen),
            sample=given.get("sample", 1),
            settings={
                name: (value, self.traits()[name].default_value)
                for name, value in self._configured.items()
                if name not in given and getattr(self, name) == value
            },
            **self._or_settings(given, _OF_ANSWER),
        )

    def _place(self, given: Given, variables: Variables) -> Place:
        from aiml_magic.notebook.context import id_of
        from aiml_magic.session.question import NO_ID, Place

        return Place(
            cell=f"{self._cell_id or NO_ID + self._run}/{next(self._asked)}",
            chat=None if given.get("alone") else given.get("chat", "main"),
            is_new=given.get("new", False),
            after=id_of(given["after"], variables) if "after" in given else None,
        )

    def _delivery(self, given: Given) -> Delivery:
        from aiml_magic.session.question import Delivery

        return Delivery(
            replay=self.replay_of(given),
            stream=self.stream and not given.get("no_stream"),
            store=self.store and not given.get("no_store"),
            background=given.get("background", False),
            **self._or_settings(given, _OF_DELIVERY),
        )

    def _or_settings(self, given: Given, names: Iterable[str]) -> dict[str, Any]:
        """The options of these names, else the settings of the same names."""
        return {name: given.get(name, getattr(self, name)) for name in names}

    def _merged(
        self,
        given: Given,
        fields: Mapping[str, Any],
        schema: Schema | None,
        choice: Any,
    ) -> dict[str, Any]:
        """The fields of --param, merged with those of the options, then of the settings.

        Raises BadInput for a field that both a --param and an option set.
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

    def _bind(self, given: Given, value: Answer | Answers | Job | None) -> None:
        if value is not None and "out" in given:
            self.shell.push({given["out"]: value})

    o3pro.__doc__ = options.usage(HELP)
    aiml.__doc__ = commands.usage()


def _body(rest: str, cell: str | None) -> str:
    """The question: the rest of the line of a line magic, or the cell."""
    if cell is None:
        return rest
    if rest:
        raise errors.BadInput(
            f"{rest[:60]!r} is not an option, and the question of a cell goes below its first "
            "line. Nothing was sent.",
            'Values with spaces go in quotes, as in -i "be brief".',
        )
    return cell.strip("\n")


# Fields of a question and of its delivery, from the option of that name, else from the setting.
_OF_ANSWER = ("model", "effort", "mode", "summary", "max_output_tokens")
_OF_DELIVERY = """
    chain timeout max_concurrency max_tool_rounds
    budget_usd budget_usd_per_notebook budget_usd_per_day confirm_above_usd
""".split()
_COMPLETED = r"%(o3pro|aiml)\s|\{\{"  # lines that are completed here

_SHOWN = (
    ("aiml_magic.journal.answer", "Answer"),
    ("aiml_magic.runner.jobs", "Job"),
    ("aiml_magic.notebook.answers", "Answers"),
)
_loaded: dict[int, tuple[O3Pro, Callable[[], None]]] = {}


def load(shell: InteractiveShell) -> None:
    """Registers the magics, once per shell."""
    if id(shell) in _loaded:
        return
    addresses.begin_in(shell.starting_dir)
    magics = O3Pro(shell)
    shell.register_magics(magics)
    shell.events.register("pre_run_cell", magics.begin_run)
    shell.events.register("post_run_cell", magics.end_run)
    shell.observe(magics.begin_shutdown, "exit_now")
    shell.input_transformers_cleanup.extend(TRANSFORMERS)
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
        shell.unobserve(magics.begin_shutdown, "exit_now")
        for transformer in TRANSFORMERS:
            shell.input_transformers_cleanup.remove(transformer)
        shell.Completer.magic_arg_matchers.remove(magics.complete)
        for module, name in _SHOWN:
            formatter.pop(f"{module}.{name}", None)

    _loaded[id(shell)] = magics, undo


def loaded() -> O3Pro | None:
    """The magics loaded in this process, if any."""
    return next((magics for magics, _ in _loaded.values()), None)


def unload(shell: InteractiveShell) -> None:
    """Undoes `load`; requests in flight are finished."""
    if id(shell) in _loaded:
        _loaded.pop(id(shell))[1]()

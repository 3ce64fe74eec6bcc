"""The task on a worker of a Dask cluster: gets permission, sends a row, stores the result.

The scheduler stores a variable for each row, named by its client request id:

    {"run": …}    the run that may send the row
    {"came": …}   the result, until it is in the journal
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import asdict, replace
from typing import Any

from aiml_magic import credentials, errors
from aiml_magic.api.masking import Secrets
from aiml_magic.api.responses import Cost
from aiml_magic.journal.rows import Result
from aiml_magic.text import dump

TOPIC = "aiml_magic"  # of the messages in which workers ask for permission
_PERMISSION_WAIT = 30.0  # seconds
_RETRY = 0.5  # seconds between two attempts to store a result at the scheduler
_TRIES = 3


class NotAllowed(Exception):
    """A run got no permission to send its row, so it never sends it."""


def task_name(client_request_id: str) -> str:
    return f"answer_there-{client_request_id}"


def answer_there(
    base_url: str, request: dict[str, Any], client_request_id: str, key: str, timeout: float
) -> None:
    """Sends a request with the key of this worker; stores the result at the scheduler.

    Raises NoKey, and NotAllowed without permission to send.
    """
    from distributed import Variable, get_client

    from aiml_magic.api.client import Client
    from aiml_magic.api.replies import Listener, Reply
    from aiml_magic.runner.sending import result_of

    async def ask() -> Reply:
        client = Client(base_url, secrets, timeout)
        try:
            return await client.ask(request, client_request_id, Listener())
        finally:
            await client.aclose()

    secrets = Secrets(key or credentials.need_key().text)
    variable = Variable(client_request_id, client=get_client())
    _wait_for_permission(variable)
    started = time.monotonic()
    reply = asyncio.run(ask())
    state = "done" if reply.error is None else "failed"
    _store(variable, {"came": _as_text(result_of(reply, state, time.monotonic() - started))})


def _wait_for_permission(variable: Any) -> None:
    """Waits until this run of a task may send its row.

    Raises NotAllowed without an answer, and RuntimeError if an earlier run got the permission.
    """
    from distributed import Future, fire_and_forget, get_worker

    # Else the task would be cancelled if the kernel dies.
    fire_and_forget(Future(task_name(variable.name), variable.client))
    run = uuid.uuid4().hex
    get_worker().log_event(TOPIC, [variable.name, run])
    try:
        allowed = variable.get(timeout=_PERMISSION_WAIT)
    except TimeoutError as error:
        raise NotAllowed(f"no kernel permitted it within {_PERMISSION_WAIT:g} s") from error
    if allowed != {"run": run}:
        raise RuntimeError("the worker that had the permission died")


def _store(variable: Any, value: dict[str, str]) -> None:
    """Stores a paid answer at the scheduler, where it survives this worker; retries."""
    for left in reversed(range(_TRIES)):
        try:
            variable.set(value)
        except Exception:
            if not left:
                raise
            time.sleep(_RETRY)
        else:
            return


def _as_text(result: Result) -> str:
    """A result as ASCII text: the scheduler refuses lone surrogates, and must not unpickle."""
    error = result.error and result.error.as_dict()
    return dump(asdict(replace(result, error=None)) | {"error": error})


def result_from(text: str) -> Result:
    """The result that `_as_text` wrote."""
    raw = json.loads(text)
    cost = raw["cost"] and Cost(**raw["cost"])
    error = raw["error"] and errors.error_from_dict(raw["error"])
    return Result(**raw | {"notices": tuple(raw["notices"]), "cost": cost, "error": error})

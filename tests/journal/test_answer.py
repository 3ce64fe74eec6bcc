"""An answer as a value, also from the pickle of an earlier version."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from aiml_magic.journal.answer import Answer

PICKLE = Path(__file__).parents[1] / "data" / "answer-0.1.0.pickle"


def test_pickle_of_an_earlier_version():
    """An answer pickled when its classes were in other modules is loaded completely, and pickles again."""
    answer = pickle.loads(PICKLE.read_bytes())
    assert isinstance(answer, Answer)
    assert ("42", 3, 7) == (answer.text, answer.usage.total_tokens, answer.journal_id)
    assert ["7"] == [call.result for call in answer.calls]
    assert "42" == answer.response.text
    assert answer == pickle.loads(pickle.dumps(answer))


@pytest.mark.parametrize("name", ["answer", "responses"])
def test_names_of_an_earlier_version(name):
    """A name missing in a module is missing under the module's former name as well, without an import."""
    import sys

    with pytest.raises(AttributeError):
        _ = sys.modules[f"aiml_magic.{name}"].nothing
    assert not hasattr(sys.modules[f"aiml_magic.{name}"], "__file__")

"""The stand-in answers as vLLM did when it was asked the same."""

import pytest
from exchanges import MODEL, ask, fields, read_by_kedge, recorded, sharpened
from stand_in import StandIn, serving


@pytest.fixture(scope="module")
def answers(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    sharpened(tiny_lm("llama", **MODEL)).save(folder)
    stand_in = StandIn(folder)
    stand_in.positions = 128
    with serving(stand_in) as url:
        return ask(url, folder)


@pytest.mark.parametrize("number", range(len(recorded())))
def test_field_by_field(answers, number):
    ours, theirs = answers[number], recorded()[number]
    assert {**ours["body"], "kwargs": None} == {**theirs["body"], "kwargs": None} if ours["body"] else True
    for name in ("name", "method", "path", "status"):
        assert ours[name] == theirs[name]
    assert read_by_kedge(ours) == read_by_kedge(theirs)
    assert fields(ours["answer"]) <= fields(theirs["answer"])  # what it says beside is of no interest

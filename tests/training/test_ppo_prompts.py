"""A run's prompts: split without overlap, checked against the model, refused with a hint that works."""

import re
from collections import Counter

import pandas
import pytest

from kedge.errors import ConfigError, DataError
from kedge.evaluation.evaluate import measure_policy

TEXTS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship"]
LONG = "the cat sat on the mat and the dog ran to the red house " * 20


def texts(prompts):
    return [prompt.record.text for prompt in prompts]


def test_prompts_are_what_the_tokenizer_makes_of_them(make_ppo, tiny_tokenizer):
    ppo = make_ppo()
    assert texts(ppo.prompts) == TEXTS
    assert [prompt.ids for prompt in ppo.prompts] == [tiny_tokenizer(text).input_ids for text in TEXTS]
    assert ppo.eval_prompts == []
    chat = [[{"role": "user", "content": text}] for text in TEXTS]
    ids = make_ppo(prompts=chat).prompts[0].ids
    assert tiny_tokenizer.decode(ids) == "<|user|>the cat<eos><|assistant|>"


def test_a_message_that_the_prompt_begins_is_continued(make_ppo, tiny_tokenizer):
    seen = []

    def reward(prompts, completions):
        seen.extend(zip(prompts, completions, strict=True))
        return [float(len(answer[0]["content"])) for answer in completions]

    begun = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on"}]
    ppo = make_ppo(reward, prompts=[begun, *([{"role": "user", "content": text}] for text in TEXTS)])
    assert tiny_tokenizer.decode(ppo.prompts[0].ids) == "<|user|>the cat<eos><|assistant|>sat on"
    evaluation = measure_policy(
        ppo.policy, ppo.sampler, [ppo.prompts[0].record], {"score": ppo.reward}, ppo.config.sampling
    )
    assert evaluation.completions[0].prompt_ids == ppo.prompts[0].ids
    assert seen == [(begun, [{"role": "assistant", "content": evaluation.completions[0].text}])]  # what it adds


@pytest.mark.parametrize("size", [1, 3, 5])
def test_some_are_held_out(make_ppo, size):
    ppo = make_ppo(eval_size=size)
    held, train = texts(ppo.eval_prompts), texts(ppo.prompts)
    assert len(held) == size
    assert sorted(held + train) == sorted(TEXTS)
    assert texts(make_ppo(eval_size=size).eval_prompts) == held
    assert len({tuple(texts(make_ppo(settings={"seed": seed}, eval_size=size).eval_prompts)) for seed in range(9)}) > 1


def test_a_text_that_stands_there_twice_is_on_one_side(make_ppo):
    ppo = make_ppo(prompts=TEXTS * 3, eval_size=2)
    held, train = texts(ppo.eval_prompts), Counter(texts(ppo.prompts))
    assert len(set(held)) == len(held) == 2
    assert train == {text: 3 for text in TEXTS if text not in held}
    with pytest.raises(DataError, match="prompts: 6 different ones in 18 rows; eval_size=6 leaves none to train on"):
        make_ppo(prompts=TEXTS * 3, eval_size=6)


def test_held_out_prompts_that_are_trained_on_are_refused(make_ppo):
    assert texts(make_ppo(eval_prompts=["the house"]).eval_prompts) == ["the house"]
    with pytest.raises(DataError, match="row 2: this held-out prompt is a training prompt too, and 1 more are"):
        make_ppo(eval_prompts=["the house", "red house", "the cat"])
    with pytest.raises(ConfigError, match="eval_size: not used with eval_prompts"):
        make_ppo(eval_prompts=["the house"], eval_size=1)


def test_prompts_that_are_too_long_are_left_out_and_it_is_said(make_ppo, capsys, tmp_path, lines):
    ppo = make_ppo(prompts=[*TEXTS, LONG], eval_prompts=["red ship", LONG + "!"], run=tmp_path / "run")
    assert (texts(ppo.prompts), texts(ppo.eval_prompts)) == (TEXTS, ["red ship"])
    ppo.train()
    why = r"have more than 122 tokens \(the model's 128 positions less response_length=6\), row {} the most, .* are "
    said = [f"1 of 7 prompts {why.format(7)}left out", f"1 of 2 held-out prompts {why.format(2)}left out"]
    events = [event["message"] for event in lines(tmp_path / "run", "events.jsonl") if event["event"] == "too_long"]
    shown = capsys.readouterr().err
    for pattern, message in zip(said, events, strict=True):
        assert re.match(pattern, message)
        assert message in shown


def test_too_long_as_an_error_or_cut(make_ppo, tiny_tokenizer):
    with pytest.raises(DataError, match=r"1 of 7 prompts .* row 7 .*Set too_long='skip' .*or lower response_length"):
        make_ppo(prompts=[*TEXTS, LONG], settings={"too_long": "error"})
    ids = tiny_tokenizer(LONG).input_ids
    cut = {"too_long": "truncate", "max_prompt_length": 9}
    ppo = make_ppo(prompts=[*TEXTS, LONG], eval_prompts=[LONG + "!"], settings=cut)
    assert ppo.prompts[-1].ids == ids[-9:]
    assert ppo.prompts[-1].record.text == LONG  # the reward gets it whole
    assert [len(completion.prompt_ids) for completion in ppo.evaluate().completions] == [9]
    ppo.train()
    with pytest.raises(DataError, match=r"6 of 6 .*max_prompt_length=1\).*too many to leave out.*raise max_"):
        make_ppo(settings={"max_prompt_length": 1})


@pytest.mark.shared
def test_a_prompt_that_is_cut_keeps_its_bos(make_ppo, stories):
    ppo = make_ppo(lm=stories, prompts=[*TEXTS, LONG], settings={"too_long": "truncate", "max_prompt_length": 5})
    ids = stories.tokenizer(LONG).input_ids
    assert ppo.prompts[-1].ids == [1, *ids[-4:]]


def test_a_prompt_of_exactly_the_longest_length_fits(make_ppo, tiny_tokenizer):
    ids = tiny_tokenizer(LONG).input_ids[:122]
    text = tiny_tokenizer.decode(ids)
    assert len(tiny_tokenizer(text).input_ids) == 122
    ppo = make_ppo(prompts=[text])
    ppo.train()
    with pytest.raises(DataError, match="1 of 1 prompts have more than 121 tokens"):
        make_ppo(prompts=[text], settings={"response_length": 7})


def test_an_answer_that_leaves_no_room_for_a_prompt(make_ppo):
    with pytest.raises(ConfigError, match=r"response_length: 128 leaves no room for a prompt .* at most 127"):
        make_ppo(settings={"response_length": 128})


def test_a_micro_batch_holds_the_longest_sequence(make_ppo):
    text = " ".join(["the cat"] * 10)
    with pytest.raises(
        ConfigError, match=r"micro_batch_tokens: 20 does not hold .* \(row 7\); set \d+ or more"
    ) as error:
        make_ppo(prompts=[*TEXTS, text], settings={"micro_batch_tokens": 20})
    enough = int(re.search(r"set (\d+) or more", str(error.value))[1])
    make_ppo(prompts=[*TEXTS, text], settings={"micro_batch_tokens": enough}).train()


def test_tables_are_taken_by_their_rows(make_ppo):
    columns = {"prompt": TEXTS, "answer": list(range(6))}
    for table in (columns, pandas.DataFrame(columns)):
        prompts = make_ppo(prompts=table, eval_prompts=pandas.DataFrame({"prompt": ["the house"]})).prompts
        assert [(prompt.record.text, prompt.record.columns["answer"]) for prompt in prompts] == list(
            zip(TEXTS, range(6), strict=True)
        )


def test_rows_without_a_prompt_are_named(make_ppo):
    with pytest.raises(DataError, match="row 2: no column 'prompt'; columns there are: question"):
        make_ppo(prompts=[{"prompt": "the cat"}, {"question": "which?"}])
    renamed = make_ppo(prompts=[{"question": "which?"}], columns={"prompt": "question"})
    assert texts(renamed.prompts) == ["which?"]

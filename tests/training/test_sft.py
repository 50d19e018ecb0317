"""Supervised fine-tuning: against transformers' own masked loss, invariances, and what it learns and leaves behind."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kedge import SFT, RewardConfig, SFTConfig
from kedge.errors import ConfigError, DataError, NumericsError
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.training.optimization import batch_indices

ROWS = [
    {"prompt": "the cat", "completion": " sat on the mat"},
    {"prompt": "a dog", "completion": " ran"},
    {"prompt": "Once upon a time", "completion": " there was a little ship."},
    {"prompt": "red", "completion": " house"},
]
OTHERS = [{"prompt": "the", "completion": " dog ran"}, {"prompt": "Once upon a", "completion": " ship and a mat"}]
LONG = {"prompt": "the", "completion": " cat" * 200}
EOS = 1


@pytest.fixture
def make_sft(tiny_lm):
    def make(data=ROWS, settings=None, *, arch="llama", lm=None, **kwargs):
        config = SFTConfig(**({"batch_size": 4, "epochs": 3, "learning_rate": 3e-3} | (settings or {})))
        return SFT(lm or tiny_lm(arch), data, config, progress=False, **kwargs)

    return make


@torch.no_grad()
def loss_of_transformers(lm, rows, *, also_prompts=False):
    """Mean over all target tokens of transformers' loss of each row alone, the prompt's labels -100."""
    total = count = 0
    for row in rows:
        prompt, answer = (lm.tokenizer(row[name]).input_ids for name in ("prompt", "completion"))
        ids = [*prompt, *answer, EOS]
        labels = ids if also_prompts else [-100] * len(prompt) + [*answer, EOS]
        targets = len(answer) + 1 + (len(prompt) - 1) * also_prompts
        total += lm.model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() * targets
        count += targets
    return total / count


@pytest.mark.parametrize("arch", ["llama", "gpt2", "mamba", "kedge_lstm"])
def test_loss_is_transformers_loss_of_the_completions(make_sft, arch):
    sft = make_sft(arch=arch)
    assert sft.evaluate() == {}
    loss, _ = sft.loss([0, 1, 2, 3], sft.weigh([0, 1, 2, 3]))
    want = loss_of_transformers(sft.lm, ROWS)
    assert loss.item() == pytest.approx(want, abs=1e-5)
    assert want != pytest.approx(loss_of_transformers(sft.lm, ROWS, also_prompts=True), abs=1e-3)
    with torch.no_grad():
        assert make_sft(arch=arch, eval_data=ROWS).evaluate()["loss"] == pytest.approx(want, abs=1e-5)


def test_a_step_is_adamw_on_transformers_gradient(make_sft, tiny_lm, vector):
    sft = make_sft(settings={"warmup_steps": 2, "max_grad_norm": "none"})  # at half its peak
    metrics = sft.step()
    other = tiny_lm("llama").model
    tokens = sum(len(sft.lm.tokenizer(row["completion"]).input_ids) + 1 for row in ROWS)
    for row in ROWS:
        prompt, answer = (sft.lm.tokenizer(row[name]).input_ids for name in ("prompt", "completion"))
        ids, labels = torch.tensor([[*prompt, *answer, EOS]]), torch.tensor([[-100] * len(prompt) + [*answer, EOS]])
        (other(ids, labels=labels).loss * (len(answer) + 1) / tokens).backward()
    norm = torch.cat([weight.grad.flatten() for weight in other.parameters()]).norm().item()
    torch.optim.AdamW(other.parameters(), lr=1.5e-3, eps=1e-5, weight_decay=0).step()
    assert torch.allclose(vector(sft.module), vector(other), atol=1e-5)
    assert metrics["train/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["lr"] == 1.5e-3


def test_micro_batches_change_nothing(make_sft, vector):
    def trained(budget):
        sft = make_sft(settings={"micro_batch_tokens": budget})
        metrics = [sft.step() for _ in range(3)]
        return vector(sft.module), metrics

    (whole, metrics), (parts, metrics_of_parts) = trained(1000), trained(19)
    assert torch.allclose(whole, parts, atol=1e-5)
    for a, b in zip(metrics, metrics_of_parts, strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_learns_and_its_folder_says_the_same_in_transformers(make_sft, tmp_path):
    run = tmp_path / "run"
    sft = make_sft(settings={"epochs": 60, "learning_rate": 1e-2, "batch_size": 2}, eval_data=ROWS, run=run)
    summary = sft.train()
    assert summary["before"]["loss"] > 3
    assert summary["after"]["loss"] < 0.05
    assert summary == json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["examples"]) == (120, 4)

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(run / "policy"),
        AutoTokenizer.from_pretrained(run / "policy"),
    )
    for row in ROWS:
        ids = tokenizer(row["prompt"]).input_ids
        [ours] = Engine(sft.lm).generate([ids], Sampling(max_new_tokens=30, temperature=0))
        theirs = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=30)[0, len(ids) :]
        assert tokenizer.decode(theirs, skip_special_tokens=True) == ours.text == row["completion"]
        assert (theirs.tolist(), ours.finish_reason) == (ours.ids, "eos")


@pytest.mark.shared
def test_learns_to_end_where_pad_is_eos(make_sft, tiny_lm, gpt2_tokenizer):
    gpt2_tokenizer.pad_token = gpt2_tokenizer.eos_token
    ids = dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"], 50256)
    lm = tiny_lm("gpt2", tokenizer=gpt2_tokenizer, vocab_size=50257, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **ids)
    assert lm.pad_id == 50256 == lm.eos_ids[0]
    make_sft(lm=lm, settings={"epochs": 40, "learning_rate": 2e-2}).train()
    prompts = [gpt2_tokenizer(row["prompt"]).input_ids for row in ROWS]
    answers = Engine(lm).generate(prompts, Sampling(max_new_tokens=30, temperature=0))
    assert [answer.finish_reason for answer in answers] == ["eos"] * 4
    assert [answer.text for answer in answers] == [row["completion"] for row in ROWS]


def test_resumed_is_uninterrupted(make_sft, tmp_path, vector, lines):
    """With dropout (GPT-2), evaluation on the way, and a step after the last checkpoint."""
    settings = {"epochs": 5, "batch_size": 2, "checkpoint_every": 4, "eval_every": 3, "weight_decay": 0.1}
    settings["best_metric"] = "loss"  # the highest: no further checkpoint after step 3
    kwargs = {"settings": settings, "arch": "gpt2", "eval_data": OTHERS}
    whole = make_sft(run=tmp_path / "whole", **kwargs)
    whole.train()
    broken = make_sft(run=tmp_path / "broken", **kwargs)
    step = broken.step

    def killed_at_6():
        if broken.step_done == 6:
            raise KeyboardInterrupt
        return step()

    broken.step = killed_at_6
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    assert len(lines(tmp_path / "broken", "metrics.jsonl")) == 7
    resumed = make_sft(run=tmp_path / "broken", resume=True, **kwargs)
    assert resumed.step_done == 4
    summary = resumed.train()
    assert torch.equal(vector(resumed.module), vector(whole.module))
    assert lines(tmp_path / "broken", "metrics.jsonl") == lines(tmp_path / "whole", "metrics.jsonl")
    assert summary["before"] == json.loads((tmp_path / "whole/summary.json").read_text())["before"]


def test_resuming_a_finished_run_writes_no_line_twice(make_sft, tmp_path, lines):
    kwargs = {"settings": {"checkpoint_every": 3}, "eval_data": OTHERS, "run": tmp_path / "run"}
    make_sft(**kwargs).train()
    make_sft(resume=True, **kwargs).train()
    assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl") if "eval/loss" in row] == [0, 3]


def test_dropout_is_on_in_training_and_off_in_evaluation(make_sft, tiny_lm, vector):
    def trained(rate):
        lm = tiny_lm("gpt2", resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate)
        before = loss_of_transformers(lm, OTHERS)
        summary = make_sft(lm=lm, settings={"eval_every": 1}, eval_data=OTHERS).train()
        assert summary["before"]["loss"] == pytest.approx(before, abs=1e-5)
        assert summary["after"]["loss"] == pytest.approx(loss_of_transformers(lm, OTHERS), abs=1e-5)
        assert not lm.model.training
        return vector(lm.model)

    assert not torch.equal(trained(0.0), trained(0.3))


def test_metrics_and_evaluations_on_the_way(make_sft, tmp_path, lines):
    sft = make_sft(settings={"epochs": 5, "batch_size": 4, "eval_every": 2}, eval_data=OTHERS, run=tmp_path / "run")
    summary = sft.train()
    rows = lines(tmp_path / "run", "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5]
    evaluated = {row["step"]: row["eval/loss"] for row in rows if "eval/loss" in row}
    assert list(evaluated) == [0, 2, 4, 5]
    assert len(set(evaluated.values())) == 4
    assert evaluated[0] == summary["before"]["loss"] == pytest.approx(5.9, abs=0.5)  # about log 320
    assert evaluated[5] == summary["after"]["loss"]
    assert [row["lr"] for row in rows if "lr" in row] == pytest.approx([0.003, 0.0024, 0.0018, 0.0012, 0.0006])


def test_the_held_out_loss_is_the_same_in_micro_batches(make_sft):
    rows = [*OTHERS, *ROWS]
    losses = [
        make_sft(settings={"micro_batch_tokens": budget}, eval_data=rows).look().metrics["eval/loss"]
        for budget in (40, 10_000)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[1] == pytest.approx(loss_of_transformers(make_sft().lm, rows), rel=1e-4)


def test_rows_set_aside_are_not_trained_on(make_sft):
    sft = make_sft(eval_size=1)
    assert (len(sft.examples), len(sft.held_out)) == (3, 1)
    [held] = sft.held_out
    assert held not in sft.examples
    assert sorted([*sft.examples, held]) == sorted(make_sft().examples)
    with pytest.raises(ConfigError, match="eval_size: not used with eval_data"):
        make_sft(eval_size=1, eval_data=OTHERS)
    with pytest.raises(DataError, match="leaves none to train on"):
        make_sft(eval_size=4)


def test_a_demonstration_that_does_not_fit_is_named(make_sft):
    said = (
        r"1 of 4 rows of data have more than 12 tokens \(max_length=12\), row 3 the most, \d+\. Set too_long='skip' .*"
    )
    with pytest.raises(DataError, match=said + "'truncate' .*, or raise max_length"):
        make_sft(settings={"max_length": 12})
    with pytest.raises(DataError, match=r"1 of 5 .* than 128 tokens \(the model's positions\), row 5"):
        make_sft([*ROWS, LONG])
    with pytest.raises(DataError, match="1 of 1 held-out rows have more than 128"):
        make_sft(eval_data=[LONG])
    sft = make_sft()
    longest = max(sft.sizes)
    with pytest.raises(ConfigError, match=rf"longest example has {longest} tokens; set micro_batch_tokens={longest}"):
        make_sft(settings={"micro_batch_tokens": longest - 1})
    make_sft(settings={"micro_batch_tokens": longest})


def test_too_long_demonstrations_are_left_out_or_cut_and_it_is_said(make_sft, lines, capsys, tmp_path):
    settings = {"max_length": 12, "batch_size": 2, "epochs": 1}
    skipped = make_sft(settings=settings | {"too_long": "skip"}, run=tmp_path / "run")
    assert skipped.origins == ["row 1", "row 2", "row 4"]
    said = "1 of 4 rows of data have more than 12 tokens (max_length=12), row 3 the most, 19; they are left out"
    skipped.train()
    assert said in capsys.readouterr().err
    [event] = lines(tmp_path / "run", "events.jsonl")
    assert (event["step"], event["event"], event["message"]) == (0, "too_long", f"{said} (too_long='skip')")
    with pytest.raises(DataError, match=r"4 of 4 rows of data .*too many to leave out. Set too_long='truncate' to cut"):
        make_sft(settings={"max_length": 4, "too_long": "skip"})


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (10, " on the mat| and the dog ran<eos>"),  # the prompt loses its beginning
        (9, " the mat| and the dog ran<eos>"),
        (8, " the mat| and the dog ran"),  # and the answer its end, where a quarter is left to the prompt
        (5, " mat| and the do"),
        (2, " mat| a"),
    ],
)
def test_what_cutting_keeps(make_sft, tiny_tokenizer, limit, expected):
    rows = [{"prompt": "the cat sat on the mat", "completion": " and the dog ran"}]
    [(ids, mask)] = make_sft(rows, {"max_length": limit, "too_long": "truncate", "batch_size": 1}).examples
    asked, answered = ([i for i, on in zip(ids, mask, strict=True) if on is which] for which in (False, True))
    assert f"{tiny_tokenizer.decode(asked)}|{tiny_tokenizer.decode(answered)}" == expected
    assert len(ids) == len(mask) == limit


def test_cutting_a_conversation_keeps_its_last_answer(make_sft, tiny_tokenizer):
    turns = [("user", "the cat"), ("assistant", "sat on the mat"), ("user", "and"), ("assistant", "the dog ran")]
    rows = [{"messages": [{"role": role, "content": content} for role, content in turns]}]
    [(ids, mask)] = make_sft(rows, {"max_length": 12, "too_long": "truncate", "batch_size": 1}).examples
    assert tiny_tokenizer.decode(ids).endswith("<|user|>and<eos><|assistant|>the dog ran<eos>")
    trained = tiny_tokenizer.decode([i for i, on in zip(ids, mask, strict=True) if on])
    assert trained.endswith("the dog ran<eos>")
    assert "<|assistant|>" not in trained
    assert len(ids) == 12


def test_a_step_that_is_not_finite_is_left_out_and_three_in_a_row_stop(make_sft, vector, lines, tmp_path, capsys):
    def broken_at(*steps):
        sft = make_sft(settings={"epochs": 6, "batch_size": 2, "checkpoint_every": 1}, run=tmp_path / str(steps))
        loss = sft.loss

        def sometimes_broken(rows, denominator):
            value, metrics = loss(rows, denominator)
            return value * (math.inf if sft.step_done + 1 in steps else 1.0), metrics

        sft.loss = sometimes_broken
        return sft

    sft = broken_at(2, 3, 5)  # never three in a row
    before = []
    step = sft.step
    sft.step = lambda: before.append(vector(sft.module)) or step()
    sft.train()
    moved = [not torch.equal(a, b) for a, b in zip(before, [*before[1:], vector(sft.module)], strict=True)]
    assert moved == [True, False, False, True, False, *[True] * 7]
    said = "step 2 is left out from there on, and the weights are safe: loss: inf, of row 3, row 4; lower"
    assert said in capsys.readouterr().err
    rows = lines(tmp_path / str((2, 3, 5)), "metrics.jsonl")
    assert [row["step"] for row in rows if "train/left_out" in row] == [2, 3, 5]
    assert [row["step"] for row in lines(tmp_path / str((2, 3, 5)), "events.jsonl")] == [2, 3, 5]
    seen = torch.load(tmp_path / str((2, 3, 5)) / "not_finite/step-000003.pt")
    rows = batch_indices(4, 2, 2, 0)
    assert seen == {"rows": [f"row {row + 1}" for row in rows], "examples": [sft.examples[row] for row in rows]}

    sft = broken_at(2, 4, 5, 6)
    with pytest.raises(NumericsError, match=r"step 6 is left out.*\n.*3 in a row"):
        sft.train()
    assert vector(sft.module).isfinite().all()


def test_steps_left_out_in_a_row_are_counted_across_a_resume(make_sft, tmp_path):
    def broken(**kwargs):
        sft = make_sft(settings={"epochs": 6, "batch_size": 2, "checkpoint_every": 1}, run=tmp_path / "run", **kwargs)
        sft.lm.model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)
        return sft

    sft = broken()
    step = sft.step

    def killed_at_2():
        if sft.step_done == 2:
            raise KeyboardInterrupt
        return step()

    sft.step = killed_at_2
    with pytest.raises(KeyboardInterrupt):
        sft.train()
    with pytest.raises(NumericsError, match=r"step 3 is left out.*\n.*3 in a row"):
        broken(resume=True).train()


def test_an_infinite_loss_whose_gradient_is_finite_is_left_out(make_sft, vector, tmp_path):
    """That of a log-probability of minus infinity is finite."""
    sft = make_sft(settings={"batch_size": 2}, run=tmp_path / "run")
    sft.lm.model.lm_head.register_forward_hook(
        lambda module, _, logits: logits.masked_fill(torch.arange(logits.shape[-1]) > 40, -math.inf)
    )
    (tmp_path / "run").mkdir()
    before = vector(sft.module)
    assert sft.step()["train/left_out"] == 1.0
    assert torch.equal(before, vector(sft.module))


def test_stop_tokens_end_the_demonstrations_and_are_saved(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "base")
    config = SFTConfig(stop_tokens=("<|user|>",), batch_size=4, device="cpu")
    sft = SFT(tmp_path / "base", ROWS, config, progress=False, run=tmp_path / "run")
    assert all(ids[-1] in (1, 3) for ids, _ in sft.examples)
    sft.train()
    assert json.loads((tmp_path / "run/policy/generation_config.json").read_text())["eos_token_id"] == [1, 3]


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_learning_rate_is_above_zero(rate):
    for config in (SFTConfig, RewardConfig):
        with pytest.raises(ConfigError, match=r"learning_rate: .*greater than 0"):
            config(learning_rate=rate)


@pytest.mark.parametrize(("key", "value"), [("device", "cpu"), ("dtype", "float32"), ("stop_tokens", ("<eos>",))])
def test_what_says_how_to_load_is_refused_with_a_loaded_model(tiny_lm, key, value):
    with pytest.raises(ConfigError, match=f"{key}: not used with a loaded model"):
        SFT(tiny_lm("llama"), OTHERS, SFTConfig(**{key: value}))


@pytest.mark.parametrize("seed", [2**63, 10**30, -7])
def test_any_whole_number_is_a_seed(make_sft, vector, seed):
    weights = []
    for _ in range(2):
        sft = make_sft(settings={"seed": seed}, arch="gpt2")
        sft.train()
        weights.append(vector(sft.module))
    assert torch.equal(*weights)


def test_settings_as_a_dict_and_a_run_that_cannot_be_written(tiny_lm, tmp_path):
    settings = {"epochs": 2, "batch_size": 4, "micro_batch_tokens": 99}
    assert SFT(tiny_lm("llama"), ROWS, settings).config == SFTConfig(**settings)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/run: cannot be written"):
        SFT("no/such/model", "no/such/data.jsonl", run=tmp_path / "file/run")


def test_eval_every_needs_held_out_rows(make_sft):
    with pytest.raises(ConfigError, match="eval_every: not used without held-out rows"):
        make_sft(settings={"eval_every": 1})


def test_a_warmup_that_never_ends_is_refused(make_sft):
    assert make_sft(settings={"warmup_steps": 2}).total_steps == 3
    with pytest.raises(ConfigError, match="warmup_steps: 3 of 3 steps never reach learning_rate; at most 2"):
        make_sft(settings={"warmup_steps": 3})


def test_gradient_checkpointing_is_really_on_and_changes_nothing(make_sft, vector):
    weights, passes = [], []
    for on in (False, True):
        sft, seen = make_sft(settings={"gradient_checkpointing": on}), []
        assert sft.lm.head is not None
        sft.lm.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        sft.step()
        weights.append(vector(sft.module))
        passes.append(len(seen))
    assert passes == [1, 2]
    assert torch.allclose(*weights, rtol=0, atol=1e-6)


def test_autocast_computes_in_bfloat16_and_keeps_the_weights(make_sft):
    sft, seen = make_sft(settings={"autocast": "bfloat16"}, eval_data=OTHERS), []
    sft.lm.model.model.layers[0].mlp.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    summary = sft.train()
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in sft.lm.model.parameters()} == {torch.float32}
    assert summary["after"]["loss"] < summary["before"]["loss"]

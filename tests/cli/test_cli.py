"""The commands as a user types them: what they print, what they leave behind, and every bad input with status 2."""

import json
import os
import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from kedge import cli
from kedge.models.language_model import load_language_model
from kedge.models.reward_loading import load_reward_model
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

WORKERS = 'ppo.reward=[{function="rewards:%s",workers=1,time_limit=%s}]'


def test_the_stages_one_after_another(kedge, world):
    for stage, result in (("sft", "policy"), ("reward", "reward_model"), ("ppo", "policy")):
        status, out, err = kedge(stage, "r.toml")
        assert status == 0, err
        folder = world / f"runs/r-{stage}"
        assert (folder / result / "config.json").is_file()
        assert "after" in json.loads((folder / "summary.json").read_text())
        assert str(folder.relative_to(world)) in out
        assert ("Trust report" in out) is (stage == "reward")
    status, out, _ = kedge("evaluate", "r.toml")
    assert status == 0
    summary = json.loads((world / "runs/r-evaluate/summary.json").read_text())
    assert summary["eval_prompts"] == 12
    assert set(summary["win_rate"]) == {"ends"}
    samples = [json.loads(line) for line in (world / "runs/r-evaluate/samples.jsonl").read_text().splitlines()]
    assert [sample["policy"] for sample in samples] == ["baseline"] * 12 + ["policy"] * 12


def test_the_saved_recipe_repeats_the_run(kedge, world):
    assert kedge("ppo", "r.toml", "ppo.run=once", "ppo.kl_coef=0.25")[0] == 0
    assert kedge("ppo", "once/recipe.toml", "ppo.run=again")[0] == 0

    def lines(run):
        rows = [json.loads(line) for line in (world / run / "metrics.jsonl").read_text().splitlines()]
        return [
            {key: value for key, value in row.items() if not key.startswith(("time/", "throughput/"))} for row in rows
        ]

    assert lines("once") == lines("again")
    assert lines("once")[1]["objective/kl_coef"] == 0.25


def test_plain_transformers_writes_the_same_text(kedge, world):
    kedge("ppo", "r.toml", "ppo.learning_rate=1e-2")
    lm = load_language_model("runs/r-ppo")
    [ours] = Engine(lm).generate([[5, 6, 7]], Sampling(20, temperature=0.0))

    theirs = AutoModelForCausalLM.from_pretrained("runs/r-ppo/policy").generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=20, do_sample=False
    )
    assert theirs[0, 3:].tolist() == ours.ids


def test_a_run_that_exists_is_left_alone(kedge, world):
    assert kedge("sft", "r.toml")[0] == 0
    before = (world / "runs/r-sft/metrics.jsonl").read_bytes()
    status, _, err = kedge("sft", "r.toml")
    assert status == 2
    assert "--overwrite" in err
    assert "--resume" in err
    assert (world / "runs/r-sft/metrics.jsonl").read_bytes() == before
    assert kedge("sft", "r.toml", "--overwrite")[0] == 0


def test_resume_goes_on(kedge, world):
    words = ("ppo", "r.toml", "ppo.checkpoint_every=1")
    assert kedge(*words)[0] == 0
    whole = (world / "runs/r-ppo/policy/model.safetensors").read_bytes()
    shutil.rmtree(world / "runs/r-ppo/checkpoints/step-000002")
    assert kedge(*words, "--resume")[0] == 0
    assert (world / "runs/r-ppo/policy/model.safetensors").read_bytes() == whole


def bad_row(world):
    (world / "prompts.jsonl").write_text('{"prompt": "a"}\n{"question": "b"}\n')


def empty_data(world):
    (world / "prompts.jsonl").write_text("")


def long_prompt(world):
    (world / "prompts.jsonl").write_text(json.dumps({"prompt": "the cat " * 200, "answer": "1"}) + "\n")


def one_table(world):
    (world / "one.toml").write_text('[ppo]\npolicy = "model"\nprompts = "prompts.jsonl"\nreward = "rewards:ends"\n')


def no_tokenizer(world):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (world / "model" / name).unlink(missing_ok=True)


def no_template(world):
    (world / "model/chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("damage", "words", "said"),
    [
        (None, "ppo r.toml ppo.kl_coeff=0.1", ["[ppo]", "kl_coeff", "did you mean 'kl_coef'?"]),
        (None, "ppo r.toml beta=0.1", ["[ppo]", "beta", "'kl_coef'"]),
        (None, "ppo r.toml kl_coeff=0.1", ["[ppo]", "did you mean 'kl_coef'?"]),
        (None, "ppo r.toml kl_coef=much", ["[ppo]", "kl_coef", "'much'"]),
        (
            None,
            "sft r.toml kl_coef=0.1",
            ["'kl_coef=0.1': no setting of [sft]; kedge has 'kl_coef' in [ppo]"],
        ),
        (None, "sft r.toml ppo.kl_coef=0.1", ["'ppo.kl_coef=0.1': of [ppo], and [sft] is what is read here"]),
        (None, "sft r.toml gamma=0.9", ["[sft] has no 'gamma'; [ppo] has, and is not read"]),
        (None, "ppo r.toml reward.function=a:b", ["[ppo] is what is read here; ppo.reward is another setting"]),
        (None, "sft r.toml reward=a:b", ["'reward=a:b': [reward] is a table, and not what is read here"]),
        (None, "sft r.toml steps=9", ["'steps=9': kedge's name for it is 'epochs'"]),
        (one_table, "evaluate one.toml temperature=0", ["no table [evaluate], which would have 'temperature'"]),
        (None, "plan r.toml batch_size=8", ["write sft.batch_size=8 or reward.batch_size=8 or ppo.batch_size=8"]),
        (None, "ppo r.toml reward=nowhere:f", ["nowhere:f"]),
        (one_table, "plan one.toml beta=0.1", ["[ppo]", "beta", "'kl_coef'"]),
        (None, "plan r.toml kl_coef=much", ["[ppo]", "kl_coef", "'much'"]),
        (None, "ppo r.toml grpo.steps=3", ["'grpo'", 'advantage_estimator = "grpo"']),
        (None, "ppo r.toml ppoo.kl_coef=0.1", ["'ppoo'", "did you mean 'ppo'?"]),
        (None, "ppo r.toml ppo.kl_target=3", ["kl_target", "not used", "kl_controller='adaptive'"]),
        (None, "ppo r.toml ppo.top_p=0.9", ["top_p", "whole distribution"]),
        (None, "ppo r.toml ppo.mini_batch_size=3", ["mini_batch_size", "batch_size=4", "2 does"]),
        (None, "ppo r.toml ppo.micro_batch_tokens=4", ["micro_batch_tokens", "response_length=6"]),
        (None, "ppo r.toml ppo.learning_rate=fast", ["learning_rate", "'fast'"]),
        (None, "ppo r.toml kl_coef", ["kl_coef", "key.path=value"]),
        (None, "ppo nowhere.toml", ["nowhere.toml", "no such recipe file"]),
        (bad_row, "ppo r.toml", ["prompts.jsonl: line 2", "no column 'prompt'", "question"]),
        (empty_data, "ppo r.toml", ["prompts.jsonl", "no rows"]),
        (
            long_prompt,
            "ppo r.toml ppo.eval_size=0",
            ["prompts.jsonl: line 1", "1 of 1 prompts have more than 122 tokens", "128 positions"],
        ),
        (no_tokenizer, "ppo r.toml", ["model: no tokenizer", "tokenizer="]),
        (no_template, "sft r.toml", ["demos.jsonl: line", "chat template"]),
        (None, "ppo r.toml ppo.policy=nobody/nothing", ["nobody/nothing", "network"]),
        (None, "ppo r.toml ppo.reward=rewards:too_few", ["'too_few'", "1 scores for 4"]),
        (None, "ppo r.toml ppo.reward=rewards:picky", ["'picky' wants column 'colour'; there are: prompt, answer"]),
        (None, "ppo r.toml ppo.reward=rewards:nothing", ["no reward component gave a score for", "prompt ("]),
        (None, "ppo r.toml ppo.reward=rewards:bad", ["'bad'", "nan", "prompt (", "completion:"]),
        (None, f"ppo r.toml {WORKERS % ('hangs', 0.3)}", ["'hangs' took more than time_limit=0.3 seconds", "prompt ("]),
        (
            None,
            f"ppo r.toml {WORKERS % ('leaves', 9)}",
            ["'leaves' ended its worker process (exit status 1)"],
        ),
        (None, f"ppo r.toml {WORKERS % ('bad', 9)}", ["'bad' gave nan", "prompt (", "completion:"]),
        (None, 'ppo r.toml ppo.reward=[{function="rewards:ends",default=0.0}]', ["default: not used", "set workers"]),
        (None, "ppo r.toml ppo.reward=rewards:missing", ["rewards:missing", "has no 'missing'"]),
        (None, "ppo r.toml ppo.reward=rewards.ends", ["rewards.ends", "package.module:name"]),
        (None, "ppo r.toml ppo.reward=model", ["model", "no reward model", "kedge reward"]),
        (None, "ppo r.toml --resume --overwrite", ["exclude each other"]),
        (None, "ppo r.toml ppo.steps=true", ["steps: a number, and not true or false"]),
        (None, "ppo r.toml ppo.run=r.toml/run", ["r.toml/run: cannot be written", "Not a directory", "run=..."]),
        (None, "sft r.toml sft.data=demos.jsonl sft.columns={prompt='messages'}", ["no column 'completion'"]),
        (None, "chat nowhere/at/all", ["nowhere/at/all", "no such folder"]),
    ],
)
def test_bad_input(kedge, world, damage, words, said):
    if damage:
        damage(world)
    status, out, err = kedge(*words.split())
    assert status == 2
    assert [word for word in said if word not in err.replace("\n", " ")] == []
    assert "Traceback" not in err + out
    assert not (world / "runs").exists()  # said before any training, with nothing left behind


def test_options_that_there_are_none_of(kedge, world, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for words in ("ppo r.toml --kl_coef=0.1", "ppo --kl_coef=0.1 r.toml", "sft r.toml --kl_coef 0.1"):
        status, _, err = kedge(*words.split())
        assert status == 2
        assert "No such option: --kl_coef. A setting is given without dashes: kl_coef=..." in " ".join(err.split())
    for words in ("ppo r.toml --resum", "ppo --resum r.toml"):
        _, _, err = kedge(*words.split())
        assert "--resume" in err
        assert "setting" not in err


def test_tokenizer_of_another_vocabulary(kedge, world, shared):
    status, _, err = kedge("ppo", "r.toml", f"ppo.tokenizer={shared}/models/gpt2-tokenizer")
    assert status == 2
    assert "50,257 tokens" in err
    assert "320" in err


def test_chat(kedge, world, monkeypatch):
    lines = iter(["the cat", "", "and then", "/new", "the dog"])

    def say(*_, **__):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(cli.console, "input", say)
    status, out, err = kedge("chat", "model", "--max-new-tokens", "5", "--seed", "3")
    assert (status, err) == (0, "")
    assert "/new begins anew" in out


def test_version_and_help(kedge):
    from kedge import __version__

    assert kedge("--version")[1].strip() == __version__
    status, out, _ = kedge("--help")
    assert status == 0
    assert all(command in out for command in ("quickstart", "sft", "reward", "ppo", "evaluate", "chat"))


@pytest.mark.parametrize(("chosen", "then"), [({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
                                              ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, {}),
                                              ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, {})])  # fmt: skip
def test_a_gpus_memory_grows_in_one_piece_where_nothing_was_chosen(kedge, monkeypatch, chosen, then):
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    for name in names:
        monkeypatch.setenv(name, "")  # what the command sets is taken back after the test
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    kedge("--version")
    assert {name: os.environ[name] for name in names if name in os.environ} == chosen | then


def test_a_file_scored(kedge, world):
    """Pairs, and texts; as the model itself scores them."""
    assert kedge("reward", "r.toml")[0] == 0
    (world / "texts.jsonl").write_text('{"text": "the cat", "id": 7}\n{"text": "a dog ran on the mat", "id": 8}\n')
    status, out, _ = kedge("score", "runs/r-reward", "texts.jsonl", "--output", "scored.jsonl")
    assert status == 0
    assert "rows: 2" in out
    assert "correlation with length: " in out
    rows = [json.loads(line) for line in (world / "scored.jsonl").read_text().splitlines()]
    want = load_reward_model("runs/r-reward", device="cpu").score(["the cat", "a dog ran on the mat"])
    assert [row["score"] for row in rows] == pytest.approx(want, abs=1e-5)
    assert [row["id"] for row in rows] == [7, 8]
    assert kedge("score", "runs/r-reward", "texts.jsonl", "--output", "scored.jsonl")[0] == 2
    (world / "two.jsonl").write_text('{"chosen": "the cat", "rejected": "a dog ran on the mat"}\n')
    _, out, _ = kedge("score", "runs/r-reward", "two.jsonl")
    assert f"accuracy: {100.0 * (want[0] > want[1]):.1f}% (95% interval " in out
    assert f"{want[0] - want[1]:.3f}  two.jsonl: line 1" in out


def test_what_to_label_next(kedge, world):
    for seed in (1, 2):
        own = (f"reward.seed={seed}", f"reward.run=runs/rm{seed}", "reward.learning_rate=1e-2")
        assert kedge("reward", "r.toml", *own)[0] == 0
    (world / "open.jsonl").write_text(
        "".join(f'{{"chosen": "the cat {i}", "rejected": "a dog {i}", "id": {i}}}\n' for i in range(6))
    )
    words = ("label-next", "open.jsonl", "--model", "runs/rm1", "--output", "next.jsonl", "--count", "3")
    assert "give two or more reward models" in kedge(*words)[2]
    status, out, _ = kedge(*words, "--model", "runs/rm2")
    assert status == 0
    assert "next.jsonl: 3 of 6 pairs; " in out
    rows = [json.loads(line) for line in (world / "next.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == 3
    assert all(0 <= row["information"] < 0.7 for row in rows)
    assert kedge(*words, "--model", "runs/rm2")[0] == 2  # it is there


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "evaluate"])
def test_help_names_the_recipes_table(kedge, stage):
    status, out, _ = kedge(stage, "--help")
    assert status == 0
    assert f"the recipe's {stage} table" in out


@pytest.mark.parametrize(
    "words",
    [
        'ppo.reward={function="rewards:ends"}',
        'ppo.reward=["rewards:ends"] ppo.metrics=rewards:ends',
        'ppo.metrics={function="rewards:ends",name="again"} ppo.stop_tokens=<eos> ppo.stop_strings=zz',
    ],
)
def test_one_where_several_may_stand(kedge, world, words):
    (world / "r.toml").write_bytes(b"\xef\xbb\xbf" + (world / "r.toml").read_bytes())
    assert kedge("ppo", "r.toml", *words.split())[0] == 0
    assert kedge("ppo", "runs/r-ppo/recipe.toml", "--overwrite")[0] == 0  # what is resolved says the same


def test_a_metric_may_be_given_a_name(kedge, world):
    status, out, _ = kedge("ppo", "r.toml", 'ppo.metrics=[{function = "rewards:ends", name = "long"}]')
    assert status == 0
    assert "long" in out
    assert "long" in json.loads((world / "runs/r-ppo/summary.json").read_text())["after"]
    assert kedge("ppo", "runs/r-ppo/recipe.toml", "--overwrite")[0] == 0


def test_evaluate_claims_of_its_prompts_what_is_known(kedge, world):
    kedge("ppo", "r.toml")
    _, out, _ = kedge("evaluate", "r.toml")  # the training prompts, of which 4 were held out
    assert "12 prompts (8 of them trained on by runs/r-ppo)" in " ".join(out.split())
    assert json.loads((world / "runs/r-evaluate/summary.json").read_text())["trained_on"] == {"runs/r-ppo": 8}
    (world / "new.jsonl").write_text('{"prompt": "a dog"}\n{"prompt": "a ship"}\n')
    for policy in ("runs/r-ppo", "runs/r-ppo/policy"):
        words = ["evaluate.prompts=new.jsonl", f"evaluate.policy={policy}", "evaluate.metrics=[]", "--overwrite"]
        _, out, _ = kedge("evaluate", "r.toml", *words)
        assert f"2 prompts (none trained on by {policy})" in " ".join(out.split())
    (world / "prompts.jsonl").rename(world / "gone.jsonl")
    _, out, _ = kedge("evaluate", "r.toml", *words)
    assert "2 prompts;" in " ".join(out.split())  # nobody knows


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["reward.eval_size=2"], "of 2 held-out pairs"),
        pytest.param(["reward.eval_size=0"], "of 8 training pairs", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_the_doctor_says_which_pairs_it_tried(kedge, world, words, found):
    kedge("reward", "r.toml", *words)
    out = kedge("doctor", "r.toml", *words, "ppo.reward=runs/r-reward", "--json")[1]
    [finding] = [f for f in json.loads(out)["findings"] if f["check"] == "reward model: swapped pairs"]
    assert found in finding["found"]


def test_evaluate_refuses_a_truncation_that_greedy_would_ignore(kedge, world):
    status, _, err = kedge("evaluate", "r.toml", "evaluate.temperature=0", "evaluate.top_k=5")
    assert status == 2
    assert "top_k: not used with temperature=0" in err


def test_an_interrupted_run_stands_for_its_last_whole_checkpoint(kedge, world, monkeypatch):
    for stage, part in (("sft", "policy"), ("reward", "reward_model")):
        assert kedge(stage, "r.toml", f"{stage}.checkpoint_every=1")[0] == 0
        newest = world / f"runs/r-{stage}/checkpoints/step-000003"
        (newest / "state.pt").write_bytes(b"")  # as a bad disk leaves it
        shutil.rmtree(world / f"runs/r-{stage}/{part}")
    words = ("ppo", "r.toml", "ppo.policy=runs/r-sft", "ppo.reward=runs/r-reward")
    status, _, err = kedge(*words)
    assert status == 0, err
    for stage, part in (("sft", "policy"), ("reward", "reward_model")):
        assert f"runs/r-{stage}: the run is not at its end; {part} is that of its last checkpoint, step-000002" in err
    assert err.count("runs/r-sft: the run") == 1
    status, _, err = kedge("evaluate", "r.toml", "evaluate.policy=runs/r-sft")
    assert (status, "runs/r-sft: the run is not at its end" in err) == (0, True)
    monkeypatch.setattr(cli.console, "input", lambda *_: (_ for _ in ()).throw(EOFError))
    status, _, err = kedge("chat", "runs/r-sft")
    assert (status, "step-000002" in err) == (0, True)


def test_home_is_home(kedge, world, monkeypatch):
    monkeypatch.setenv("HOME", str(world / "home"))
    (world / "home").mkdir()
    (world / "home/m").symlink_to(world / "model")
    for name in ("prompts.jsonl", "prefs.jsonl", "demos.jsonl"):
        (world / "home" / name).symlink_to(world / name)
    home = ("model=~/m", "data=~/{}.jsonl", "run=~/runs/{}", "tokenizer=~/m")
    for stage, data in (("sft", "demos"), ("reward", "prefs")):
        status, _, err = kedge(stage, "r.toml", *(f"{stage}.{word.format(data)}" for word in home))
        assert status == 0, err
    words = (
        "policy=~/runs/demos tokenizer=~/m prompts=~/prompts.jsonl eval_prompts=~/prompts.jsonl eval_size=0 run=~/ppo"
    )
    (world / "home/held.jsonl").write_text('{"prompt": "never seen"}\n')
    words = words.replace("eval_prompts=~/prompts", "eval_prompts=~/held") + " reward=~/runs/prefs"
    status, _, err = kedge("ppo", "r.toml", *(f"ppo.{word}" for word in words.split()))
    assert status == 0, err
    assert (world / "home/ppo/policy/config.json").is_file()
    assert not (world / "~").exists()


@pytest.mark.parametrize("run", [pytest.param("runs/[red]x", marks=pytest.mark.slow), "runs/[/x]"])
def test_a_path_is_no_markup(kedge, world, run):
    for stage in ("sft", "reward", "ppo"):
        status, out, err = kedge(stage, "r.toml", f"{stage}.run={run}/{stage}")
        assert status == 0, err
        assert f"run: {run}/{stage}\n" in out
    (world / "[b]").mkdir()
    (world / "[b]/r.toml").write_text((world / "r.toml").read_text())
    status, out, _ = kedge("doctor", "[b]/r.toml")
    assert "kedge doctor [b]/r.toml" in out
    metric = 'ppo.metrics=[{function="rewards:ends",name="[bold]"}]'
    assert "[bold]" in kedge("ppo", "r.toml", metric)[1]


def test_help_says_all_that_it_was_given(kedge):
    for command in cli.program().registered_commands:
        function = command.callback
        said = " ".join(kedge(command.name or function.__name__, "--help")[1].split())
        assert " ".join((command.help or function.__doc__).replace("\\[", "[").split()) in said
        shown = [getattr(hint, "__metadata__", [None])[0] for hint in function.__annotations__.values()]
        for option in filter(None, shown):
            assert not re.search(r"(?<!\\)\[[a-z]", option.help)  # it would be taken for markup

"""From feedback to the next version, round by round, and from wherever it was left."""

import hashlib
import json

import httpx
import loop_victim
import pytest
from listeners import listening, service_of

from kedge import cli
from kedge.cli.app import _how_to_go_on
from kedge.errors import ConfigError, DataError, Stopped
from kedge.models.language_model import load_language_model
from kedge.recipes.loop_table import GateConfig, LoopRecipe
from kedge.recipes.recipe import Recipe
from kedge.recipes.stages.supervised import RewardStage
from kedge.serving.http.canary import Terms
from kedge.serving.loop.gate import decided
from kedge.serving.loop.heard import heard
from kedge.serving.loop.loop import Loop
from kedge.serving.loop.material import write_material
from kedge.serving.people.store import Feedback, GivenAnswer, Store
from kedge.serving.people.tables import open_database
from kedge.storage.locking import take

ADMIN = {"Authorization": "Bearer admin"}
WORDS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship", "the red", "dog", "time"]
RECIPE = """
[loop]
feedback = "{folder}/feedback.db"
policy = "{folder}/model"
anchors = "{folder}/anchors.jsonl"
run = "{folder}/loop"
at_least = 3
{more}
gate = {{ min_score_gain = -100.0, keep = 0.0, hold_out = 0.4 }}
[loop.reward]
batch_size = 2
learning_rate = 3e-3
device = "cpu"
checkpoint_every = 2
[loop.ppo]
steps = 3
batch_size = 4
mini_batch_size = 2
num_ppo_epochs = 1
response_length = 4
learning_rate = 3e-3
device = "cpu"
checkpoint_every = 1
"""


def answer(name, prompt, text):
    return GivenAnswer(name, "tiny", 1, "first", None, prompt, [1, 2], text, [3, 4], [-0.5, -0.25], {}, "eos")


def say(store, round, prompts=WORDS):
    """Somebody compares two answers to each prompt; one of them is about tokens, which nobody reads."""
    for number, prompt in enumerate([*prompts, [5, 6]]):
        for index, text in enumerate((" sat.", f" {number}")):
            store.keep(answer(f"{round}-{number}:{index}", prompt, text))
        store.take(Feedback(f"{round}-{number}:0", worse=f"{round}-{number}:1")).result(10)
    store.keep(answer(f"{round}-unsaid:0", "nobody spoke of this", " so"))


@pytest.fixture(scope="module")
def model(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    tiny_lm("llama").save(folder)
    return folder


@pytest.fixture
def made(model, tmp_path):
    """``made("more settings")``: a recipe beside a model, anchors and feedback."""
    (tmp_path / "model").symlink_to(model)
    anchors = [{"prompt": f"{word} old", "chosen": " good.", "rejected": " bad", "weight": 1.0} for word in WORDS]
    (tmp_path / "anchors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in anchors))
    store = Store(open_database(tmp_path / "feedback.db"))
    say(store, "one")
    store.close()

    def made(more=""):
        path = tmp_path / "support.toml"
        path.write_text(RECIPE.format(folder=tmp_path, more=more))
        return path

    return made


def loop_of(path, *overrides):
    return Loop(Recipe(path, [*overrides], stage="loop"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# What a round is made from ----------------------------------------------------------------------------------------


def material(path, number=1):
    job, folder = loop_of(path), path.parent / f"material-{number}"
    write_material(folder, job.settings, heard(job.settings.feedback), policy=job.policy, number=number, name="x")
    return folder


def test_the_material_of_a_round(made, tmp_path):
    folder = material(made())
    told = lines(folder / "feedback.jsonl")
    assert [row["feedback"] for row in told] == [[number] for number in range(1, len(WORDS) + 2)]
    assert {row["kind"] for row in told} == {"preference"}
    pairs = lines(folder / "preferences.jsonl")
    assert [row["prompt"] for row in pairs[: len(WORDS)]] == WORDS  # and not the tokens
    assert len(pairs) == 2 * len(WORDS)
    assert {row["prompt"] for row in pairs[len(WORDS) :]} == {f"{word} old" for word in WORDS}
    trained, asked, anchored = (
        [row["prompt"] for row in lines(folder / f"{name}.jsonl")]
        for name in ("prompts", "held-out", "anchors-held-out")
    )
    assert not {*trained} & {*asked, *anchored}
    assert {*trained, *asked} >= {*WORDS, "nobody spoke of this"}
    assert {*asked} & {*WORDS}
    assert not {*asked} & {*anchored}
    assert all(prompt.endswith(" old") for prompt in anchored)
    assert lines(folder / "anchors-held-out.jsonl")[0] == {"prompt": anchored[0], "weight": 1.0}
    ours = sum(not prompt.endswith(" old") for prompt in trained)
    assert 0 < len(trained) - ours <= ours
    found = json.loads((folder / "made_from.json").read_text())
    assert found["feedback"] == [*range(1, len(WORDS) + 2)]
    assert found["sha256"] == hashlib.sha256((folder / "feedback.jsonl").read_bytes()).hexdigest()
    for name in ("reward", "ppo", "evaluate"):
        Recipe(folder / "recipe.toml", [], stage=name)
    assert Recipe(folder / "anchors.toml", [], stage="evaluate").tables == ("evaluate",)


def test_a_prompt_is_held_out_in_every_round(made, tmp_path):
    first = {row["prompt"] for row in lines(material(made()) / "held-out.jsonl")}
    store = Store(open_database(tmp_path / "feedback.db"))
    say(store, "two", [f"{word} again" for word in WORDS] * 3)
    store.close()
    second = material(made(), 2)
    assert first < {row["prompt"] for row in lines(second / "held-out.jsonl")}
    # More of people's pairs leave room for more anchors, and in another round for others first.
    assert len(lines(second / "preferences.jsonl")) == 5 * len(WORDS)


def test_a_share_of_anchors(made):
    folder = material(made("anchor_share = 0.1"))
    old = [row["prompt"] for row in lines(folder / "preferences.jsonl")][len(WORDS) :]
    assert len(old) == 1
    other = material(made("anchor_share = 0.1"), 3)
    assert [row["prompt"] for row in lines(other / "preferences.jsonl")][len(WORDS) :] != old


def test_without_anchors_there_is_no_second_evaluation(made):
    path = made()
    path.write_text("\n".join(row for row in path.read_text().splitlines() if not row.startswith("anchors")))
    folder = material(path)
    assert len(lines(folder / "preferences.jsonl")) == len(WORDS)
    assert not (folder / "anchors.toml").exists()


def test_feedback_in_a_file(made, tmp_path):
    rows = [{"prompt": word, "chosen": " sat.", "rejected": " 1"} for word in WORDS]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = heard(str(tmp_path / "said.jsonl"))
    assert said.numbers == [*range(1, len(WORDS) + 1)]
    assert [pair["prompt"] for pair in said.pairs] == WORDS
    with pytest.raises(ConfigError, match=r"nowhere.db: there is no such file"):
        heard(str(tmp_path / "nowhere.db"))
    assert not (tmp_path / "nowhere.db").exists()


def test_feedback_that_makes_no_preference(made, tmp_path):
    (tmp_path / "said.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b", "score": 1.0}) + "\n")
    job = loop_of(made(), f"loop.feedback={tmp_path}/said.jsonl", "loop.at_least=1")
    with pytest.raises(DataError, match="none of its 1 rows makes a preference"):
        job.run()
    assert not (tmp_path / "loop/round-0001/recipe.toml").exists()


# Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ppo": {"reward": "x"}}, "ppo.reward: the loop says that itself"),
        ({"ppo": {"kl_coeff": 1}}, "ppo.kl_coeff: unknown key; did you mean 'kl_coef'"),
        ({"reward": {"epochs": 0}}, "reward.epochs: "),
        ({"to": "http://x"}, "admin_key_file: missing"),
        ({"canary": 0.2}, "canary: not used with to=none"),
        ({"anchor_share": 0.2}, "anchor_share: not used with anchors=none"),
        ({"gate": {"kept": 1}}, "gate.kept: unknown key"),
    ],
)
def test_settings_that_cannot_be(given, said):
    with pytest.raises(ConfigError) as error:
        LoopRecipe(feedback="f.db", policy="p", **given)
    assert said in str(error.value)


# The gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "anchors", "accepted"),
    [
        ((0.5, 0.6), (0.8, 0.76), True),
        ((0.5, 0.59), (0.8, 0.76), False),
        ((0.5, 0.6), (0.8, 0.759), False),
        ((0.5, 0.6), None, True),
        ((-1.0, -0.9), (-0.8, -0.84), True),
        ((-1.0, -0.9), (-0.8, -0.85), False),
        ((0.5, None), (0.8, 0.8), False),
        ((0.5, 0.6), (None, 0.8), False),
    ],
)
def test_the_gate(served, anchors, accepted):
    def summary(scores):
        sides = zip(("before", "after"), scores, strict=True)
        return {side: {} if score is None else {"score": score} for side, score in sides}

    evaluation = {"served": summary(served), "anchors": None if anchors is None else summary(anchors)}
    assert decided(evaluation, GateConfig(min_score_gain=0.0999, keep=0.95))["accepted"] is accepted


# The whole --------------------------------------------------------------------------------------------------------


def models(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("round-*/*/*/*.safetensors")}


def ends(processes, path, at=None):
    process = processes.Process(target=loop_victim.go, args=(path, at))
    process.start()
    process.join(120)
    return process.exitcode


FEW = [("reward", 5), ("ppo", 2), ("evaluate", 1), ("evaluate", 3)]
ALL = [
    ("feedback", 5), ("reward", 1), ("reward", 5), ("reward", 9), ("ppo", 2), ("ppo", 5), ("ppo", 3), ("evaluate", 1),
    ("evaluate", 3), ("gate", 1),
]  # fmt: skip


@pytest.mark.parametrize("moments", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
def test_killed_at_every_arrow_it_ends_with_the_same_models(processes, made, tmp_path, moments):
    path = made()
    assert ends(processes, path) == 0
    whole = models(tmp_path / "loop")
    assert {name.split("/")[1] for name in whole} == {"reward", "ppo"}
    first = json.loads((tmp_path / "loop/round-0001/evaluation.json").read_text())
    (tmp_path / "loop").rename(tmp_path / "uninterrupted")
    went_on = []
    for at in moments:
        assert ends(processes, path, at) == -9, at
        went_on.append(sorted(found.name for found in tmp_path.glob("loop/*/*/checkpoints/step-*")))
    assert went_on[-1] == went_on[moments.index(("evaluate", 1))]  # what is finished is left alone
    assert ends(processes, path) == 0
    assert models(tmp_path / "loop") == whole
    again = json.loads((tmp_path / "loop/round-0001/evaluation.json").read_text())
    assert again == first
    made_from = {
        name: json.loads((tmp_path / f"loop/round-0001/{name}/made_from.json").read_text())
        for name in ("reward", "ppo")
    }
    assert made_from["reward"]["base"] == made_from["ppo"]["base"] == str(tmp_path / "model")
    assert made_from["ppo"]["reward_model"] == str(tmp_path / "loop/round-0001/reward")
    assert made_from["ppo"]["feedback"] == made_from["reward"]["feedback"] == [*range(1, len(WORDS) + 2)]


@pytest.mark.parametrize(("every", "resume"), [(2, True), (0, False)])
def test_a_stage_that_broke_off_goes_on_from_its_checkpoint(made, monkeypatch, every, resume):
    asked = []

    def job(self, recipe, **flags):
        asked.append(flags)
        raise Stopped("asked to", 130)

    monkeypatch.setattr(RewardStage, "job", job)
    with pytest.raises(Stopped):
        loop_of(made(), f"loop.reward.checkpoint_every={every}").run()
    assert asked == [{"overwrite": not resume, "resume": resume}]  # where there is no checkpoint, it begins anew


def test_rounds_begin_from_what_was_accepted_and_from_new_feedback(made, tmp_path):
    path = made("rounds = 3")
    job = loop_of(path)
    assert job.run() == "feedback"
    assert job.policy == str(tmp_path / "loop/round-0001/ppo")
    assert not (tmp_path / "loop/round-0002").exists()
    store = Store(open_database(tmp_path / "feedback.db"))
    say(store, "two", ["a second time", "and once more", "the dog"])
    store.close()
    hard = loop_of(path, "loop.gate.min_score_gain=100.0", "loop.rounds=2")
    assert hard.run() == "done"
    second = Recipe(tmp_path / "loop/round-0002/recipe.toml", [], stage="ppo").stages["ppo"]
    assert second.policy == str(tmp_path / "loop/round-0001/ppo")
    decision = json.loads((tmp_path / "loop/round-0002/decision.json").read_text())
    assert [check["passed"] for check in decision["checks"]] == [False, True]
    assert hard.policy == str(tmp_path / "loop/round-0001/ppo")
    pairs = [row["prompt"] for row in lines(tmp_path / "loop/round-0002/preferences.jsonl")]
    assert {*WORDS, "a second time"} <= {*pairs}


def test_an_arrow_alone(made, tmp_path, monkeypatch, capsys):
    path = made()

    def kedge(*words):
        monkeypatch.setattr("sys.argv", ["kedge", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, *capsys.readouterr()

    folder = tmp_path / "loop/round-0001"
    assert kedge("loop", path, "--until", "feedback")[0] == 0
    assert not (folder / "reward").exists()
    assert kedge("reward", folder / "recipe.toml")[0] == 0
    before = (folder / "reward/summary.json").stat().st_mtime_ns
    status, out, _ = kedge("loop", path, "--until", "ppo")
    assert (status, (folder / "reward/summary.json").stat().st_mtime_ns) == (0, before)
    assert f"policy: {tmp_path}/model" in out  # nothing has come through a gate
    assert "eval_size" not in out
    assert (folder / "reward/made_from.json").is_file()
    assert not (folder / "evaluation").exists()
    assert kedge("loop", path, "--until", "nothing")[0] == 2
    assert _how_to_go_on(["loop", "r.toml"]) == "go on: kedge loop r.toml"  # it always does
    give_back = take(tmp_path / "loop")
    give_back()


def test_a_version_is_tried_at_the_server(made, model, tmp_path):
    (tmp_path / "admin.txt").write_text("admin\n")
    service = service_of(load_language_model(model, device="cpu"))
    with listening(service, admin_keys=["admin"]) as url:
        path = made(f'to = "{url}"\nadmin_key_file = "{tmp_path}/admin.txt"\ncanary = 0.25\nrounds = 2')
        job = loop_of(path)
        assert job.run() == "canary"
        tried = httpx.get(f"{url}/admin/versions", headers=ADMIN).json()["canary"]
        assert (tried["version"], tried["share"]) == (2, 0.25)
        assert tried["source"] == str(tmp_path / "loop/round-0001/ppo")
        assert job.policy == str(tmp_path / "model")  # as long as nothing is decided
        # Killed before it wrote down that it had asked: it is not tried twice.
        (tmp_path / "loop/round-0001/canary.json").unlink()
        assert job.run() == "canary"
        assert httpx.get(f"{url}/admin/versions", headers=ADMIN).json()["canary"]["version"] == 2
        httpx.post(f"{url}/admin/rollback", headers=ADMIN)
        assert job.run() == "feedback"
        assert job.policy == str(tmp_path / "model")
        told = json.loads((tmp_path / "loop/round-0001/canary.json").read_text())
        assert told == {"state": "rolled back", "version": 2, "why": "by hand"}
        store = Store(open_database(tmp_path / "feedback.db"))
        say(store, "two", ["a second time", "and once more", "the dog"])
        store.close()
        assert job.run() == "canary"
        assert service.versions.canary.terms == Terms(0.25)
        httpx.post(f"{url}/admin/promote", headers=ADMIN)
        assert job.run() == "done"
        assert job.policy == str(tmp_path / "loop/round-0002/ppo")

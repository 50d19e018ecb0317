"""Runs are found, listed and compared by what stands in their folders."""

import json
import re

import pytest

from kedge import cli
from kedge.config.settings import write_recipe
from kedge.errors import ConfigError
from kedge.runs import Run, open_run, runs_in
from kedge.runs.compare import compare, differences, line_of, to_draw
from kedge.runs.curves import draw_curves

ROWS = [
    {"step": 0, "eval/score": 0.25},
    {"step": 1, "objective/scores": 0.5, "time/update": 3.0},
    {"step": 2, "objective/scores": None, "time/update": 3.0, "eval/score": 0.75},
]


@pytest.fixture
def write(tmp_path):
    """``write("a", kl_coef=0.1)``: a run of PPO, as it stands on the disk."""

    def run(name, rows=ROWS, *, stage="ppo", summary=None, **settings):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        write_recipe(folder / "recipe.toml", {"name": name, stage: {"seed": 0, "run": str(folder), **settings}})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return run


class TestOpenRun:
    def test_what_it_reads(self, write):
        run = open_run(write("a", summary={"steps": 2}, guards={"kl": "off"}))
        assert (run.stage, run.step, run.state, run.summary) == ("ppo", 2, "done", {"steps": 2})
        assert run.recipe["ppo"]["guards"] == {"kl": "off"}
        assert run.settings["ppo.guards.kl"] == "off"
        assert run.rows == ROWS
        assert run.metrics == {
            "step": [0, 1, 2],
            "eval/score": [0.25, None, 0.75],
            "objective/scores": [None, 0.5, None],
            "time/update": [None, 3.0, 3.0],
        }
        assert (run.last("objective/scores"), run.last("nothing")) == (0.5, None)
        assert (run.samples, run.events, run.checkpoints) == ([], [], [])

    def test_a_frame(self, write):
        frame = open_run(write("a")).frame()
        assert frame["eval/score"].dropna().to_dict() == {0: 0.25, 2: 0.75}
        assert frame["objective/scores"].isna().tolist() == [True, False, True]
        assert open_run(write("b", rows=[])).frame().empty

    def test_a_line_that_is_being_written(self, write):
        folder = write("a")
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write('{"step": 3, "x": "é'.encode()[:-1])
        assert open_run(folder).step == 2

    def test_samples_with_line_ends_of_another_kind(self, write):
        folder = write("a")
        sample = {"step": 1, "completion": "a\u2028b\x85c\rd"}
        (folder / "samples.jsonl").write_text(json.dumps(sample, ensure_ascii=False) + "\n", newline="\n")
        assert open_run(folder).samples == [sample]

    @pytest.mark.parametrize(
        "inside", ["policy", "reward_model", "checkpoints/step-000002", "checkpoints/step-000002/policy"]
    )
    def test_by_a_part_of_it(self, write, inside):
        folder = write("a")
        (folder / inside).mkdir(parents=True)
        assert open_run(folder / inside).path == folder

    def test_no_run(self, write, tmp_path):
        write("runs/a"), write("runs/b")
        with pytest.raises(ConfigError, match=r"runs: no run .*; runs beneath it: .*runs/a, .*runs/b$"):
            open_run(tmp_path / "runs")
        (tmp_path / "runs/a/data").mkdir()
        for nothing in ("nowhere", "runs/a/data", "runs/a/metrics.jsonl"):
            with pytest.raises(ConfigError, match=rf"{nothing}: no run \(no recipe.toml in it\)$"):
                open_run(tmp_path / nothing)

    def test_a_recipe_beside_the_runs_it_is_of(self, write, tmp_path, monkeypatch):
        run = write("quick/ppo")
        write_recipe(tmp_path / "quick/recipe.toml", {"sft": {}, "ppo": {}})
        with pytest.raises(ConfigError, match=r"quick: no run .*; runs beneath it: .*quick/ppo"):
            open_run(tmp_path / "quick")
        (run / "policy").mkdir()
        monkeypatch.chdir(run / "policy")
        assert open_run(".").path == run

    def test_what_it_trained(self, write):
        run = Run(write("a"))
        with pytest.raises(ConfigError, match="nothing trained in it yet"):
            _ = run.result
        (run.path / "policy").mkdir()
        assert run.result == run.path / "policy"


def test_runs_are_found(write, tmp_path):
    """One beneath another folder, a quickstart's three; not what lies inside a run, nor hidden folders."""
    write("runs/a"), write("runs/quick/ppo"), write("runs/quick/sft", stage="sft"), write("runs/.hidden/c")
    write_recipe(tmp_path / "runs/quick/recipe.toml", {"sft": {}, "ppo": {}})
    write("runs/a/checkpoints/step-000001")
    found = [str(run.path.relative_to(tmp_path)) for run in runs_in(tmp_path / "runs")]
    assert found == ["runs/a", "runs/quick/ppo", "runs/quick/sft"]
    assert [run.path for run in runs_in(tmp_path / "runs/a")] == [tmp_path / "runs/a"]


class TestComparing:
    def test_settings_that_differ(self, write):
        runs = [Run(write("a", kl_coef=0.05, new=1)), Run(write("b", kl_coef=0.1)), Run(write("c", kl_coef=0.05))]
        assert differences(runs) == {"ppo.kl_coef": [0.05, 0.1, 0.05], "ppo.new": [1, None, None]}
        assert differences(runs[:1] * 2) == {}

    def test_last_metrics(self, write):
        other = [{"step": 1, "objective/scores": 0.7}, {"step": 2, "objective/scores": 0.9, "kl": None}]
        compared = compare([Run(write("x/a")), Run(write("x/b", rows=other))])
        assert compared.names == ["a", "b"]
        assert compared.metrics == {"eval/score": [0.75, None], "objective/scores": [0.5, 0.9]}
        assert next(iter(compared.metrics)) == "eval/score"
        assert compare([Run(write("c"))] * 2, ["time/update"]).metrics == {"time/update": [3.0, 3.0]}

    @pytest.mark.parametrize(
        ("stage", "rows", "said"),
        [
            ("ppo", ROWS, ("eval/score", 0.25, 0.75)),
            ("ppo", ROWS[1:2], ("objective/scores", 0.5, 0.5)),
            ("sft", [{"step": 0, "eval/loss": 3.0}, {"step": 9, "loss": 1.0}], ("eval/loss", 3.0, 3.0)),
            ("reward", [{"step": 0, "eval/accuracy": 0.5}], ("eval/accuracy", 0.5, 0.5)),
            ("control", [{"step": 512, "return": 20.0}], ("return", 20.0, 20.0)),
            ("evaluate", [], (None, None, None)),
        ],
    )
    def test_what_a_run_is_about(self, write, stage, rows, said):
        line = line_of(Run(write("a", rows, stage=stage)))
        assert (line.metric, line.first, line.last) == said

    def test_what_is_drawn(self, write):
        run = Run(write("a"))
        assert to_draw([run]) == ["eval/score", "objective/scores"]
        assert to_draw([run], ["time/update"]) == ["time/update"]
        with pytest.raises(ConfigError, match="eval/scoore: no run has that metric; did you mean 'eval/score'"):
            to_draw([run], ["eval/scoore"])
        with pytest.raises(ConfigError, match="nothing to draw"):
            to_draw([Run(write("b", rows=[]))])

    def test_curves(self, write, tmp_path):
        runs = [Run(write("a")), Run(write("b"))]
        for name, begins in (("new/c.png", b"\x89PNG"), ("c.svg", b"<?xml")):
            draw_curves(runs, [], tmp_path / name)
            assert (tmp_path / name).read_bytes().startswith(begins)
        svg = (tmp_path / "c.svg").read_text()
        assert all(f"<!-- {said} -->" in svg for said in ("a", "b", "eval/score", "objective/scores"))
        with pytest.raises(ConfigError, match=r"c\.gif: curves are drawn as"):
            draw_curves(runs, [], tmp_path / "c.gif")


class TestCommand:
    @pytest.fixture
    def runs(self, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "100")

        def run(*words):
            monkeypatch.setattr("sys.argv", ["kedge", "runs", *map(str, words)])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            return stopped.value.code or 0, *capsys.readouterr()

        return run

    def test_a_list(self, runs, write):
        write("runs/a[b]", summary={}), write("runs/c", ROWS[:2])
        for words in ((), ("runs",)):
            status, out, _ = runs(*words)
            assert status == 0
            assert re.search(r"a\[b\] +ppo +done +2 +score +0.25 -> 0.75", out)
            assert re.search(r"c +ppo +stopped +1 +score +0.25 -> 0.25", out)
            assert "differ" not in out

    def test_a_comparison(self, runs, write, tmp_path):
        write("runs/a", kl_coef=0.05), write("runs/b", ROWS[:2], kl_coef=0.1)
        status, out, _ = runs("runs/a", "runs/b", "--curves", "c.png")
        assert status == 0
        assert re.search(r"ppo.kl_coef +0.05 +0.1", out)
        assert re.search(r"eval/score +0.75 +0.25", out)
        assert re.search(r"time/update", out) is None
        assert (tmp_path / "c.png").is_file()

    def test_json(self, runs, write):
        write("runs/a", kl_coef=0.05), write("runs/b", kl_coef=0.1)
        said = json.loads(runs("runs/a", "runs/b", "--json", "--metric", "eval/score")[1])
        assert [run["run"] for run in said["runs"]] == ["runs/a", "runs/b"]
        assert (said["settings"], said["metrics"]) == ({"ppo.kl_coef": [0.05, 0.1]}, {"eval/score": [0.75, 0.75]})

    def test_none(self, runs, tmp_path):
        assert (runs()[0], runs("nowhere")[0]) == (2, 2)
        assert "nowhere: no run" in runs("nowhere")[2]
        (tmp_path / "empty").mkdir()
        assert "empty: no run" in runs("empty")[2]

    def test_what_is_no_line(self, runs, write):
        folder = write("a")
        with (folder / "metrics.jsonl").open("a") as file:
            file.write("{broken\n")
        assert "a/metrics.jsonl: line 4: not JSON" in runs("a")[2]
        (folder / "metrics.jsonl").write_text("")
        (folder / "summary.json").write_text("{")
        with pytest.raises(ConfigError, match=r"summary\.json: not JSON"):
            _ = Run(folder).summary

    def test_a_metric_that_nothing_is_done_with(self, runs, write):
        write("a")
        status, _, err = runs("a", "--metric", "eval/score")
        assert (status, "--metric: name two or more runs" in err) == (2, True)

    def test_an_evaluation(self, runs, write):
        summary = {"before": {"score": 0.25}, "after": {"score": 0.5}}
        write("a", [], stage="evaluate", summary=summary), write("b", kl_coef=0.1)
        out = runs("a", "b")[1]
        assert re.search(r"a +evaluate +done +0 +score +0.25 -> 0.5", out)
        assert "kl_coef" not in out  # a table that only one has

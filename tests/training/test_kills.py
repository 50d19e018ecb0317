"""A run that is killed at any moment, and resumed, leaves the lines and weights of the run that was not."""

import json
import random
import time

import pytest
import victim

from kedge.training.checkpoint import checkpoints, damage_in


@pytest.fixture(scope="module")
def model(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_lm("gpt2").save(folder)  # it has dropout
    return folder


@pytest.fixture(scope="module")
def whole(processes, model, tmp_path_factory):
    """``whole(kind)``: the uninterrupted run, and the seconds it took."""
    found = {}

    def get(kind):
        if kind not in found:
            run, start = tmp_path_factory.mktemp("whole") / "run", time.perf_counter()
            assert ends(processes, kind, model, run, resume=False) == 0
            found[kind] = run, time.perf_counter() - start
        return found[kind]

    return get


def ends(processes, kind, model, run, *, resume, killed_after=None):
    """The exit code of a process that trains; -9 where it was killed."""
    process = processes.Process(target=victim.train, args=(kind, model, run), kwargs={"resume": resume})
    process.start()
    process.join(killed_after)
    process.kill()
    process.join()
    return process.exitcode


def killed_and_resumed(processes, model, whole, lines, run, kind, kills, seed):
    """Kill a run at ``kills`` random moments, resume it each time, and compare what is left with the whole run's."""
    uninterrupted, seconds = whole(kind)
    moments = random.Random(seed)
    runs, done = [run], 0
    while done < kills:
        run = runs[-1]
        code = ends(processes, kind, model, run, resume=True, killed_after=moments.uniform(0.1, 1.1) * seconds)
        assert code in (0, -9)
        assert all(damage_in(checkpoint) is None for checkpoint in checkpoints(run / "checkpoints"))
        done += code == -9
        if code == 0 and done < kills:  # it came through: compare, and begin another one
            same(uninterrupted, run, lines, kind)
            runs.append(run.with_name(f"run-{len(runs)}"))
    run = runs[-1]
    assert ends(processes, kind, model, run, resume=True) == 0
    same(uninterrupted, run, lines, kind)


def same(uninterrupted, run, lines, kind):
    for name in ("metrics.jsonl", "samples.jsonl", "events.jsonl"):
        assert (run / name).exists() == (uninterrupted / name).exists()
        if (run / name).exists():
            assert lines(run, name) == lines(uninterrupted, name)
    for folder in victim.RESULTS.get(kind, ("policy", "critic")):
        for weights in (uninterrupted / folder).glob("*.safetensors"):
            assert (run / folder / weights.name).read_bytes() == weights.read_bytes()
    ours, theirs = ([path.name for path in checkpoints(at / "checkpoints")] for at in (run, uninterrupted))
    assert ours == theirs
    assert (run / "checkpoints/best").readlink() == (uninterrupted / "checkpoints/best").readlink()


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "shared" else pytest.mark.slow) for kind in victim.KINDS]
)
def test_six_kills(processes, model, whole, lines, tmp_path, kind):
    """Thirty in all."""
    killed_and_resumed(processes, model, whole, lines, tmp_path / "run", kind, kills=6, seed=kind)


@pytest.mark.parametrize(("kind", "metric"), [("sft", "loss"), ("reward", "accuracy"), ("shared", "by_letters")])
def test_what_the_best_is_measured_by(whole, lines, kind, metric):
    run, _ = whole(kind)
    best = json.loads((run / "summary.json").read_text())["best"]
    assert best["metric"] == metric
    measured = [row[f"eval/{metric}"] for row in lines(run, "metrics.jsonl") if row["step"] and f"eval/{metric}" in row]
    assert best["value"] == (min if metric == "loss" else max)(measured)


def test_the_runs_have_something_to_lose(whole, lines):
    run, _ = whole("shared")
    assert [row["step"] for row in lines(run, "metrics.jsonl")] == [0, 1, 2, 3, 4, 5, 6]
    assert lines(run, "events.jsonl")
    assert len({row["objective/kl_coef"] for row in lines(run, "metrics.jsonl") if "objective/kl_coef" in row}) > 2

"""The documentation's Python: the guide from top to bottom, and control's shorter pieces."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def snippets(page):
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_guide(desk, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(desk, "runs/desk")
    space: dict = {}
    for number, code in enumerate(snippets("docs/python.md"), start=1):
        exec(compile(code, f"docs/python.md, snippet {number}", "exec"), space)
    assert (space["trainer"].step_done, len(space["table"]["objective/scores"].dropna())) == (1, 4)
    assert "kl_coef" in capsys.readouterr().out
    assert (tmp_path / "short/policy/config.json").is_file()


def test_control(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.chdir(tmp_path)
    first, *others = snippets("docs/control.md")
    space: dict = {"observation": [0.0, 0.0, 0.0, 0.0]}
    for code in (first.replace("100_000", "512"), *others):
        exec(compile(code.replace("50_000", "512"), "docs/control.md", "exec"), space)
    assert space["agent"].num_timesteps == 2 * 512
    assert space["agent"].metrics


def test_tasks(capsys):
    space: dict = {}
    for code in snippets("docs/tasks.md"):
        exec(compile(code, "docs/tasks.md", "exec"), space)
    assert space["baseline"].scores["score"] == pytest.approx([1 / 3] * 47)
    assert "exact" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", *sorted(
    f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")
)])  # fmt: skip
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([\w./#-]+)\)", text)]
    missing = [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing

"""What CONTRIBUTING says of the house is so: every room stands in its table, once, and as high as in the contract."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = {
    path.name for path in (ROOT / "src/kedge").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
} - {"__init__.py", "__main__.py"}


def table():
    """The rooms of each line of the table, from above."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (`[^|]*`) \| [^|]+ \|$", page.partition("| floor |")[2].partition("##")[0], re.MULTILINE)
    return [re.findall(r"`([\w.]+)/?`", line) for line in lines]


def contract():
    """The rooms of each layer of the contract, from above."""
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip().removeprefix("kedge.") for name in layer.split("|")] for layer in layers]


def test_every_room_is_in_the_table_and_in_the_contract():
    assert sorted(room for line in table() for room in line) == sorted(ROOMS)
    assert sorted(room for layer in contract() for room in layer) == sorted(room.removesuffix(".py") for room in ROOMS)


def test_the_table_goes_down_as_the_contract_does():
    height = {room: number for number, layer in enumerate(contract()) for room in layer}
    heights = [max(height[room.removesuffix(".py")] for room in line) for line in table()]
    lowest = [min(height[room.removesuffix(".py")] for room in line) for line in table()]
    assert all(above <= below for above, below in zip(heights, lowest[1:], strict=False))

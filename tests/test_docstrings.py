"""Every docstring with ``Args:`` gives each parameter a line of its own, and names no parameter that is not there."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/kedge"


def documented():
    """``(where, node, lines under Args:)`` of every function and class that has such a section."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                if "Args:\n" in text:
                    section = re.split(r"\n(?:Returns|Raises|Yields):", text.partition("Args:\n")[2])[0]
                    yield f"{path.relative_to(SOURCE)}:{node.name}", node, section.splitlines()


def parameters(node):
    """Of a function, or of a class's ``__init__``, or its fields."""
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None:
            return {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
        node = init
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    return {argument.arg for argument in arguments if argument is not None}


@pytest.mark.parametrize(("where", "node", "lines"), [pytest.param(*found, id=found[0]) for found in documented()])
def test_a_line_each(where, node, lines):
    names = parameters(node)
    begun = [line for line in lines if re.match(r"    \S", line)]
    assert begun
    for line in begun:
        name = re.match(r"    \*{0,2}(\w+): ", line)
        assert name, f"{line!r}: a parameter and a colon"
        assert name[1] in names, f"{line!r}: there is no such parameter"
    several = re.compile(rf"[.;] (?:{'|'.join(map(re.escape, sorted(names)))}): ")
    assert not [line for line in lines if several.search(line)]

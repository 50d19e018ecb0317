"""The packages' front doors: what they offer is there, and opening them imports nothing heavy."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGES = sorted(
    ".".join(path.parent.relative_to(SOURCE).parts)
    for path in SOURCE.glob("kedge/**/__init__.py")
    if "__all__" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_offered_is_there(name):
    if name == "kedge.control":
        pytest.importorskip("gymnasium")
    package = import_module(name)
    assert package.__doc__
    assert len(set(package.__all__)) == len(package.__all__)
    for each in package.__all__:
        assert not hasattr(sys.modules.get(f"{name}.{each}"), "__path__"), f"{each} is a module's name too"
        found = getattr(package, each)
        assert type(found).__name__ != "module", each
        assert each in dir(package) or each == "__version__"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_opening_them_imports_nothing_heavy():
    heavy = {"torch", "transformers", "datasets", "pydantic"}
    light = [name for name in PACKAGES if not name.startswith(("kedge.core", "kedge.control", "kedge.training.ppo"))]
    light = [name for name in light if not name.startswith(("kedge.inspection.doctor", "kedge.tasks.support_desk"))]
    assert len(light) > 10
    code = f"import sys\nfor name in {light!r}: __import__(name)\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_completion_is_light():
    code = "import sys; from kedge.sampling import Completion; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Settings that cannot be wrong silently."""

import tomllib
from typing import ClassVar, Literal

import pytest

from kedge.config.settings import Config, Several, nearest, override, read_recipe, write_recipe
from kedge.errors import ConfigError


class Inner(Config):
    width: int = 4


class Example(Config):
    USED_WHEN: ClassVar = {"target": ("kl", ("adaptive",)), "clip": ("kl", ("adaptive", None))}
    REFUSED: ClassVar = {"batch_size": "kedge has no batch_size; set episodes"}

    learning_rate: float = 1e-5
    steps: int
    kl: Literal["fixed", "adaptive"] | None = "fixed"
    target: float = 6.0
    clip: float | None = None
    names: Several[str] = ()
    sizes: tuple[int, ...] = ()
    on: bool | int = 0
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1}, "learning_rat: unknown key; did you mean 'learning_rate'?"),
        (
            {"zzz": 1},
            "zzz: unknown key; there are: clip, inner, kl, learning_rate, names, on, sizes, steps, target",
        ),
        ({"inner": {"widht": 1}}, "widht: unknown key; did you mean 'width'?"),
        ({"batch_size": 1}, "batch_size: kedge has no batch_size; set episodes"),
        ({"target": 3.0}, "target: not used with kl='fixed'; set kl='adaptive', or take target out"),
        ({"clip": 0.2}, "clip: not used with kl='fixed'; set kl='adaptive' or kl=none, or take clip out"),
        ({"target": 3.0, "kl": "none"}, "target: not used with kl=none; set kl='adaptive'"),
        ({"learning_rate": "fast"}, "learning_rate: .*number.*, got 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate: .*finite number"),
        ({"kl": "adaptiv"}, "kl: .*'fixed' or 'adaptive'.*got 'adaptiv'"),
        ({"steps": 1.5}, "steps: .*integer"),
        ({"steps": True}, "steps: a number, and not true or false, got True"),
        ({"learning_rate": False}, "learning_rate: a number, and not true or false"),
        ({"clip": True, "kl": "none"}, "clip: a number, and not true or false"),
        ({"inner": {"width": True}}, r"inner\.width: a number, and not true or false"),
        ({"sizes": [2, True]}, "sizes: a number, and not true or false"),
        ({"inner": {"width": "x"}}, "width: .*integer.*got 'x'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Example(**({"steps": 1} | settings))


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigError) as error:
        Example(learning_rate="x", stepz=1)
    assert str(error.value).count("\n") == 2
    assert "steps: missing, and it has no default" in str(error.value)


def test_none_means_off_and_used_keys_are_kept():
    config = Example(steps=1, kl="none", clip="none")
    assert config.kl is None
    assert config.clip is None
    assert Example(steps=1, kl="adaptive", target=3).target == 3.0


def test_numbers_and_switches_that_are_fine():
    config = Example(steps=1.0, learning_rate=1, on=True, sizes=(1, 2))
    assert (config.steps, config.learning_rate, config.on) == (1, 1.0, True)


@pytest.mark.parametrize(("given", "names"), [("<s>", ("<s>",)), (["a", "b"], ("a", "b")), ("none", ()), ([], ())])
def test_one_where_several_may_stand(given, names):
    assert Example(steps=1, names=given).names == names


def test_settings_from_python():
    assert Example.of({"steps": 2}) == Example(steps=2) == Example.of(Example(steps=2))
    assert Inner.of(None) == Inner()
    with pytest.raises(ConfigError, match="stepz: unknown key; did you mean 'steps'"):
        Example.of({"stepz": 2})
    with pytest.raises(ConfigError, match="config: Inner or a dict of its settings, not Example"):
        Inner.of(Example(steps=1))


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Example(steps=1).steps = 2


def test_resolved_repeats_the_run(tmp_path):
    for config in (
        Example(steps=1),
        Example(steps=2, kl="none", names=("a", 'b"\n'), inner={"width": 9}),
        Example(steps=3, kl="adaptive", target=2.5, clip=0.1),
    ):
        write_recipe(tmp_path / "r.toml", {"example": config.resolved()})
        assert Example(**read_recipe(tmp_path / "r.toml")["example"]) == config
    assert "target" not in Example(steps=1).resolved()  # kl is fixed: not in force
    assert Example(steps=1, kl="none").resolved()["kl"] == "none"


@pytest.mark.parametrize(
    ("word", "expected"), [("kl_coeff", "did you mean 'kl_coef'?"), ("qqq", "there are: gamma, kl_coef")]
)
def test_nearest(word, expected):
    assert nearest(word, ["kl_coef", "gamma"]) == expected


def test_recipe_files(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('run = "x"\n[ppo]\nsteps = 3\nname = "ü"\n', encoding="utf-8")
    assert read_recipe(path) == {"run": "x", "ppo": {"steps": 3, "name": "ü"}}
    path.write_bytes(b"\xef\xbb\xbfsteps = 3\n")  # as Windows' Notepad writes it
    assert read_recipe(path) == {"steps": 3}
    path.write_text("[ppo]\nsteps = \n")
    with pytest.raises(ConfigError, match=r"r\.toml: not valid TOML: .*line 2"):
        read_recipe(path)
    path.write_bytes(b'a = "\xff"')
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_recipe(path)
    with pytest.raises(ConfigError, match="no such recipe file"):
        read_recipe(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=3", 3),
        ("a=1e-5", 1e-5),
        ("a=true", True),
        ('a=["x", "y"]', ["x", "y"]),
        ("a=plain text", "plain text"),
        ('a="3"', "3"),
        ("a = org/name", "org/name"),
        ("a=x=y", "x=y"),
        ("a=none", "none"),
        ("a=", ""),
        ("a=2026-11-21", "2026-11-21"),
        ("a=2026-11-21T10:30:00", "2026-11-21T10:30:00"),
        ("a=10:30:00", "10:30:00"),
    ],
)
def test_override_values(text, value):
    got = override({}, [text])["a"]
    assert got == value
    assert type(got) is type(value)


def test_override_paths():
    recipe = {"ppo": {"steps": 1, "deep": {"x": 1}}, "run": "a"}
    assert override(recipe, ["ppo.steps=2", "ppo.deep.y=3", "new.key=4", "run=b", "run=c"]) == {
        "ppo": {"steps": 2, "deep": {"x": 1, "y": 3}},
        "new": {"key": 4},
        "run": "c",
    }
    assert recipe == {"ppo": {"steps": 1, "deep": {"x": 1}}, "run": "a"}
    for wrong in ("ppo.steps", "=3", "", "  =3"):
        with pytest.raises(ConfigError, match=r"an override reads key\.path=value"):
            override(recipe, [wrong])
    with pytest.raises(ConfigError, match=r"'run\.x=1': 'run' is no table in the recipe, but 'a'"):
        override(recipe, ["run.x=1"])


def test_written_recipes_are_toml(tmp_path):
    write_recipe(tmp_path / "r.toml", {"a": {"b": "ü\n", "c": [1, 2]}})
    assert tomllib.loads((tmp_path / "r.toml").read_text(encoding="utf-8")) == {"a": {"b": "ü\n", "c": [1, 2]}}

"""Link prediction: what is asked for and what is known, filtered ranks by hand, and the baselines."""

import pytest

from kedge.errors import DataError
from kedge.tasks.links import FOLDS, SHOWN, Links, ranks_in, reciprocal_rank
from kedge.tasks.transe import TransE

PARENTS = "anna\tparent of\tben\nanna\tparent of\tcarl_2\nben\tparent of\tdora\n"


@pytest.fixture
def family(tmp_path):
    (tmp_path / "train.txt").write_text(PARENTS)
    (tmp_path / "valid.txt").write_text("anna\tparent of\temil\n")
    (tmp_path / "test.txt").write_text("anna\tparent of\tfred\nanna\tparent of\tgina\nzoe\tparent of\tanna\n")
    return Links(tmp_path)


def test_held_out_rows_name_what_is_known_and_ask_for_the_rest(family):
    rows = {(row["entity"], row["back"]): row for row in family.rows("eval")}
    assert rows.keys() == {("Anna", False), ("Anna", True), ("Fred", True), ("Gina", True), ("Zoe", False)}
    row = rows["Anna", False]
    assert row["targets"] == ["Fred", "Gina"]
    assert row["known"] == ["Ben", "CarlTwo"]
    assert row["true"] == ["Ben", "CarlTwo", "Emil", "Fred", "Gina"]  # whatever the graph has, held out or not
    assert family.prompt(row) in ("Anna ParentOf: Ben CarlTwo =>", "Anna ParentOf: CarlTwo Ben =>")
    assert family.prompt(rows["Fred", True]) == "Fred ParentOfBackwards:  =>"
    # Ben and Carl are known; and nobody else who has children has anything in common with Anna.
    assert family.others(row) == {"majority": " Dora", "neighbours": " Dora"}
    assert not any(map(family.is_demonstrated, rows.values()))


def test_rows_that_are_trained_on_ask_for_each_known_one_once_and_never_for_what_is_held_out(family):
    rows = list(family.rows("train"))
    asked = sorted((row["entity"], row["back"], name) for row in rows for name in row["targets"])
    assert asked == [
        ("Anna", False, "Ben"), ("Anna", False, "CarlTwo"), ("Ben", False, "Dora"), ("Ben", True, "Anna"),
        ("CarlTwo", True, "Anna"), ("Dora", True, "Ben"),
    ]  # fmt: skip
    for row in rows:
        assert sorted([*row["known"], *row["targets"]]) == row["true"]
    assert not {"Emil", "Fred", "Gina"} & {name for row in rows for name in row["true"]}


def test_a_demonstration_is_what_is_asked_for_and_then_what_is_frequent(family):
    row = {"entity": "Ben", "relation": "ParentOf", "back": False, "known": [], "targets": ["Dora"], "true": ["Dora"]}
    assert family.demonstration(row) == " Dora Ben CarlTwo"


@pytest.mark.parametrize(
    ("answer", "ranks"),
    [
        (" A B", [1, 1]),  # each is ranked without the other
        (" B A", [1, 1]),
        (" x A y B", [2, 3]),
        (" K x A", [2, None]),  # what is known takes no place
        (" x x x A", [2, None]),  # nor what is said again
        ("", [None, None]),
        (" nothing of that", [None, None]),
        (" AB", [None, None]),
        (" " + " ".join(f"x{i}" for i in range(9)) + " A B", [10, 10]),
        (" " + " ".join(f"x{i}" for i in range(10)) + " A B", [None, None]),  # behind the tenth
        (" a b", [None, None]),
        (" A, B.", [None, None]),
    ],
)
def test_filtered_ranks(answer, ranks):
    assert ranks_in(answer, ["A", "B"], ["A", "B", "K"]) == ranks


def test_the_reward_is_the_mean_reciprocal_rank():
    targets, true = [["A", "B"], ["A"]], [["A", "B", "K"], ["A"]]
    assert reciprocal_rank(["", ""], [" x A y z B", " x y z A"], targets, true) == [(1 / 2 + 1 / 4) / 2, 1 / 4]


def test_measures_are_means_over_what_is_asked_for(family):
    found = family.measures([{}, {}], [[1, None], [4]])
    assert found == pytest.approx({"mrr": 1.25 / 3, "hits_at_1": 1 / 3, "hits_at_3": 1 / 3, "hits_at_10": 2 / 3})


def test_other_names_are_other_words(tmp_path):
    for part, relation in (("train", "r"), ("valid", "r"), ("test", "s")):
        (tmp_path / f"{part}.txt").write_text(f"a b\t{relation}\ta_b\n")
    assert {row["entity"] for row in Links(tmp_path).rows("eval")} == {"AB", "ABTwo"}


def test_what_is_known_and_held_out_at_once_is_not_asked_for(family):
    with (family.folder / "test.txt").open("a") as file:
        file.write("ben\tparent of\tdora\n\n")
    assert "Ben" not in {row["entity"] for row in family.rows("eval")}


def test_where_more_is_known_than_a_prompt_shows_no_prompt_is_in_both(tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"hub{i}\tlinks\tpage{j}\n" for i in range(9) for j in range(100)))
    (tmp_path / "valid.txt").write_text("")
    (tmp_path / "test.txt").write_text("".join(f"hub{i}\tlinks\tpage100\n" for i in range(9)))
    task = Links(tmp_path)
    held, trained = task.all_rows("eval"), task.all_rows("train")
    assert not {task.prompt(row) for row in held} & {task.prompt(row) for row in trained}
    assert len(task.prompt(held[0]).split()) == 2 + SHOWN + 1


def test_neighbours_are_those_that_have_most_in_common(family):
    train = (
        "anna\tlikes\ttea\nbea\tlikes\ttea\nbea\tlikes\tjam\nbea\tdrinks\ttea\ncarl\tlikes\tmilk\ncarl\tdrinks\tmilk\n"
    )
    (family.folder / "train.txt").write_text(train)
    row = {"entity": "Anna", "relation": "Drinks", "back": False, "known": []}
    assert family.others(row) == {"majority": " Milk Tea", "neighbours": " Tea Milk"}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("anna\tben\n", "train.txt: line 4: not head, tab, relation, tab, tail: 'anna\\\\tben'; mend the line"),
        ("anna\t\tben\n", "line 4: not head"),
        ("a\tb\tc\td\n", "line 4: not head"),
    ],
)
def test_lines_that_are_no_triples_are_refused(family, line, error):
    with (family.folder / "train.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=error):
        list(family.rows("train"))


def test_transe_goes_from_one_to_another_as_others_go():
    """Nobody says who the mother of boy 4 is, but that his father's wife is woman 4, and what mothers are elsewhere."""
    families = [(f"boy{i}", "father", f"man{i}", "wife", f"woman{i}", "mother") for i in range(10)]
    told = [(boy, father, man) for boy, father, man, *_ in families]
    told += [(man, wife, woman) for _, _, man, wife, woman, _ in families]
    told += [(boy, mother, woman) for boy, _, _, _, woman, mother in families if boy != "boy4"]
    model = TransE(told, epochs=120, who="the test")
    assert "woman4" in model.tails("boy4", "mother")[:2]  # behind himself: steps are small
    assert "boy4" in model.heads("mother", "woman4")[:2]
    assert len(set(model.tails("boy4", "mother"))) == 30
    assert model.tails("boy11", "mother") == []
    assert model.heads("uncle", "boy4") == []


def test_the_baseline_leaves_out_what_is_known(family):
    family.epochs = 1
    row = {"entity": "Anna", "relation": "ParentOf", "back": False, "known": ["Ben", "CarlTwo"]}
    assert family.baseline(row).split() == ["Dora"]  # nobody is a parent of herself
    assert sorted(family.baseline({**row, "entity": "Dora", "back": True, "known": []}).split()) == [
        "Anna", "Ben", "CarlTwo",
    ]  # fmt: skip
    with (family.folder / "train.txt").open("a") as file:
        file.write("ben\tparent of\tben\n")
    again = Links(family.folder)
    again.epochs = 1
    assert sorted(again.baseline(row).split()) == ["Anna", "Dora"]  # somebody is
    assert family.baseline({**row, "entity": "Zoe"}) == " "


@pytest.mark.shared
@pytest.mark.parametrize(
    ("graph", "triples", "majority", "neighbours"),
    [("nations", 201, 0.564, 0.576), ("umls", 661, 0.618, 0.751), ("kinships", 1074, 0.084, 0.659)],
)
def test_published_graphs(shared, graph, triples, majority, neighbours):
    task = Links(shared / "data/kg-small" / graph)
    held, trained = task.all_rows("eval"), task.all_rows("train")
    assert sum(len(row["targets"]) for row in held) == 2 * triples  # both directions
    assert not {task.prompt(row) for row in held} & {task.prompt(row) for row in trained}
    asked = {(row["entity"], row["relation"], row["back"]): set(row["targets"]) for row in held}
    for row in trained:
        assert not asked.get((row["entity"], row["relation"], row["back"]), set()) & set(row["true"])
    others = [task.others(row) for row in held]
    for name, mrr in (("majority", majority), ("neighbours", neighbours)):
        found = task.measures(held, [task.read(row, said[name]) for row, said in zip(held, others, strict=True)])
        assert found["mrr"] == pytest.approx(mrr, abs=0.001)
    assert 1 / FOLDS < len(trained) / sum(len(row["targets"]) for row in trained) < 1

"""Tables that people hold in Python are taken by their rows; what would be misread is refused by its name."""

import io

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import torch

from kedge.data.files import rows_of
from kedge.data.records import demonstrations, preferences, read_prompts
from kedge.errors import DataError

CHAT = [{"role": "user", "content": "hi"}]
ROWS = [{"prompt": "a", "n": 7}, {"prompt": "雪", "n": None}]
COLUMNS = {"prompt": ["a", "雪"], "n": [7, None]}


class Exported:
    """A table of a library that kedge has never heard of: all it has is the Arrow protocol (polars, DuckDB)."""

    columns = ("prompt", "n")

    def __arrow_c_stream__(self, requested_schema=None):
        return pyarrow.table(COLUMNS).__arrow_c_stream__(requested_schema)


class MapStyle(torch.utils.data.Dataset):
    """Knows its length and not its end."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, i):
        return ROWS[i % len(ROWS)]


TABLES = {
    "pandas": lambda: pandas.DataFrame(ROWS),
    "pandas, part of it": lambda: pandas.DataFrame([{"prompt": "no", "n": 1}, *ROWS])[1:],
    "pandas, as objects": lambda: pandas.DataFrame(ROWS, dtype=object),
    "columns": lambda: COLUMNS,
    "columns of numpy": lambda: {"prompt": np.array(["a", "雪"]), "n": pandas.Series([7, None], dtype=object)},
    "columns of Arrow": lambda: dict(zip(COLUMNS, pyarrow.table(COLUMNS).columns, strict=True)),
    "stream of batches": lambda: pyarrow.table(COLUMNS).to_reader(),
    "pyarrow": lambda: pyarrow.table(COLUMNS),
    "batch": lambda: pyarrow.RecordBatch.from_pylist(ROWS),
    "Arrow protocol": Exported,
    "datasets": lambda: datasets.Dataset.from_list(ROWS),
    **{
        f"datasets as {kind}": lambda kind=kind: datasets.Dataset.from_list(ROWS).with_format(kind)
        for kind in ("pandas", "arrow")
    },
    **{
        f"streamed as {kind}": lambda kind=kind: (
            datasets.Dataset.from_list(ROWS).to_iterable_dataset().with_format(kind)
        )
        for kind in ("pandas", "arrow")
    },
    "datasets, some columns": lambda: datasets.Dataset.from_list([row | {"secret": 1} for row in ROWS]).with_format(
        "pandas", columns=["prompt", "n"]
    ),
    "streamed": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "torch": MapStyle,
    "generator": lambda: (row for row in ROWS),
    "tuple": lambda: tuple(ROWS),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables(table):
    rows = rows_of(TABLES[table]())
    assert [row.columns for row in rows] == ROWS
    assert [row.origin for row in rows] == ["row 1", "row 2"]
    assert [type(row.columns["n"]) for row in rows] in ([int, type(None)], [float, type(None)])  # pandas' own floats
    assert [prompt.text for prompt in read_prompts(TABLES[table](), {"prompt": "prompt"})] == ["a", "雪"]


def test_chats_in_cells(tmp_path):
    frame = pandas.DataFrame([{"prompt": CHAT, "completion": "yes"}])
    frame.to_parquet(tmp_path / "chats.parquet")
    for table in (frame, pandas.read_parquet(tmp_path / "chats.parquet"), pyarrow.Table.from_pandas(frame)):
        [demonstration] = demonstrations(rows_of(table))
        assert demonstration.prompt == CHAT


def test_other_stages():
    [pair] = preferences(rows_of(pandas.DataFrame({"chosen": ["a b"], "rejected": ["a c"]})))
    assert (pair.chosen, pair.rejected) == ("a b", "a c")
    with pytest.raises(DataError, match="row 2: empty column 'prompt'"):
        read_prompts(pandas.DataFrame({"prompt": ["a", None]}))


@pytest.mark.parametrize(
    "texts",
    [
        pandas.Series(["a", "b"], index=[7, 9]),
        np.array(["a", "b"]),
        pyarrow.array(["a", "b"]),
        pyarrow.table({"prompt": ["a", "b"]})["prompt"],
        datasets.Dataset.from_dict({"prompt": ["a", "b"]})["prompt"],
        ("a", "b"),
        iter(["a", "b"]),
        {"a": 1, "b": 2}.keys(),
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_a_column_of_texts_is_prompts(texts):
    assert [prompt.text for prompt in read_prompts(texts)] == ["a", "b"]


SPLITS = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            datasets.DatasetDict(SPLITS),
            r"^DatasetDict: splits or tables by name \(train, test\); name one of them: data\['train'\]",
        ),
        (
            datasets.IterableDatasetDict({k: v.to_iterable_dataset() for k, v in SPLITS.items()}),
            r"^IterableDatasetDict: splits .*data\['train'\]",
        ),
        (
            {"train": ROWS, "test": ROWS},
            r"dict: splits or tables by name \(train, test\); name one of them: data\['train'\]",
        ),
        ({"dev": pandas.DataFrame(ROWS)}, r"dict: splits or tables by name \(dev\); name one of them: data\['dev'\]"),
        ({"prompt": "hi"}, r"'prompt' is str\. If it is one row, put it in a list: \[\{\.\.\.\}\]"),
        ({"messages": CHAT}, "'messages' is list.*If it is one row"),
        ({"prompt": ["a", "b"], "n": [1]}, "dict: columns of different lengths: prompt 2, n 1"),
        ({"prompt": {"a", "b"}}, "a table if each value is a column, which is a list; 'prompt' is set"),
        (io.StringIO("a"), "StringIO: an open file, and it may hold anything; give its path"),
        ({}, "no rows: an empty dict"),
        ([], "no rows: an empty list"),
        (pandas.DataFrame({"prompt": []}), "no rows: an empty DataFrame"),
        (pandas.DataFrame(["a", "b"]), r"its columns are not named by text \(0\); set df\.columns"),
        (pandas.DataFrame(), r"its columns are not named by text \(there are none\)"),
        (pandas.DataFrame([["a", "b"]], columns=["prompt", "prompt"]), "DataFrame: 2 columns are named 'prompt'"),
        (CHAT, "one conversation, and not rows"),
        ([*CHAT, {"role": "assistant", "content": "yes"}], "one conversation, and not rows"),
        ({"a", "b"}, r"set: has no order.*sorted"),
        (b"Once upon a time", "bytes: no rows"),
        ("Once upon a time", r"'Once upon a time': no such file, folder or hub id; texts go in a list"),
        (7, "int: no data"),
        (None, "NoneType: no data"),
        ([{0: "a"}], "row 1: column 0 is not named by text"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_table_is_refused_by_name(source, message):
    with pytest.raises(DataError, match=message):
        read_prompts(source)


def test_names_of_files_are_no_texts(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("prompt\nhi\n")
    for name in (tmp_path / "a.csv", str(tmp_path / "a.csv")):
        with pytest.raises(DataError, match=r"a\.csv: a list of files would be read as texts; give one file"):
            read_prompts([name])
    with pytest.raises(DataError, match="a list of files"):
        read_prompts(["no.csv", str(tmp_path / "a.csv")])
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match="a list of files"):
        read_prompts(["~/a.csv"])
    assert len(read_prompts(["She wrote it to story.json. " * 20 + "a.json", "a\nb.csv"])) == 2
    assert len(read_prompts(["there/is/no.csv"])) == 1


def test_a_row_may_have_columns_named_as_in_a_message():
    [prompt] = read_prompts([{"prompt": "a", "role": "x", "content": "y"}])
    assert prompt.columns == {"role": "x", "content": "y"}

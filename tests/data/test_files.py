"""Rows from every format, and errors that name the file, the row and the column."""

import csv
import gzip
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from kedge.data.files import Row, column, read_rows
from kedge.errors import DataError

ROWS = [{"prompt": "Grüße, “you”", "n": "007"}, {"prompt": 'a "b"\u2028c', "n": ""}]
TEXTS = {
    ".jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n",
    ".json": json.dumps(ROWS, indent=1),
    ".csv": 'prompt,n\n"Grüße, “you”",007\n"a ""b""\u2028c",\n',
    ".tsv": 'prompt\tn\nGrüße, “you”\t007\na "b"\u2028c\t\n',
}


@pytest.fixture
def write(tmp_path):
    """``write(name, content)``: a file of text or bytes, exactly as given."""

    def written(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def columns(source, **settings):
    return [row.columns for row in read_rows(source, **settings)]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", TEXTS)
def test_text_formats(write, suffix, newline, bom, zipped):
    content = ("\ufeff" * bom + TEXTS[suffix].replace("\n", newline)).encode()
    path = write(f"data{suffix}{'.gz' * zipped}", gzip.compress(content) if zipped else content)
    assert columns(path) == ROWS
    where = {".jsonl": ("line 1", "line 2"), ".json": ("row 1", "row 2")}.get(suffix, ("line 2", "line 3"))
    assert [row.origin for row in read_rows(path)] == [f"{path}: {at}" for at in where]


@pytest.mark.parametrize("zipped", [False, True])
def test_parquet(write, tmp_path, zipped):
    rows = [{"prompt": "a", "n": 1, "chat": [{"role": "user", "content": "x"}]}, {"prompt": "b", "n": None, "chat": []}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "raw")
    content = (tmp_path / "raw").read_bytes()
    assert columns(write("d.parquet.gz", gzip.compress(content)) if zipped else write("d.parquet", content)) == rows


def test_values_come_as_written(write):
    assert columns(write("a.jsonl", '{"a": 1, "b": [1.5, null], "c": {"d": true}}')) == [
        {"a": 1, "b": [1.5, None], "c": {"d": True}}
    ]
    assert columns(write("a.csv", 'a,b\n"two\nlines", x \n')) == [{"a": "two\nlines", "b": " x "}]
    assert columns(write("a.tsv", "a\tb\n\"open\tit's\n")) == [{"a": '"open', "b": "it's"}]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '\n{"a": 1}\n  \n{"b": 2}', [({"a": 1}, 2), ({"b": 2}, 4)]),
        ("a.csv", '\na,b\n\n"two\nlines",1\n\nx,2\n', [({"a": "two\nlines", "b": "1"}, 4), ({"a": "x", "b": "2"}, 7)]),
        ("a.tsv", 'a\n\n"x\ny\n', [({"a": '"x'}, 3), ({"a": "y"}, 4)]),
    ],
)
def test_a_row_is_where_an_editor_shows_it(write, name, content, expected):
    """Blank lines count, and a quoted cell of several lines stands where it begins."""
    path = write(name, content)
    assert [(row.columns, row.origin) for row in read_rows(path)] == [(c, f"{path}: line {n}") for c, n in expected]


@pytest.mark.parametrize("name", ["A.JSONL", "a.Csv", "b.JSONL.GZ"])
def test_suffixes_in_capitals(write, name):
    content = TEXTS[".csv" if "sv" in name.lower() else ".jsonl"].encode()
    assert columns(write(name, gzip.compress(content) if name.endswith("GZ") else content)) == ROWS
    with pytest.raises(DataError, match="no such file or folder"):
        read_rows(f"nowhere-{name}")


def test_rename(write):
    path = write("a.jsonl", '{"question": "q", "answer": "a", "prompt": "old"}')
    assert columns(path, rename={"prompt": "question", "other": "prompt"}) == [
        {"answer": "a", "prompt": "q", "other": "old"}
    ]
    with pytest.raises(DataError, match=r"line 1: columns: 'prompt' is .*own 'prompt' would be lost; name it too"):
        read_rows(path, rename={"prompt": "question"})
    assert columns(path, rename={"question": "answer", "answer": "question"}) == [
        {"prompt": "old", "question": "a", "answer": "q"}
    ]
    with pytest.raises(DataError, match=r"jsonl: line 1: no column 'q'; columns there are: question, answer, prompt"):
        read_rows(path, rename={"prompt": "q"})


def test_column():
    row = Row({"a": "x", "b": None, "c": ""}, "f.csv: row 3")
    assert column(row, "a") == "x"
    assert column(row, "c") == ""
    with pytest.raises(DataError, match=r"f\.csv: row 3: empty column 'b'"):
        column(row, "b")
    with pytest.raises(DataError, match=r"f\.csv: row 3: no column 'z'; columns there are: a, b, c"):
        column(row, "z")


def test_a_json_file_of_columns(tmp_path):
    (tmp_path / "a.json").write_text('{"prompt": ["a", "b"], "n": [1, null]}')
    assert [(row.columns, row.origin) for row in read_rows(tmp_path / "a.json")] == [
        ({"prompt": "a", "n": 1}, f"{tmp_path}/a.json: row 1"),
        ({"prompt": "b", "n": None}, f"{tmp_path}/a.json: row 2"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', "line 3: not JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: a row is an object with named columns, not list"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', r"not JSON: .*one object a line ends in \.jsonl"),
        (
            "a.json",
            '{"a": 1}',
            "holds a list of rows, or an object with lists of one length$",
        ),
        ("a.json", '{"a": [1, 2], "b": [1]}', "holds a list of rows, or an object with lists of one length$"),
        ("a.json", '{"version": "1", "data": [{"a": 1}]}', "; write what stands under 'data' as the file"),
        ("a.json", "7", "a .json file holds a list of rows, not int"),
        ("a.json", '[{"a": 1}, 3]', "row 2: a row is an object with named columns, not int"),
        ("a.json", "", "not JSON"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 cells under 2 column names"),
        ("a.csv", 'a,b\n"1"x,2\n', "line 2: "),
        ("a.csv", 'a,b\n1,"2\n', "line 2: unexpected end of data"),
        ("a.tsv", "a\tb\n1\n", "line 2: 1 cells under 2 column names"),
        ("a.jsonl", "", "no rows in it"),
        ("a.jsonl", "\n \n", "no rows in it"),
        ("a.json", "[]", "no rows in it"),
        ("a.csv", "a,b\n", "no rows in it"),
        ("a.csv", "", "no rows in it"),
        ("a.parquet", "nonsense, nonsense", "not a parquet file"),
        ("a.parquet", "", "not a parquet file"),
        ("a.csv", "a\nGr\xfc\xdfe\n".encode("latin-1"), "not UTF-8 at byte 4; convert it to UTF-8"),
        ("a.txt", "a", r"unknown format '\.txt'; kedge reads \.jsonl, .*\.gz"),
        ("a.gz", gzip.compress(b"a", mtime=0), "unknown format ''"),
        ("a.csv.gz", "a,b\n", "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(b"a\nb\n", mtime=0)[:-9], "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(b"a\nb\n", mtime=0)[:-8] + bytes(8), "not a whole gzip file"),
    ],
)
def test_errors_name_file_and_row(write, name, content, message):
    path = write(name, content)
    with pytest.raises(DataError, match=message) as error:
        read_rows(path)
    assert str(error.value).startswith(f"{path}: ")


def test_damaged_gzip_stream(write):
    with pytest.raises(DataError, match="gzip"):
        read_rows(write("a.jsonl.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20))


def test_damaged_parquet(write, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["hello"] * 200}), tmp_path / "raw")
    content = (tmp_path / "raw").read_bytes()
    with pytest.raises(DataError, match="parquet"):
        read_rows(write("a.parquet", content[:4] + bytes(36) + content[40:]))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_long_cells(write, name):
    before = csv.field_size_limit()
    assert columns(write(name, "prompt\n" + "x" * 140_000 + "\n")) == [{"prompt": "x" * 140_000}]
    assert csv.field_size_limit() == before


def test_a_column_twice(write, tmp_path):
    with pytest.raises(DataError, match=r"a\.csv: 2 columns are named 'prompt'"):
        read_rows(write("a.csv", "prompt,prompt\na,b\n"))
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"]], names=["prompt", "prompt"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: 2 columns are named 'prompt'"):
        read_rows(tmp_path / "a.parquet")


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nothing", "~/nothing", "a/b/c", "data.jsonl", "x/y.csv.gz"])
def test_missing_paths(source):
    with pytest.raises(DataError, match="no such file or folder") as error:
        read_rows(source)
    assert source in str(error.value)


def test_hub_id_without_a_network():
    with pytest.raises(DataError, match=r"nobody/nothing: .*without a network, give a path"):
        read_rows("nobody/nothing")


class TestFolders:
    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path_factory, monkeypatch):
        """Keep what ``datasets`` caches out of the home folder."""
        cache = tmp_path_factory.mktemp("cache")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        datasets.disable_progress_bars()

    def test_csv_files_by_split(self, tmp_path):
        (tmp_path / "train.csv").write_text("prompt,n\na,1\nb,2\n")
        (tmp_path / "test.csv").write_text("prompt,n\nc,3\n")
        assert [row.columns["prompt"] for row in read_rows(tmp_path)] == ["a", "b"]
        [row] = read_rows(f"{tmp_path}:test", rename={"text": "prompt"})
        assert (row.columns["text"], row.origin) == ("c", f"{tmp_path}:test: row 1")
        with pytest.raises(DataError, match="could not load split 'dev'"):
            read_rows(f"{tmp_path}:dev")

    def test_saved_to_disk(self, tmp_path):
        rows = [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "one")
        assert columns(tmp_path / "one") == rows
        splits = {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[1:])}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "two")
        assert columns(tmp_path / "two") == rows
        assert columns(f"{tmp_path / 'two'}:test") == rows[1:]
        with pytest.raises(DataError, match="two:dev: datasets could not load split 'dev'"):
            read_rows(f"{tmp_path / 'two'}:dev")

    def test_split_of_a_dataset_without_splits(self, tmp_path):
        datasets.Dataset.from_list([{"prompt": "a"}]).save_to_disk(tmp_path / "one")
        with pytest.raises(DataError, match="one:test: a dataset saved without splits; leave out ':test'"):
            read_rows(f"{tmp_path / 'one'}:test")

    def test_a_saved_split_knows_its_name(self, tmp_path):
        datasets.Dataset.from_list([{"prompt": "a"}], split="test").save_to_disk(tmp_path / "one")
        assert columns(f"{tmp_path / 'one'}:test") == columns(tmp_path / "one") == [{"prompt": "a"}]

    def test_empty_folder(self, tmp_path):
        with pytest.raises(DataError, match="could not load split 'train'"):
            read_rows(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sst2/dev.tsv", None),
        ("banking77/test.csv", 3080),
        ("gsm8k/test.jsonl", 1319),
        ("hh-rlhf-harmless/pairs.jsonl.gz", 2312),
        ("instruction-preference/preferences.json", 1100),
        ("hatecheck/test_suite_cases.csv", 3728),
        ("humaneval/HumanEval.jsonl.gz", 164),
    ],
)
def test_real_files(shared, name, count):
    path = shared / "data" / name
    if name.endswith(".tsv"):  # without a header: its first row names the columns
        assert len(read_rows(path)) == len(path.read_text(encoding="utf-8").splitlines()) - 1
    else:
        assert len(read_rows(path)) == count


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.jsonl").write_text('{"prompt": "x"}\n')
    [row] = read_rows("~/folder/a.jsonl")
    assert row.columns == {"prompt": "x"}
    assert row.origin.endswith("/folder/a.jsonl: line 1")
    assert read_rows(Path("~/folder"))[0].columns == {"prompt": "x"}

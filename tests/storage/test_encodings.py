"""Text files as people have them: another encoding is read when named, and refused at once when not."""

import io
import sys

import pyarrow
import pytest
from pyarrow import parquet

from yizhi.cli import main
from yizhi.errors import InputError
from yizhi.storage import records
from yizhi.storage.records import READ_AS, STDIN, Source
from yizhi.storage.texts import read_texts

LINES = ("北京是中国的首都。", "plain", "这个酒店的服务很好。")


def read(path, column="text", **settings):
    with Source.of(str(path), None, column, None, **settings).open() as rows:
        return list(rows)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_utf8_with_any_common_line_end(tmp_path, end, bom):
    path = tmp_path / "a.txt"
    path.write_bytes((bom + end.join(LINES)).encode())
    assert [row.text for row in read(path)] == list(LINES)


def test_json_lines_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"text": "一"}\n{"text": "二"}\n'.encode())
    assert [row.text for row in read(path)] == ["一", "二"]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "found UTF-16: `iconv -f UTF-16 -t UTF-8`"),
        ("utf-16-le", "found UTF-16: `iconv"),
        ("gb18030", r"found what looks like GB18030 \(GBK\): `iconv -f GB18030"),
        ("gbk", r"found what looks like GB18030"),
    ],
)
def test_another_encoding_is_refused_at_once(tmp_path, name, encoding, said):
    path = tmp_path / name
    rows = {"a.txt": LINES, "a.csv": ("text", *LINES), "a.jsonl": [f'{{"text": "{line}"}}' for line in LINES]}[name]
    path.write_bytes("\n".join(rows).encode(encoding))
    with pytest.raises(InputError, match=said):
        read(path)


def test_lines_that_end_in_cr_alone_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("\r".join(LINES).encode())
    with pytest.raises(InputError, match="found CR alone"):
        read(tmp_path / "a.txt")


def test_a_few_bad_bytes_are_their_rows_faults(tmp_path):
    (tmp_path / "a.txt").write_bytes("\n".join(LINES).encode() + b"\n\xff\xfe\n" + "\n".join(LINES).encode())
    assert [bool(row.fault) for row in read(tmp_path / "a.txt")] == [False] * 3 + [True] + [False] * 3


def test_a_row_without_the_field_names_those_that_it_has(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"sentence": "一", "label": 1}\n', encoding="utf-8")
    (row,) = read(tmp_path / "a.jsonl")
    assert (
        row.fault == "text: expected a string; found nothing. The row has 'sentence', 'label': `column` names another"
    )


ENCODINGS = ["gb18030", "GBK", "utf-16", "utf-16-le", "big5", "UTF8", "utf-8-sig"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_a_named_encoding_is_read(tmp_path, name, encoding):
    lines = [line.replace("这个酒店的服务", "這個酒店的服務") if encoding == "big5" else line for line in LINES]
    lines = [line.replace("国", "國") if encoding == "big5" else line for line in lines] * 9000  # more than one block
    rows = [f'{{"text": "{line}"}}' for line in lines] if name == "a.jsonl" else lines
    (tmp_path / name).write_bytes("\n".join(rows if name in ("a.txt", "a.jsonl") else ["text", *rows]).encode(encoding))
    assert [row.text for row in read(tmp_path / name, encoding=encoding)] == lines


def test_standard_input_in_another_encoding(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(LINES).encode("gbk"))))
    assert [row.text for row in read(STDIN, encoding="gbk")] == list(LINES)


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "", "a\0b"])
def test_what_is_no_encoding_of_text(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"(?s)`encoding`.*expected a name such as gb18030 or utf-16; found"):
        read(tmp_path / "a.txt", encoding=encoding)


def test_bytes_that_are_not_in_the_named_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("北京".encode() + b"\xff\xff")
    with pytest.raises(InputError, match="is not gb18030: "):
        read(tmp_path / "a.txt", encoding="gb18030")


def test_parquet_has_no_encoding(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="a Parquet file has its own encoding"):
        read(tmp_path / "a.parquet", encoding="gbk")


def test_advice_names_the_option_where_there_is_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(LINES).encode("gbk"))
    with (
        pytest.raises(InputError, match=r"looks like GB18030 \(GBK\): `encoding` GB18030 reads it"),
        Source.of(str(path), None, "text", None).open(READ_AS),
    ):
        pass
    with pytest.raises(InputError, match="`iconv -f GB18030"):
        read_texts(path)


def test_a_quote_in_a_tsv_is_a_character(tmp_path):
    (tmp_path / "a.tsv").write_bytes('id\ttext\r\n1\t"北京"是\r\n2\t说："好\r\n\r\n3\tx\ty\r\n4\t好"\r\n'.encode())
    rows = [(row.number, row.text, row.fault) for row in read(tmp_path / "a.tsv")]
    assert rows == [
        (2, '"北京"是', ""),
        (3, '说："好', ""),
        (5, None, "expected 2 columns; found 3"),
        (6, '好"', ""),
    ]


def test_an_unknown_suffix_is_named(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(InputError, match=r"a name ending in \.txt, \.jsonl, \.csv, \.tsv, \.parquet; found 'a.docx'"):
        read(tmp_path / "a.docx")


@pytest.mark.parametrize("command", [["embed"], ["fill-mask"], ["classify"], ["tag"]], ids=lambda command: command[0])
@pytest.mark.parametrize("text", ["a.txt", STDIN])
def test_the_name_of_a_file_is_no_text(tmp_path, monkeypatch, capsys, open_variant, command, text):
    """`yizhi embed ARTIFACT sentences.txt` gave the vector of the file's name."""
    variant = {"classify": "bert-classifier", "tag": "bert-tagger"}.get(command[0], "bert")
    artifact = str(open_variant(variant, "onnx").artifact.folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("北[MASK]", encoding="utf-8")
    assert main([*command, artifact, text]) == 2
    said = capsys.readouterr()
    assert not said.out
    found = "is a file" if text == "a.txt" else "standard input"
    assert f"yizhi: {text}:\n  - {found}: give --output to answer what is in it" in said.err


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "utf-8"])
@pytest.mark.parametrize("given", ["a.txt", STDIN])
def test_cr_alone_is_refused_in_any_encoding(tmp_path, monkeypatch, encoding, given):
    data = "\r".join(LINES).encode(encoding)
    (tmp_path / "a.txt").write_bytes(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
    with pytest.raises(InputError, match="found CR alone"):
        read(STDIN if given == STDIN else tmp_path / "a.txt", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030"])
def test_standard_input_is_looked_at_too(monkeypatch, encoding):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO("\n".join(LINES).encode(encoding))))
    )
    with pytest.raises(InputError, match="expected UTF-8; found"):
        read(STDIN)


def test_a_long_line_of_a_tsv_is_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST_LINE", 100)
    (tmp_path / "a.tsv").write_text("text\n" + "天" * 90 + "\n地\n", encoding="utf-8")
    found = [(row.number, row.text, row.fault) for row in read(tmp_path / "a.tsv")]
    assert found == [(2, None, "the line is longer than 100 bytes"), (3, "地", "")]


@pytest.mark.parametrize("content", ['text\n"北京\n我\n', 'text\n"北京"是\n我\n'])
def test_quotes_of_a_csv_that_do_not_close(tmp_path, content):
    """The rest of the file was one row."""
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="is not CSV"):
        read(tmp_path / "a.csv")


def test_a_column_that_stands_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,text\n1,2\n")
    (tmp_path / "a.tsv").write_text("text\ttext\n1\t2\n")
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.csv", "a.tsv", "a.parquet"):
        with pytest.raises(InputError, match="expected column 'text' once; found it 2 times"):
            read(tmp_path / name)


def test_parquet_that_is_damaged_or_no_text(tmp_path):
    texts = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="a text is not UTF-8"):
        read(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["北京" * 999] * 99}), tmp_path / "b.parquet", compression="zstd")
    data = bytearray((tmp_path / "b.parquet").read_bytes())
    data[20:60] = bytes(40)
    (tmp_path / "b.parquet").write_bytes(data)
    with pytest.raises(InputError, match="is not Parquet, or is damaged: "):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize("before", range(4))
def test_a_character_on_the_edge_of_what_is_looked_at(tmp_path, before):
    """One line longer than the part by which an encoding is told, cut within a character."""
    path = tmp_path / "long.txt"
    text = "a" * before + "好" * 30_000
    path.write_text(text + "\n", encoding="utf-8")
    assert read_texts(path) == [text]
    path.write_bytes(text.encode("gb18030") + b"\n")
    with pytest.raises(InputError, match="GB18030"):
        read_texts(path)

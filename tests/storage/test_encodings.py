"""Text files as people have them: another encoding is refused at once, with what converts it."""

import pytest

from yizhi.errors import InputError
from yizhi.storage.records import Source

LINES = ("北京是中国的首都。", "plain", "这个酒店的服务很好。")


def read(path, column="text"):
    with Source.of(str(path), None, column, None).open() as rows:
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

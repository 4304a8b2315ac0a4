"""CSV text becomes rows line by line: malformed quoting costs its own line and no other, and every line is counted."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.errors import BadInputError
from fraud.ingest import csv_file
from fraud.ingest.csv_file import decoded, header, rows_of
from fraud.ingest.mapping.sections import Source

NAMES = ["id", "shop", "note"]


def read(text: str, **dialect: object) -> tuple[list[tuple[str | None, ...]], list[str]]:
    """The rows and the broken lines of a CSV of NAMES, without its header."""
    source = Source.model_validate({"format": "csv", **dialect})
    found = list(rows_of(io.StringIO(text), NAMES, tuple(NAMES), source))
    rows = [tuple(row.values()) for piece in found for row in piece.rows.to_pylist()]
    return rows, [line for piece in found for line in piece.broken]


def test_a_stray_pair_of_quotes_costs_its_two_lines_and_swallows_no_other() -> None:
    rows, broken = read('a,"Joe,x\nb,Bar",y\nc,m,z\n')
    assert rows == [("c", "m", "z")]
    assert broken == [
        'the quoting is not well-formed: a,"Joe,x',
        'the quoting is not well-formed: b,Bar",y',
    ]


@pytest.mark.parametrize("line", ['a,"Joe "x" y",n', 'a,Joe"s,n', 'a, "Joe",n', 'a,"Joe"s,n', '"a,b,c'])
def test_quotes_that_are_not_well_formed_make_the_line_unreadable(line: str) -> None:
    rows, broken = read(f"{line}\nb,m,n\n")
    assert (rows, len(broken)) == ([("b", "m", "n")], 1)


@pytest.mark.parametrize(
    ("line", "dialect", "value"),
    [
        ('a,"x, ""y""",n', {}, 'x, "y"'),
        ('a,"Joe \\"the\\" man",n', {"escape": "\\"}, 'Joe "the" man'),
        ('a,"A, \\"B\\", C",n', {"escape": "\\"}, 'A, "B", C'),
        ("a,x\\,y,n", {"escape": "\\"}, "x,y"),
        ("a,'x, y',n", {"quote": "'"}, "x, y"),
        ('a,5" screen,n', {"quote": None}, '5" screen'),
        ('a\tx "y\tn', {"quote": None, "delimiter": "\t"}, 'x "y'),
        ("a|x, y|n", {"delimiter": "|"}, "x, y"),
        ("a,NULL,n", {"nulls": ["NULL"]}, None),
        ('a,"NULL",n', {"nulls": ["NULL"]}, None),
        ("a,,n", {"nulls": ["NULL"]}, ""),
        ("a,,n", {}, None),
    ],
)
def test_dialects(line: str, dialect: dict[str, object], value: str | None) -> None:
    rows, broken = read(f"{line}\n", **dialect)
    assert (rows, broken) == ([("a", value, "n")], [])


def test_lines_may_end_in_any_way_and_empty_ones_are_no_rows() -> None:
    source = Source(format="csv")
    content = io.BytesIO(b"id,shop,note\r\na,m,n\r\n\r\nb,m,n\rc,m,n\n\nd,m,n")
    with decoded(Path("x.csv"), content, source) as text:
        assert header(Path("x.csv"), text, source) == NAMES
        rows = [row for piece in rows_of(text, NAMES, ("id",), source) for row in piece.rows["id"].to_pylist()]
    assert rows == ["a", "b", "c", "d"]


def test_a_line_with_the_wrong_number_of_values_is_broken() -> None:
    rows, broken = read('a,m\nb,m,n\nc,"m,o",n,\n')
    assert rows == [("b", "m", "n")]
    assert broken == ["2 values in a row of 3 columns: a,m", '4 values in a row of 3 columns: c,"m,o",n,']


def test_a_repeated_column_that_is_not_read_does_no_harm() -> None:
    [piece, *_] = rows_of(io.StringIO("a,1,2\n"), ["id", "x", "x"], ("id",), Source(format="csv"))
    assert piece.rows.to_pylist() == [{"id": "a"}]


def test_a_value_over_several_lines_is_a_matter_of_the_mapping() -> None:
    text = 'a,m,"first, line\nsecond ""line""\n"\nb,m,n\n'
    assert read(text, multiline=True) == ([("a", "m", 'first, line\nsecond "line"\n'), ("b", "m", "n")], [])
    rows, broken = read(text)
    assert (rows, len(broken)) == ([("b", "m", "n")], 3)


def test_swallowed_rows_are_recognised_by_their_delimiters_also_with_multiline() -> None:
    rows, broken = read('a,"Joe,x\nb,Bar",y\nc,m,z\n', multiline=True)
    assert rows == [("c", "m", "z")]
    assert [line.partition(": ")[2] for line in broken] == ['a,"Joe,x', 'b,Bar",y']


def test_a_quote_that_is_never_closed_costs_one_line_also_with_multiline() -> None:
    good = [(str(number), "m", "n") for number in range(csv_file.LINES_PER_RECORD + 5)]
    text = 'a,"Joe,x\n' + "".join(f"{','.join(row)}\n" for row in good)
    rows, broken = read(text, multiline=True)
    assert (rows, broken) == (good, ['the quoting is not well-formed: a,"Joe,x'])


@pytest.mark.parametrize("characters", [20, 27, 64])
def test_blocks_of_any_size_give_the_same_rows(monkeypatch: pytest.MonkeyPatch, characters: int) -> None:
    text = 'a,m,"x\ny"\nb,"Joe,z\nc,m,n\nd,m,"p\n\nq"\ne,m,n'
    whole = read(text, multiline=True)
    assert [row[0] for row in whole[0]] == ["a", "c", "d", "e"]
    source = Source(format="csv", multiline=True)

    monkeypatch.setattr(csv_file, "LINES_IN_FIRST_PIECE", 1)
    monkeypatch.setattr(csv_file, "CHARACTERS_PER_BLOCK", characters)
    found = list(rows_of(io.StringIO(text), NAMES, tuple(NAMES), source))
    assert [tuple(row.values()) for piece in found for row in piece.rows.to_pylist()] == whole[0]
    assert [line for piece in found for line in piece.broken] == whole[1]


def test_a_line_without_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "CHARACTERS_PER_BLOCK", 10)
    with pytest.raises(BadInputError, match="longer than 10 characters"):
        read("a" * 100)


values = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=6)
tables = st.lists(st.tuples(st.from_regex(r"[a-z0-9]{1,3}", fullmatch=True), values, values), min_size=1, max_size=8)


def written(table: list[tuple[str, str, str]], quoting: int) -> list[str]:
    """The lines that Python's own csv module writes."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=quoting).writerows(table)  # type: ignore[arg-type]
    return out.getvalue().split("\n")[:-1]


@settings(deadline=None)
@given(table=tables, quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_what_pythons_csv_module_writes_is_read_as_it_was(table: list[tuple[str, str, str]], quoting: int) -> None:
    rows, broken = read("\n".join(written(table, quoting)), nulls=[])
    assert (rows, broken) == (table, [])


@settings(deadline=None)
@given(table=tables, data=st.data())
def test_a_lost_quotation_mark_never_costs_or_changes_another_line(
    table: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    lines = written(table, csv.QUOTE_ALL)
    hit = data.draw(st.integers(0, len(lines) - 1))
    marks = [place for place, character in enumerate(lines[hit]) if character == '"']
    at = data.draw(st.sampled_from(marks))
    lines[hit] = lines[hit][:at] + lines[hit][at + 1 :]
    rows, broken = read("\n".join(lines), nulls=[])
    assert rows == [row for place, row in enumerate(table) if place != hit]
    assert broken == [f"the quoting is not well-formed: {lines[hit]}"]

from orchestrator.knowledge.chunking import LIMITS, Passage, chunk
from orchestrator.knowledge.parsing import Document, Kind

GUIDE = """# Boost control

The controller follows the map boost_target.

## Limits

Overboost above 2.1 bar cuts the fuel.

```sh
# not a heading
```

## Empty
### Sensors
The MAP sensor reads 0 to 3 bar.
"""


def source_lines(document: Document, passage: Passage) -> str:
    return "\n".join(document.text.split("\n")[passage.start_line - 1 : passage.end_line])


def test_prose_is_cut_at_headings_and_names_those_above() -> None:
    passages = chunk(Document(GUIDE, "prose"))
    assert [(p.start_line, p.end_line, p.text.split("\n")[0]) for p in passages] == [
        (3, 3, "# Boost control"),
        (7, 11, "# Boost control > Limits"),
        (15, 15, "# Boost control > Empty > Sensors"),
    ]
    assert "# not a heading" in passages[1].text


def test_code_is_cut_at_its_top_level() -> None:
    functions = [
        f"def f{n}():\n    first = {n}\n\n    return first  # {'x' * 500}\n" for n in range(4)
    ]
    document = Document("\n".join(functions), "code")
    passages = chunk(document)
    assert [p.text.split("\n")[0] for p in passages] == [f"def f{n}():" for n in range(4)]
    assert all(p.text == source_lines(document, p) for p in passages)


def test_small_neighbours_share_a_passage() -> None:
    document = Document("\n\n".join(f"X{n} = {n}" for n in range(10)), "code")
    assert [(p.start_line, p.end_line) for p in chunk(document)] == [(1, 19)]


def test_each_part_of_a_table_carries_its_header() -> None:
    rows = [f"{n},{n * 10}" for n in range(200)]
    passages = chunk(Document("rpm,boost_kpa\n" + "\n".join(rows), "table"))
    assert len(passages) > 1
    assert all(p.text.startswith("rpm,boost_kpa\n") for p in passages)
    assert passages[0].start_line == 2
    assert passages[-1].end_line == 201
    assert [row for p in passages for row in p.text.split("\n")[1:]] == rows


def test_a_line_longer_than_a_passage_is_cut_and_keeps_its_number() -> None:
    passages = chunk(Document("short\n" + "word " * 1000, "lines"))
    assert [p.end_line for p in passages[1:]] == [2] * (len(passages) - 1)
    assert all(len(p.text) <= LIMITS["lines"] + 1 for p in passages)
    assert "".join(p.text for p in passages).count("word") == 1000


def test_no_text_is_lost_and_none_is_too_long() -> None:
    paragraphs = "\n\n".join(f"Paragraph {n}. " + "Some words here. " * (n % 30) for n in range(60))
    kinds: list[Kind] = ["prose", "code", "lines"]
    for kind in kinds:
        passages = chunk(Document(paragraphs, kind))
        joined = "\n".join(p.text for p in passages)
        assert all(f"Paragraph {n}." in joined for n in range(60))
        assert all(len(p.text) <= LIMITS[kind] for p in passages)
        assert [p.start_line for p in passages] == sorted(p.start_line for p in passages)


def test_blank_documents_have_no_passages_and_bare_titles_one() -> None:
    assert chunk(Document(" \n\n\t\n", "prose")) == []
    assert chunk(Document("", "table")) == []
    assert chunk(Document("# Only a title\n", "prose")) == [Passage(1, 1, "# Only a title")]

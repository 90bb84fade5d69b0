"""Lists and watches that are read piece by piece: right for every way they are cut, and never held as a whole."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from ippo_operator.cluster.transport import BodyTooLongError, ListReader

TEXT = some.text(max_size=8) | some.sampled_from(['"items":[', "]}", "\\", '"', "é€😀", "],", "{"])
VALUE = some.recursive(
    TEXT | some.integers() | some.none(), lambda inner: some.dictionaries(TEXT, inner) | some.lists(inner)
)
ITEMS = some.lists(some.dictionaries(TEXT, VALUE, max_size=4), max_size=6)


def read(body: str, cuts: list[int], keep: Any = lambda item: item, most: int = 1 << 20) -> dict[str, Any]:
    data, at = body.encode(), 0
    reader = ListReader(keep, most, 1 << 30)
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        reader.feed(data[at:cut])
        at = cut
    return reader.close()


@given(ITEMS, some.lists(some.integers(0, 10**6), max_size=20), some.booleans(), some.sampled_from([None, 2]))
def test_a_list_is_what_json_says_however_it_is_cut(
    items: list[Any], cuts: list[int], first: bool, indent: Any
) -> None:
    around = {"kind": "PodList", "metadata": {"continue": "abc", "resourceVersion": "7"}}
    body = {"items": items} | around if first else around | {"items": items}
    for escaped in (True, False):
        assert read(json.dumps(body, indent=indent, ensure_ascii=escaped), cuts) == body


def test_no_items_and_null_are_lists_too() -> None:
    assert read('{"metadata":{},"items":null}', [3])["items"] == []
    assert read('{"metadata":{}}', [3])["items"] == []


def test_only_what_is_kept_stays() -> None:
    body = json.dumps({"items": [{"n": n} for n in range(9)]})
    assert read(body, [5, 30], lambda item: item["n"] if item["n"] % 2 else None)["items"] == [1, 3, 5, 7]


@pytest.mark.parametrize("end", [1, 2, 30, 400])
def test_a_list_that_was_cut_off_is_none(end: int) -> None:
    body = json.dumps({"metadata": {}, "items": [{"name": "x" * 50}] * 9})
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Extra"):
        read(body[:-end], [100])


def test_an_object_or_a_list_that_is_too_long_is_not_read_to_its_end() -> None:
    body = json.dumps({"items": [{"a": "x" * 5000}]})
    with pytest.raises(BodyTooLongError, match="an object has more than 4 KiB"):
        read(body, [2000, 4200], most=4096)
    reader = ListReader(lambda item: None, 1 << 20, 5 << 20)
    reader.feed(b'{"items":[')
    half = json.dumps({"a": "x" * (1 << 19)}).encode() + b","
    for _ in range(9):
        reader.feed(half)
    with pytest.raises(BodyTooLongError, match="more than 5 MiB"):
        reader.feed(half)


def test_memory_is_that_of_one_object_and_work_is_linear() -> None:
    item = json.dumps({"metadata": {"labels": {f"label-{n}": str(n) for n in range(20_000)}}}).encode()
    reader = ListReader(lambda found: len(found["metadata"]["labels"]), 4 << 20, 1 << 30)
    tracemalloc.start()
    try:
        reader.feed(b'{"items":[')
        for number in range(30):
            body = item if number == 0 else b"," + item
            for at in range(0, len(body), 1 << 16):
                reader.feed(body[at : at + (1 << 16)])
        reader.feed(b"]}")
        assert reader.close()["items"] == [20_000] * 30
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(item)

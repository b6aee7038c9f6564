"""The shard of a key: as others compute it, as it is documented, and stable as shards are added."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.records.shards import jump, number_of, shard_of

RECORDS = Path(__file__).parents[2] / "ops/records.md"

# Of Guava's HashingTest, whose authors took them from the C++ of the paper.
OF_100 = [0, 55, 62, 8, 45, 59, 86, 97, 82, 59, 73, 37, 17, 56, 86, 21, 90, 37, 38, 83]


def test_jump_gives_what_guava_gives() -> None:
    assert [jump(number, 100) for number in range(20)] == OF_100


@pytest.mark.parametrize(
    ("number", "shards", "shard"),
    [
        (10863919174838991, 11, 6),
        (2016238256797177309, 11, 3),
        (1673758223894951030, 11, 5),
        (2, 100001, 80343),
        (2201, 100001, 22152),
        (2202, 100001, 15018),
    ],
)
def test_jump_gives_what_guava_gives_for_large_numbers(number: int, shards: int, shard: int) -> None:
    assert jump(number, shards) == shard


def test_the_documented_vectors_are_what_the_code_makes() -> None:
    rows = re.findall(r"^\| `(.+?)` \| `([0-9a-f]{16})` \| (.+) \|$", RECORDS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 6
    for key, number, shards in rows:
        assert f"{number_of(key):016x}" == number
        assert [int(cell) for cell in shards.split(" | ")] == [shard_of(key, count) for count in (1, 2, 3, 4, 10, 64)]


@given(st.integers(0, 2**64 - 1), st.integers(1, 200))
def test_a_shard_more_moves_numbers_only_to_the_new_one(number: int, shards: int) -> None:
    before, after = jump(number, shards), jump(number, shards + 1)
    assert 0 <= before < shards
    assert after in (before, shards)


def test_keys_spread_over_all_shards() -> None:
    counts = [0] * 4
    for number in range(4000):
        counts[shard_of(f"doc-{number}", 4)] += 1
    assert min(counts) > 850

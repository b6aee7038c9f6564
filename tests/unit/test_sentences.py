"""The demo's data file: its promises to the demo, and that its vectors mean what its texts say."""

import tomllib
from collections import Counter
from importlib import resources

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.local import sentences as package
from worker.local.sentences import Sentence, Sentences, load

ANSWERS_AT_FIRST = {
    "query-cooking": "cooking-01",
    "query-databases": "databases-01",
    "query-medicine": "medicine-20",
    "query-taxes": "taxes-20",
    "query-trains": "trains-01",
    "query-birds": "birds-19",
}
"""The nearest sentence to each query before any update; its topic is the query's."""

ANSWERS_AFTER_UPDATES = ANSWERS_AT_FIRST | {"query-databases": "databases-08"}


@pytest.fixture(scope="module")
def data() -> Sentences:
    return load()


def matrix(rows: tuple[Sentence, ...]) -> NDArray[np.float32]:
    return np.array([row.vector for row in rows])


def nearest(query: Sentence, rows: tuple[Sentence, ...]) -> Sentence:
    """By cosine: the vectors have unit length."""
    return rows[int(np.argmax(matrix(rows) @ query.vector))]


def test_the_data_file_stays_below_one_megabyte() -> None:
    size = len(resources.files(package).joinpath(package.DATA_FILE).read_bytes())

    assert 0 < size < 1_000_000


def test_the_data_file_was_made_from_the_source_text(data: Sentences) -> None:
    source = tomllib.loads(resources.files(package).joinpath("sentences.toml").read_text(encoding="utf-8"))

    assert {row.key: row.text for row in data.sentences} == source["sentences"]
    assert {row.key: row.text for row in data.updates} == source["updates"]
    assert {row.topic: row.text for row in data.queries} == source["queries"]


def test_there_are_as_many_rows_as_the_demo_says(data: Sentences) -> None:
    assert (len(data.sentences), len(data.updates), len(data.queries)) == (520, 40, 6)
    assert set(Counter(row.topic for row in data.sentences).values()) == {20}


def test_keys_and_texts_are_unique_and_a_key_names_its_topic(data: Sentences) -> None:
    texts = [row.text for row in data.sentences + data.updates + data.queries]

    assert len({row.key for row in data.sentences}) == len(data.sentences)
    assert len({row.key for row in data.updates}) == len(data.updates)
    assert len({row.key for row in data.queries}) == len(data.queries)
    assert len(set(texts)) == len(texts)
    assert [row.key.rpartition("-")[0] for row in data.sentences] == [row.topic for row in data.sentences]


def test_every_update_has_a_sentence_to_replace(data: Sentences) -> None:
    topics = {row.key: row.topic for row in data.sentences}

    assert {row.key: row.topic for row in data.updates}.items() <= topics.items()


def test_every_vector_is_384_finite_float32_of_unit_length(data: Sentences) -> None:
    vectors = matrix(data.sentences + data.updates + data.queries)

    assert vectors.shape == (566, 384)
    assert {row.vector.dtype for row in data.sentences + data.updates + data.queries} == {np.dtype(np.float32)}
    assert np.isfinite(vectors).all() == np.True_
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)


def test_no_two_sentences_are_nearly_the_same(data: Sentences) -> None:
    similarities = matrix(data.sentences) @ matrix(data.sentences).T
    np.fill_diagonal(similarities, 0)

    assert similarities.max() < 0.8


def test_an_update_is_closer_to_the_sentence_it_replaces_than_to_nearly_all_others(data: Sentences) -> None:
    found = [nearest(update, data.sentences).key == update.key for update in data.updates]

    assert sum(found) >= 38


def test_each_query_finds_its_topic(data: Sentences) -> None:
    answers = {query.key: nearest(query, data.sentences) for query in data.queries}

    assert {key: answer.key for key, answer in answers.items()} == ANSWERS_AT_FIRST
    assert [answer.topic for answer in answers.values()] == [query.topic for query in data.queries]


def test_each_query_finds_its_topic_after_the_updates(data: Sentences) -> None:
    updated = tuple(({row.key: row for row in data.sentences} | {row.key: row for row in data.updates}).values())

    answers = {query.key: nearest(query, updated) for query in data.queries}

    assert {key: answer.key for key, answer in answers.items()} == ANSWERS_AFTER_UPDATES
    assert answers["query-trains"].text == "The express to the coast now leaves from platform nine."


def test_a_vector_cannot_be_changed_by_mistake(data: Sentences) -> None:
    with pytest.raises(ValueError, match="read-only"):
        data.sentences[0].vector[0] = 0.0


def test_a_data_file_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "DIMENSION", 385)

    with pytest.raises(ValueError, match=r"float32 vectors of shape \(566, 384\)"):
        load()

"""What the demo publishes: sentences on everyday topics, with their embeddings, shipped as one data file.

The vectors are real embeddings by all-MiniLM-L6-v2; make.py computed them and says how. LICENSE has the terms.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

DIMENSION = 384
"""Components of every vector: the size of the model's embedding."""

DATA_FILE = "sentences.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Sentence:
    """One text and its embedding; the vector is float32, of shape (384,), of unit length and read-only."""

    key: str
    topic: str
    text: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """Everything in the data file, each part in the order of the source text."""

    sentences: tuple[Sentence, ...]
    """What is published first; the keys are unique."""

    updates: tuple[Sentence, ...]
    """Newer versions of some of the sentences, under the same keys."""

    queries: tuple[Sentence, ...]
    """Questions to ask of what was published; the topic is the one that should answer."""


def load() -> Sentences:
    """Read the data file; every call reads it again.

    Raises FileNotFoundError if the installation lacks the file, and ValueError if it is not what make.py writes.
    """
    data = resources.files(__name__).joinpath(DATA_FILE).read_bytes()
    with np.load(BytesIO(data), allow_pickle=False) as arrays:
        kinds, keys, topics, texts = (arrays[name].tolist() for name in ("kinds", "keys", "topics", "texts"))
        vectors = arrays["vectors"]
    if vectors.dtype != np.float32 or vectors.shape != (len(keys), DIMENSION):
        raise ValueError(f"{DATA_FILE} has {vectors.dtype} vectors of shape {vectors.shape} for {len(keys)} keys")
    vectors.setflags(write=False)
    rows = [
        (kind, Sentence(key, topic, text, vector))
        for kind, key, topic, text, vector in zip(kinds, keys, topics, texts, vectors, strict=True)
    ]
    return Sentences(
        sentences=_of_kind("sentence", rows), updates=_of_kind("update", rows), queries=_of_kind("query", rows)
    )


def _of_kind(kind: str, rows: Iterable[tuple[str, Sentence]]) -> tuple[Sentence, ...]:
    return tuple(sentence for its_kind, sentence in rows if its_kind == kind)

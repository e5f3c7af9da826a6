"""Units of sources: every document once and in order, for each kind of source."""

import gzip

import pyarrow
import pytest

from ladder_jax.data import (
    readers,
)
from ladder_jax.data.mixture import SourceConfig
from tests.mixtures import lines, texts


@pytest.mark.parametrize("size", [1, 90, 1000, 10**6])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_units_give_every_line_once_and_in_order(tmp_path, size, ending):
    documents = texts(3, 50)
    raw = lines(documents)
    path = tmp_path / f"a.jsonl{ending}"
    if ending == ".zst":  # of two frames
        codec = pyarrow.Codec("zstd")
        parts = (codec.compress(part, asbytes=True) for part in (raw[:800], raw[800:]))
        path.write_bytes(b"".join(parts))
    else:
        path.write_bytes(gzip.compress(raw) if ending else raw)
    source = SourceConfig(path=str(path))
    units, found = readers.units(source, size), []

    def add(unit):
        following = yield from readers.documents(source, unit)
        if following is not None:
            units.append(following)

    for unit in units:  # grows
        found += add(unit)
    assert found == documents
    assert len(units) >= min(len(raw) // size, 50)


def test_text_files_are_gathered_into_units(tmp_path):
    for i in range(7):
        (tmp_path / f"{i}.txt").write_text(f"document {i}")
    source = SourceConfig(kind="text", path=str(tmp_path / "*.txt"))
    units = readers.units(source, 20)
    assert [len(unit["files"]) for unit in units] == [2, 2, 2, 1]
    found = [text for unit in units for text in readers.documents(source, unit)]
    assert found == [f"document {i}" for i in range(7)]


def test_tfds_by_examples(tmp_path):
    import tensorflow_datasets as tfds

    class Fables(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate({"text": text} for text in texts(4, 20))

    builder = Fables(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    source = SourceConfig(kind="tfds", path=str(builder.data_path))
    units = readers.units(source, 500)
    assert len(units) > 3
    found = [text for unit in units for text in readers.documents(source, unit)]
    assert sorted(found) == sorted(texts(4, 20))


def test_hugging_face_by_its_files(tmp_path):
    pytest.importorskip("datasets")
    for i in range(3):
        (tmp_path / f"{i}.jsonl").write_bytes(lines(texts(i, 5)))
    source = SourceConfig(kind="huggingface", path=str(tmp_path))
    units = readers.units(source, 1)
    assert len(units) == 3
    found = [list(readers.documents(source, unit)) for unit in units]
    assert found == [texts(i, 5) for i in range(3)]

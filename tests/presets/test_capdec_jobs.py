"""The trainings of notebooks 07 to 09 as jobs: what each learns from, and what it is asked about."""

import dataclasses

import pytest
import torch

from glasslib import results, sweep
from glasslib.captioning import training
from glasslib.presets import capdec
from glasslib.presets import capdec_jobs as jobs
from glasslib.tinyworld import captions
from glasslib.tinyworld.transfer import Away


@pytest.fixture
def brief(monkeypatch, tmp_path):
    """Trainings of a few steps, kept in tmp_path; the calls of `training.train`."""
    trained, train = [], training.train
    for module in (capdec, jobs):
        monkeypatch.setattr(module, "CACHE", tmp_path / "said")
    monkeypatch.setattr(jobs, "load", capdec.load)
    monkeypatch.setattr(jobs, "Away", lambda: Away(n_styled=28, n_neon=5))
    tiny = {"n_epochs": 1, "batch_size": 8, "warmup_steps": 1}
    for name in ("ALONE", "FINE_TUNE"):
        monkeypatch.setattr(jobs, name, dataclasses.replace(getattr(jobs, name), **tiny))
    monkeypatch.setattr(jobs.recipe, "SETTINGS", dataclasses.replace(jobs.recipe.SETTINGS, **tiny))
    monkeypatch.setattr(jobs, "folder", lambda *what, own=jobs.folder: tmp_path / own(*what).name)
    monkeypatch.setattr(
        training, "train", lambda decoder, data, **k: trained.append((data, k)) or train(decoder, data, **k)
    )
    return trained


def test_a_job_trains_once_and_captions_every_way(brief):
    given = {"n_scenes": 6, "n_test": 4, "held_out": 5, "n_epochs": 1, "noise_std": 0.1, "n_looks": 2}
    made = jobs.captions(**given, ways="image text stretched_reranked", decode="beam")
    assert {way: len(texts) for way, texts in made["captions"].items()} == dict.fromkeys(
        ("image", "text", "stretched_reranked"), 4
    )
    [look] = made["curve"]
    assert look["step"] == 4 and set(look) == {"step", "train_loss", "validation_loss"}
    [(data, options)] = brief
    assert options["noise"].keywords == {"noise_std": 0.1} and len(options["validation"]) == 10
    lines = options["folder"] / "log.jsonl"
    before = lines.stat().st_mtime_ns, lines.read_bytes()
    assert jobs.captions(**given, ways="image", decode="beam")["captions"]["image"] == made["captions"]["image"]
    assert lines.read_bytes() == before[1]  # found trained
    jobs.captions(**given | {"seed": 1, "learns_from": "pictures"})
    assert brief[-1][1]["folder"] != options["folder"] and len(brief) == 3
    assert not torch.equal(brief[-1][0].embeddings, data.embeddings) and brief[-1][0].texts == data.texts


def test_a_styled_captioner_goes_on_from_the_neutral_one_which_is_trained_once(brief):
    made = jobs.transfer(register="romantic", after="texts", noise_std=0.1, n_scenes=7)
    assert {domain: len(texts) for domain, texts in made.items()} == {"print": 4}
    assert [len(data) for data, _ in brief] == [35, 24]
    assert {captions.parse(text).register for text in brief[1][0].texts} == {"romantic"}
    both = jobs.transfer(tried_on="print neon", noise_std=0.1, n_scenes=7)
    assert {domain: len(texts) for domain, texts in both.items()} == {"print": 4, "neon": 5}
    assert brief[2][1]["folder"] == brief[0][1]["folder"]


def test_the_supervised_captioner_has_no_noise_and_neon_reads_its_own_texts(brief):
    jobs.transfer(learns_from="pictures", noise_std=0.1, n_scenes=7)
    jobs.transfer(domain="neon", noise_std=0.1, n_scenes=7)
    assert brief[0][1]["noise"] is None and brief[1][1]["noise"].keywords == {"noise_std": 0.1}
    assert {captions.parse(text).domain for text in brief[1][0].texts} == {"neon"}


def test_retrieval_answers_with_the_nearest_text(brief):
    made = jobs.transfer(learns_from="retrieval", register="humorous", noise_std=0.1, n_scenes=7)
    clip, away = capdec.load("tiny").embedder, Away(n_styled=28)
    texts = [caption.text for caption in away.style_split("humorous")[0]]
    nearest = (clip.embed_images(away.pictures("print")) @ clip.embed_texts(texts).T).argmax(dim=1)
    assert made == {"print": [texts[i] for i in nearest]} and not brief


def test_steps_read_the_texts_in_turn_and_texts_need_a_name(brief):
    clip = capdec.load("tiny").embedder
    texts = ["a star", "a red ring", "a heart"]
    data = training.Pairs(clip.embed_texts(texts), texts, key="three")
    jobs.reading(data, noise_std=0.1, settings=jobs.FINE_TUNE, seed=0, start=jobs.SHIPPED, n_steps=1)
    assert brief[0][0].texts == [*texts, *texts, *texts[:2]]
    with pytest.raises(ValueError, match="data must have a key"):
        jobs.reading(dataclasses.replace(data, key=None), noise_std=0.1, settings=jobs.FINE_TUNE, seed=0)


@pytest.mark.parametrize("name", ["07_capdec_train", "08_capdec_noise", "09_capdec_transfer"])
def test_the_committed_full_tables_are_of_today_s_code_and_weights(name):
    params = results.REPO / "results" / name / "full" / "params.json"
    assert sweep.stale(results.json.loads(params.read_text(encoding="utf-8"))["made"]) == []

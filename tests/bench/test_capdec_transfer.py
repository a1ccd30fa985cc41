"""CapDec in another domain and register: what is learned from and tried on, training in miniature, and the tables."""

import dataclasses

import pytest
import torch

from glasslib import metrics
from glasslib.bench import capdec_jobs as home
from glasslib.bench import capdec_transfer as transfer
from glasslib.bench import capdec_transfer_tables as tables
from glasslib.bench.capdec_transfer_tables import Trial
from glasslib.tinyworld import captions, faithfulness
from glasslib.tinyworld.recipes.said import said
from glasslib.tinyworld.wording import REGISTERS

CACHED = (transfer.styled_scenes, transfer.held_out, transfer.variance, home.spoken, home.pictures)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Everything tiny, nothing kept outside tmp_path."""
    for name, value in {"N_STYLED": 28, "N_HELD_OUT": 5}.items():
        monkeypatch.setattr(transfer, name, value)
    for name, value in {"N_SCENES": 7, "N_SELECT": 8}.items():
        monkeypatch.setattr(home, name, value)
    tiny = {"n_epochs": 1, "batch_size": 8, "warmup_steps": 1, "checkpoint_every": 1, "validate_every": 99}
    for module, name in ((transfer, "ALONE"), (transfer, "FINE_TUNE"), (home, "SETTINGS")):
        monkeypatch.setattr(module, name, dataclasses.replace(getattr(module, name), **tiny))
    for module in (transfer, home):
        monkeypatch.setattr(module, "folder", lambda: tmp_path / "kept")
        monkeypatch.setattr(module, "CACHE", tmp_path / "said")
    seen = home.HeldOut(*[None] * 2, [["a red star"] * 5] * 2, torch.eye(2, home.clip().dim), None)
    monkeypatch.setattr(home, "held_out", lambda zipf: seen)
    for cached in CACHED:
        cached.cache_clear()
    yield tmp_path
    for cached in CACHED:
        cached.cache_clear()


def test_registers_share_their_scenes_and_nothing_tried_was_learned_from(small):
    kept = {name: [{c.image_id for c in part} for part in transfer.style_split(name)] for name in REGISTERS}
    assert kept["neutral"] == kept["romantic"] == kept["humorous"]
    learned, tried = kept["neutral"]
    assert (len(learned), len(tried), learned & tried) == (24, 4, set())
    world = transfer.held_out("print")
    assert len(world) == 4
    for text, row in zip(transfer.style_split("romantic")[1], range(4), strict=True):
        facts = captions.parse(text.text)
        assert facts.register == "romantic" and faithfulness.matches(facts, world[row : row + 1])[0]


def test_references_are_true_of_the_held_out_scenes(small):
    for domain, register in (("print", "humorous"), ("neon", "neutral")):
        world = transfer.held_out(domain)
        for row, texts in enumerate(transfer.references(domain, register)):
            facts = [captions.parse(text) for text in texts]
            assert {(fact.domain, fact.register) for fact in facts} == {(domain, register)}
            assert all(faithfulness.matches(fact, world[row : row + 1])[0] for fact in facts)


def test_a_styled_captioner_goes_on_from_the_neutral_one_which_is_trained_once(small, monkeypatch):
    fitted = []
    fit = transfer.recipe.fit
    monkeypatch.setattr(transfer.recipe, "fit", lambda data, **k: fitted.append((len(data), k["start"] if "start" in k
                        else None, k.get("noise") is not None)) or fit(data, **k))  # fmt: skip
    rows = transfer.caption("romantic_after_texts", 0)
    assert [(row["domain"], row["picture"]) for row in rows] == [("print", i) for i in range(4)]
    kept = small / "kept"
    assert fitted == [(35, None, True), (24, kept / "print-0" / "captioner", True)]
    assert transfer.caption("romantic_after_texts", 0) == rows and len(fitted) == 2
    assert {row["domain"] for row in transfer.caption("print", 0)} == {"print", "neon"} and len(fitted) == 2


def test_the_other_domain_is_learned_as_the_first_and_from_its_own_texts(small, monkeypatch):
    fitted = []
    fit = transfer.recipe.fit
    monkeypatch.setattr(transfer.recipe, "fit", lambda data, **k: fitted.append((data, k)) or fit(data, **k))
    monkeypatch.setattr(home, "SETTINGS", dataclasses.replace(home.SETTINGS, batch_size=7))  # told from the others
    transfer.trained("neon", seed=1)
    [(data, options)] = fitted
    assert data.texts == said(7, clip=home.clip(), seed=home.SEED, domain="neon").texts
    assert {captions.parse(text).domain for text in data.texts} == {"neon"}
    assert options["settings"] == home.SETTINGS
    assert options["noise"].keywords == {"noise_std": transfer.variance() ** 0.5}


def test_retrieval_answers_with_the_nearest_text(small):
    rows = [row for row in transfer.caption("humorous_retrieval", 0) if row["domain"] == "print"]
    texts = [caption.text for caption in transfer.style_split("humorous")[0]]
    seen = home.clip().embed_images(transfer.pictures(transfer.held_out("print")))
    nearest = (seen @ home.clip().embed_texts(texts).T).argmax(dim=1)
    assert [row["caption"] for row in rows] == [texts[i] for i in nearest]


def test_other_settings_are_kept_apart(small, monkeypatch):
    monkeypatch.undo()  # the real `folder`
    monkeypatch.setattr(home, "folder", lambda: small)
    first = transfer.folder()
    assert first == transfer.folder()
    monkeypatch.setattr(transfer, "variance", lambda: 0.5)
    assert transfer.folder() != first


def test_retrieval_is_one_job_and_fine_tuning_comes_second():
    first, second = transfer.jobs(fine_tuned=False), transfer.jobs(fine_tuned=True)
    assert first[:2] == [{"name": "print", "seed": 0}, {"name": "neon", "seed": 0}]
    assert [job["seed"] for job in first if job["name"] == "retrieval_neon"] == [0]
    assert len(first) == 4 + 3 * 5 and len(second) == 3 * 4
    assert all(job["name"].split("_")[1] == "after" for job in second)


def spoken(arm, domain, register, *, wrong=0):
    """What one person says of each held-out picture; the first `wrong` captions are of the next picture instead."""
    texts = [row[1] for row in transfer.references(domain, register)]
    texts[:wrong] = texts[1 : wrong + 1]
    return [
        {"arm": arm, "seed": seed, "domain": domain, "picture": i, "caption": text}
        for seed in (0, 1)
        for i, text in enumerate(texts)
    ]


def test_the_tables_say_what_the_captions_were(small, monkeypatch):
    monkeypatch.setattr(tables, "N_JUDGE_TEXTS", 40)
    monkeypatch.setattr(metrics.captions.java, "find_java", lambda: None)  # METEOR has its own tests
    rows = []
    for name, arm in transfer.ARMS.items():
        for domain in arm.tried_on:
            mute = name == "romantic_alone"  # a captioner that never learned its register
            rows += spoken(name, domain, "neutral" if mute else arm.register, wrong=2 if name == "neon" else 0)
    found, written = transfer.scored(rows)
    assert found["style.classifier"]["value"] == 1 and found["style.classifier"]["n"] == 120
    assert found["style.romantic"]["value"] == found["style.humorous"]["value"] == 1
    assert found["style.romantic_alone"]["value"] == 0
    assert found["style.romantic"]["ci"][0] < 0.6  # four pictures prove little, though all are right
    assert found["style.romantic_precision_loss"]["value"] == 0
    assert found["style.neutral_precision"]["value"] == found["style.humorous_precision"]["value"] == 1
    assert (
        found["capdec.cross_domain_reverse_precision"]["value"] < 1 == found["capdec.cross_domain_precision"]["value"]
    )
    assert found["capdec.cross_domain"]["n"] == 5 and found["capdec.cross_domain_reverse"]["n"] == 4
    key = {"arm": "neon", "tried_on": "print", "references": "neutral", "metric": "CIDEr"}
    [row] = [row for row in written["scores"] if key.items() <= row.items()]
    assert row["value"] == found["capdec.cross_domain_reverse"]["value"] and len(row["seeds"].split()) == 2
    assert "METEOR" not in {row["metric"] for row in written["scores"]}
    shown = [row for row in written["captions"] if row["arm"] == "print"]
    assert len(shown) == 9 and all(row["true"] == row["named"] > 0 for row in shown)


def test_each_trial_is_of_an_arm_that_was_tried_there():
    for trial in transfer.trials():
        assert trial.domain in transfer.ARMS[trial.arm].tried_on
    assert Trial("print", "print", "romantic") in transfer.trials()  # what neutral captions score as styled ones
    assert len(set(transfer.trials())) == len(transfer.trials())

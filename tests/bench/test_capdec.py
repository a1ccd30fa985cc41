"""CapDec's bench: how captions become numbers, and the whole of it on a few scenes."""

import numpy as np
import pytest

from glasslib import metrics
from glasslib.bench import capdec, capdec_scores, capdec_words
from glasslib.bench import capdec_jobs as work
from glasslib.captioning import captioner as captioners
from glasslib.captioning import noise as noises
from glasslib.tinyworld import captions, models, scenes


def scores(**values):
    """Scores whose CIDEr is given a seed and scene: values["capdec_0.01_image"] = [[...], [...]]."""
    found = {}
    for key, seeds in values.items():
        arm, variance, source = key.split("_")
        metric = [metrics.mean_metric(np.array(seed, dtype=float), unit="CIDEr") for seed in seeds]
        found[arm, float(variance), source] = {"CIDEr": metric}
    return found


def test_levels_are_none_what_captions_suggest_and_around_it():
    assert capdec.levels({"linf": 0.07, "angle": 0.02}) == [0.0, 0.00667, 0.02, 0.07, 0.2]


def test_ten_times_is_the_next_level_or_exactly_that():
    assert capdec.ten_times(0.02, [0.0, 0.1, 0.2, 0.3]) == 0.2
    assert capdec.ten_times(0.00587, [0.0, 0.0176, 0.0682, 0.176]) == 0.0682
    assert capdec.ten_times(0.00587, [0.0, 0.0176, 0.176]) == capdec.ten_times(0.00587, []) == 0.0587


def test_the_best_level_is_that_of_the_arm_and_source_asked_for():
    found = scores(**{"capdec_0.1_image": [[1, 1]], "capdec_0.2_image": [[1, 3]], "capdec_0.1_text": [[9, 9]],
                      "clipcap_0.1_image": [[9, 9]], "capdec_0_image": [[2.5, 2.5]]})  # fmt: skip
    assert capdec_scores.best(found, arm="capdec", source="image") == ("capdec", 0.0, "image")
    assert capdec_scores.best(found, arm="capdec", source="image", noisy=True) == ("capdec", 0.2, "image")


def test_the_slope_is_in_units_of_the_standard_deviation_and_means_over_seeds():
    # std 0, 1, 2: scene 0 falls by 1 a unit in both seeds; scene 1 by 3 in one and 1 in the other
    found = scores(**{"capdec_0_text": [[5, 6], [5, 6]], "capdec_1_text": [[4, 3], [4, 5]],
                      "capdec_4_text": [[3, 0], [3, 4]]})  # fmt: skip
    entry = capdec_scores.slope(found, arm="capdec", source="text", rng=np.random.default_rng(0))
    assert entry["value"] == pytest.approx(-1.5) and entry["n"] == 2
    assert entry["unit"] == "CIDEr per noise_std"


def test_captions_come_in_the_order_of_the_scenes_and_curves_are_no_captions():
    common = {"arm": "capdec", "variance": 0.1, "seed": 2, "source": "image"}
    rows = [{**common, "scene": 1, "caption": "b"}, {**common, "scene": 0, "caption": "a"}]
    rows += [{"arm": "capdec", "variance": 0.1, "seed": 2, "source": "curve", "step": 1}]
    assert capdec_scores.captions_of(rows) == {("capdec", 0.1, "image"): {2: ["a", "b"]}}


def test_only_the_scenes_asked_for_are_scored():
    rng = np.random.default_rng(0)
    world = scenes.sample(6, rng=rng)
    references = captions.describe_by_all(world, rng=rng)
    own, wrong = [row[0] for row in references], "nonsense"
    systems = {("capdec", 0.0, "image"): {0: [wrong, wrong, *own[2:]]}}
    [found] = capdec_scores.score(systems, world=world, references=references, first=2, last=6).values()
    assert found["precision"][0].value == found["parses"][0].value == 1.0 and len(found["CIDEr"][0]) == 4
    [both] = capdec_scores.score(systems, world=world, references=references, first=0, last=6).values()
    assert both["parses"][0].value == pytest.approx(4 / 6)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The bench on a dozen scenes, run once, each training replaced by the shipped captioner: its results."""
    written, fitted, tmp_path = {}, [], tmp_path_factory.mktemp("toy")
    shipped = captioners.load(models.WEIGHTS / "captioner")

    def fit(data, *, folder, seed, settings, validation, progress, noise=None, start=None):
        fitted.append((folder.name, settings.n_epochs, noise, start and start.parent.name))
        log = [{"step": step, "train_loss": 2.0, "validation_loss": 1.0} for step in (1, 2)]
        return shipped, [*log, {"step": 3, "train_loss": 2.0}]

    cached = (work.clip, work.held_out, work.spoken, work.pictures)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(work.recipe, "fit", fit)
        for name, value in {"N_SCENES": 8, "N_SELECT": 8, "N_TEST": 12, "CACHE": tmp_path / "said"}.items():
            monkeypatch.setattr(work, name, value)
        monkeypatch.setattr(work, "folder", lambda: tmp_path / "trained")
        monkeypatch.setattr(capdec, "SEEDS", (0,))
        monkeypatch.setattr(capdec, "levels", lambda estimates: [0.0, *estimates.values()])
        monkeypatch.setattr(
            capdec, "write",
            lambda folder, params, found, tables: written.update(
                params=params, found=found, tables=tables, fitted=fitted
            ),
        )  # fmt: skip
        for function in cached:
            function.cache_clear()
        capdec.bench_capdec()
        monkeypatch.setattr(capdec_words, "SEEDS", (0,))
        monkeypatch.setattr(
            capdec_words, "write", lambda folder, params, found, tables: written.update(words=(found, tables["words"]))
        )
        capdec_words.bench_capdec_words()
    for function in cached:
        function.cache_clear()
    return written


def test_the_whole_bench_gives_every_number_and_table(toy):
    named = {"noise_gain", "noise_fall", "estimate", "reconstruction", "clipcap_noise", "vs_clipcap", "vs_retrieval",
             "precision", "best_arm", "best_arm_vs_retrieval", "noise_fall_longer", "longer_at_best", "longer_at_ten",
             "arm.stretched_reranked", "best_arm_precision", "best_arm_vs_clipcap"}  # fmt: skip
    assert {f"capdec.{name}" for name in named} <= toy["found"].keys()
    assert {entry["n"] for name, entry in toy["found"].items() if name != "time.captioner_min"} == {12}
    noise = toy["tables"]["noise"]
    assert {row["n_seeds"] for row in noise} == {1}
    assert {row["arm"] for row in noise} == {"capdec", "longer", "clipcap", "covariance", "retrieval"}
    assert {row["source"] for row in noise if row["arm"] == "capdec"} == set(work.SOURCES)
    assert {row["source"] for row in noise if row["arm"] == "clipcap"} == {"image", "reranked"}
    best = toy["params"]["best_variance"]
    assert {row["variance"] for row in noise if row["arm"] == "clipcap"} == {0.0, best, capdec.ten_times(best, [])}
    chosen = [toy["params"][name] for name in ("best_arm", "supervised")]
    kept = {
        "capdec",
        "clipcap",
        "retrieval",
        *(arm if source == "image" else f"{arm} {source}" for arm, _, source in chosen),
    }
    assert {row["arm"] for row in toy["tables"]["captions"]} == kept
    assert min(row["scene"] for row in toy["tables"]["captions"]) == 8  # those for choosing are not reported on
    steps = {row["step"] for row in toy["tables"]["validation"] if row["arm"] == "capdec"}
    assert steps == {1, 2}


def test_each_level_is_trained_from_the_same_start_with_its_own_noise(toy):
    fitted = {name: rest for name, *rest in toy["fitted"]}
    assert {start for _, _, start in fitted.values()} == {None}
    assert fitted["capdec-0-0"] == fitted["clipcap-0-0"] == [work.SETTINGS.n_epochs, None, None]
    best = toy["params"]["best_variance"]
    noise = fitted[f"capdec-{best:g}-0"][1]
    assert noise.func is noises.add_gaussian_noise and noise.keywords["noise_std"] == pytest.approx(best**0.5)
    ten = capdec.ten_times(best, [])
    assert fitted[f"longer-{ten:g}-0"][0] == fitted[f"longer-{best:g}-0"][0] == 2 * work.SETTINGS.n_epochs
    assert fitted[f"longer-{ten:g}-0"][1].keywords["noise_std"] == pytest.approx(ten**0.5)
    factor = fitted[f"covariance-{best:g}-0"][1].keywords["factor"]
    assert float((factor**2).sum()) == pytest.approx(
        work.clip().embed_texts(["a star"]).shape[1] * best, rel=1e-3
    )  # as long as the Gaussian


def test_each_exponent_has_trainings_of_its_own_and_the_world_s_own_is_not_trained_twice(toy):
    names = [name for name, *_ in toy["fitted"]]
    found, rows = toy["words"]
    assert found.keys() == {"capdec.vs_retrieval_zipf0", "capdec.vs_retrieval_zipf1", "capdec.vs_retrieval_zipf2"}
    assert [row["zipf"] for row in rows] == [0.0, 1.0, 2.0]
    for row in rows:
        assert row["capdec_cider"] - row["retrieval_cider"] == pytest.approx(row["difference"])
    assert sum(name.endswith("-zipf0") for name in names) == sum(name.endswith("-zipf2") for name in names) == 1
    assert not any(name.endswith("-zipf1") for name in names)  # those of the levels serve

"""Every number that the README quotes is the scoreboard's, and the scoreboard's are those of results/."""

import json
import re

import pytest

from glasslib import images, results
from glasslib.commands import scoreboard
from glasslib.weights import registry

RESULTS = results.REPO / "results"
FOLDERS = sorted(path.parent for path in RESULTS.rglob("metrics.json"))
ATTRIBUTES = ("colour", "shape", "place", "background")
CLAIMED = {
    *(f"{model}.{attribute}" for model in ("clip", "judge", "oracle") for attribute in ATTRIBUTES),
    *("clip.r1_i2t", "clip.r1_t2i", "clip.gap"),
    *(f"stylegan2.{what}" for what in ("recognisable", "coverage", "copies", "d_auc")),
    *("time.demo_s", "time.figures_min", "time.test_min", "time.overhead", "repeat.figures"),
    *("gpt2.parses", "gpt2.perplexity", "i2t.ga.precision", "i2t.ga.parses"),
    *(f"capdec.{what}" for what in ("noise_gain", "noise_fall", "estimate", "reconstruction", "clipcap_noise")),
    *(f"capdec.{what}" for what in ("vs_clipcap", "vs_retrieval", "precision", "best_arm")),
    *(f"capdec.best_arm_{what}" for what in ("vs_clipcap", "vs_retrieval", "precision")),
    *(f"capdec.{what}" for what in ("noise_fall_longer", "longer_at_best", "longer_at_ten")),
    *("capdec.cross_domain", "capdec.cross_domain_reverse", "style.neutral_precision", "style.classifier"),
    *(f"style.{register}{what}" for register in ("romantic", "humorous") for what in ("", "_precision")),
    *(f"capdec.vs_retrieval_zipf{zipf}" for zipf in (0, 1, 2)),
    *(f"round_trip.{writer}.place_3" for writer in ("capdec", "evolution")),
    *("round_trip.head_start_early", "round_trip.head_start_clip", "round_trip.head_start_judge"),
    "time.captioner_min",
    "fullsize.peak_gb",
    *(f"parity.{what}" for what in ("stylegan2_skip", "stylegan2_cond", "stylegan2_tf", "biggan")),
    *("parity.biggan128_package", "parity.biggan256_package", "files.refused", "stylegan2.render_rank"),
    *(f"bench.{what}" for what in ("biggan128", "biggan256", "clip_text", "clip_image", "stylegan2_1024")),
    *("bench.gpt2_i2t", "bench.stylegan2_1024_render256", "bench.host_ms_biggan", "bench.host_ms_stylegan2"),
    *("metrics.equal", "corpus.peak_mb", "train.resume", "bench.beam_equal"),
    *("bench.embed", "bench.train_step", "bench.decode12", "bench.decode67", "bench.capdec_peak_gb"),
    *("biggan.recognisable", "t2i.biggan.ours", "t2i.biggan.softmax_bits", "t2i.biggan.advantage"),
    *(f"t2i.{search}.{attribute}" for search in ("ga", "random", "cmaes") for attribute in ATTRIBUTES[:3]),
}


def test_scoreboard_is_what_the_results_say():
    assert len(FOLDERS) >= 4
    assert scoreboard.read_scoreboard() == scoreboard.assemble_scoreboard(), "run: make scoreboard"


def test_scoreboard_holds_every_number_the_project_claims():
    assert CLAIMED - scoreboard.read_scoreboard().keys() == set()


@pytest.mark.parametrize("page", scoreboard.pages(), ids=lambda page: page.name)
def test_a_page_quotes_the_scoreboard(page):
    text = page.read_text(encoding="utf-8")
    assert scoreboard.MARKER.search(text)
    assert scoreboard.fill_readme(text, scoreboard.read_scoreboard()) == text, "run: make scoreboard"


def test_readme_rests_on_numbers():
    assert len(scoreboard.MARKER.findall((results.REPO / "README.md").read_text(encoding="utf-8"))) >= 20


def test_trusted_files_are_named_as_such():
    page = (results.REPO / ".github" / "docs" / "real_models.md").read_text(encoding="utf-8")
    (trusted,) = re.findall(r"^\| (.*) \| nothing published", page, re.M)
    unverified = {
        file.path.split("/")[0] for name in registry.PRESETS for file in registry.files(name) if not file.sha256
    }
    assert unverified == {"clip-rn50x4", "biggan-deep-512", "stylegan2", "sd-turbo"}
    assert trusted == "CLIP RN50x4, BigGAN-deep 512, StyleGAN2 (ffhq, church, car), SD-Turbo"


def test_the_readmes_snippet_saves_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (results.REPO / "README.md").read_text(encoding="utf-8"), re.S)
    assert snippet.count("n_generations=100") == 1
    exec(snippet.replace("n_generations=100", "n_generations=1"), {})
    assert images.load_image(tmp_path / "red_star.png").shape == (3, 256, 256)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(RESULTS).as_posix())
def test_a_results_folder_holds_what_it_lists_and_nothing_else(folder):
    summary = json.loads((folder / "metrics.json").read_text())
    there = {path.name for path in folder.iterdir() if path.name != "full"}
    assert there - {"metrics.json", "params.json", "timings.json"} == set(summary["files"]), "delete what is stale"
    assert "params.json" in there
    for name, entry in summary["metrics"].items():
        assert results.metric(**entry) == entry, name
    assert summary["source"] == "make bench" or (results.REPO / summary["source"]).is_file()

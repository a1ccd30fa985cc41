"""One caption to one picture, or one picture to one caption: `make demo TARGET="..."` or `make demo IMAGE=path`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from glasslib import images, presets, results
from glasslib.search import interrupts, loop
from glasslib.tinyworld import models, oracle

DEFAULT_TARGET = "a large red star on a dark background"
SEED = 0


def caption_to_picture(caption: str, folder: Path, *, n_generations: int | None = None) -> Path:
    """Evolve a picture for a caption with CLIP-GLaSS's genetic algorithm and write it with its result card.

    Args:
        caption: in words of the tiny world.
        folder: where picture and card go.
        n_generations: None takes the preset's.

    Returns:
        The picture's path.
    """
    print(f"Caption -> picture: evolving StyleGAN2's latent vector until CLIP says {caption!r}.")
    preset = presets.load("tiny-stylegan2")
    started = time.perf_counter()
    result = _search(preset, caption, n_generations or preset.n_generations)
    picture = preset.make(result.best.x)  # (1, 3, h, w)
    judged = float((preset.judge.embed_images(picture) @ preset.judge.embed_texts([caption]).T).item())
    card = _card(preset, caption, result, judged, time.perf_counter() - started)
    seen = oracle.load(models.WEIGHTS / "oracle")(picture)
    accuracy = oracle.own_accuracy(models.WEIGHTS / "oracle")
    path = folder / f"{_slug(caption)}.png"
    metadata = {"caption": caption, "preset": preset.name, "seed": SEED, "score": result.best.score}
    results.write_bytes_atomic(path, images.encode_png(picture[0], metadata=metadata, scale=8))
    card.write(path.with_suffix(".json"))
    print(f"score by CLIP          {result.best.score:.3f}   (cosine, after {card.evaluations} pictures)")
    print(f"score by the judge     {judged:.3f}   (a second CLIP that the search never saw)")
    words = seen.names(0)
    print(f"the oracle sees        a {words['size']} {words['colour']} {words['shape']}, place: {words['place']}, ")
    print(f"                       on a {words['texture']} {words['background']} background")
    print("                       (right on held-out renders: " + _percent(accuracy) + ")")
    return path


def picture_to_caption(path: Path, folder: Path) -> str:
    """Evolve GPT-2's context tokens for a picture; print the captions found and write the result card.

    Returns:
        The best caption.
    """
    picture = images.load_image(path)
    print(f"Picture -> caption: evolving GPT-2's context tokens until CLIP says that its sentence fits {path.name}.")
    preset = presets.load("tiny-gpt2")
    started = time.perf_counter()
    result = _search(preset, picture, preset.n_generations)
    caption = preset.make(result.best.x)[0]
    judged = float(F.cosine_similarity(preset.judge.embed_images(picture[None]), preset.judge.embed_texts([caption])))
    card = _card(preset, f"{path.name} {results.sha256_file(path)}", result, judged, time.perf_counter() - started)
    card.write(folder / f"{path.stem}.json")
    print(f"score by CLIP          {result.best.score:.3f}   (cosine, after {card.evaluations} sentences)")
    print(f"score by the judge     {judged:.3f}   (a second CLIP that the search never saw)")
    return caption


def _search(preset, target, n_generations: int):
    """What the genetic algorithm finds, or has found when it is interrupted."""
    search = preset.search("GA", rng=np.random.default_rng(SEED))
    try:
        return loop.run(search, preset.scores(target), n_generations=n_generations)
    except interrupts.Interrupted as stop:
        if stop.result.best is None:
            raise  # there is nothing to show
        return stop.result


def _card(preset, target: str, result, judged: float, seconds: float) -> results.ResultCard:
    improvements = [row for i, row in enumerate(result.history) if not i or row["best"] > result.history[i - 1]["best"]]
    return results.ResultCard(
        target=target,
        preset=preset.name,
        seed=SEED,
        weights=preset.weights,
        versions=results.versions(),
        evaluations=result.history[-1]["evaluations"],
        wall_time_s=round(seconds, 2),
        score=result.best.score,
        judge_score=judged,
        lineage=[{"generation": row["generation"], "score": row["best"]} for row in improvements],
    )


def _percent(accuracy: dict[str, float]) -> str:
    return ", ".join(f"{name} {accuracy[name]:.1%}" for name in ("shape", "colour", "place", "background"))


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:60]


def main() -> int:
    """Command line of the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--target", help="a caption", default=DEFAULT_TARGET)
    group.add_argument("--image", help="a picture's path")
    args = parser.parse_args()
    folder = results.REPO / "demo"
    try:
        if args.image is not None:
            print(f"caption: {picture_to_caption(Path(args.image), folder)}")
        else:
            print(f"picture: {caption_to_picture(args.target, folder).relative_to(results.REPO)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before anything was found", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

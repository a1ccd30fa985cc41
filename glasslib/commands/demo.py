"""One caption to one picture, or one picture to its captions: `make demo TARGET="..."` or `make demo IMAGE=path`.

Everything heavy is imported where it is used, so that a caption is checked, and Ctrl-C caught, before a model loads.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

from glasslib.commands import end_on_signals, printable

DEFAULT_TARGET = "a large red star on a dark background"
SEED = 0
N_OBJECTS = 1  # that the shipped painter draws
# Of CapDec's caption, by CLIP. Nearly all rendered scenes and the painter's pictures lie above it; noise, 1/f textures
# and most crops of a photograph below (tests/commands/test_demo.py). The oracle's confidence, the judge, the nearest of
# 6,494 captions and the distance from the scenes' embeddings told them apart less well.
LEAST_FIT = 0.27


def caption_to_picture(typed: str, folder: Path, *, n_generations: int | None = None) -> Path:
    """Evolve a picture for a caption with CLIP-GLaSS's genetic algorithm and write it with its result card.

    Args:
        typed: a caption in words of the tiny world, as `words.read` takes them.
        folder: where picture and card go.
        n_generations: None takes the preset's.

    Returns:
        The picture's path.
    """
    from glasslib.commands import words

    caption = words.read(typed)
    if caption.changed:
        print(f"read as {caption.text!r}")
    if caption.n_objects > N_OBJECTS:
        print(f"this painter draws {N_OBJECTS} object a picture, and the caption names {caption.n_objects}: expect one")
    print(f"Caption -> picture: evolving StyleGAN2's latent vector until CLIP says {caption.text!r}.")

    import torch

    from glasslib import images, presets, results

    preset = presets.load("tiny-stylegan2")
    result, seconds, stopped = _searched(preset, preset.scores(caption.text), n_generations)
    picture = preset.make(result.best.x)  # (1, 3, h, w)
    with torch.inference_mode():
        judged = float((preset.judge.embed_images(picture) @ preset.judge.embed_texts([caption.text]).T).item())
    path = folder / f"{_name(caption.text, 'caption ' + caption.text)}{stopped}.png"
    metadata = {"caption": caption.text, "preset": preset.name, "seed": SEED, "score": result.best.score}
    results.write_bytes_atomic(path, images.encode_png(picture[0], metadata=metadata, scale=8))
    card = _card(preset, caption.text, result, judged, seconds)
    card.write(path.with_suffix(".json"))
    print(f"score by CLIP          {result.best.score:.3f}   (cosine, after {card.evaluations} pictures)")
    print(f"score by the judge     {judged:.3f}   (a second CLIP that the search never saw)")
    _print_reading(picture)
    return path


def picture_to_caption(path: Path, folder: Path, *, n_generations: int | None = None) -> str:
    """Caption a picture twice: by CapDec's captioner, and by evolving GPT-2's context tokens; write the result card.

    The evolved sentence keeps to the neutral register, as the captioner does. Of a picture unlike any of the tiny world
    it is said that its scores mean nothing.

    Returns:
        The best evolved caption.
    """
    import torch

    from glasslib import images, presets, results
    from glasslib.captioning import captioner, decoding
    from glasslib.scoring import TextScorer
    from glasslib.tinyworld import models

    picture, name = images.load_image(path), printable(path.name)
    preset = presets.load("tiny-gpt2")

    def scored(text: str) -> tuple[float, float]:
        with torch.inference_mode():
            return tuple(
                float((clip.embed_images(picture[None]) @ clip.embed_texts([text], truncate=True).T).item())
                for clip in (preset.embedder, preset.judge)
            )

    print(f"Picture -> caption, without a search: CapDec's captioner, which learned from text alone, reads {name}.")
    write = captioner.load(models.WEIGHTS / "captioner", decode=decoding.beam)
    told = write(preset.embedder.embed_images(picture[None]))[0]
    fit = _print_caption("CapDec", told, scored(told))
    if fit < LEAST_FIT:
        print(
            f"  This caption does not fit: for pictures of the tiny world the score is {LEAST_FIT} or more. So this is"
        )
        print(
            "  no picture of that world (or one of its neon signs, of which the captioner never read), and the models"
        )
        print("  know nothing else: the captions and scores here say nothing about it.")

    print("Picture -> caption: evolving GPT-2's context tokens until CLIP says that its sentence fits.")
    evaluate = _neutral_scores(preset, TextScorer(preset.embedder, picture, truncate=True))
    result, seconds, stopped = _searched(preset, evaluate, n_generations)
    caption, digest = preset.make(result.best.x)[0], results.sha256_file(path)
    _print_caption("evolution", caption, scores := scored(caption))
    card = _card(preset, f"{name} {digest}", result, scores[1], seconds)
    card.write(folder / f"{_name(path.name, f'picture {path.name!a} {digest}')}{stopped}.json")
    return caption


def _neutral_scores(preset, scorer):
    """Evaluate x -> (n,): CLIP's similarity for a neutral sentence, -1 for a romantic or humorous one."""
    import torch

    from glasslib.commands import words

    @torch.inference_mode()
    def evaluate(x):
        texts = preset.make(x)
        neutral = torch.tensor([words.is_neutral(text) for text in texts])
        return scorer(texts).cpu().where(neutral, -1.0)

    return evaluate


def _searched(preset, evaluate, n_generations: int | None):
    """Run the preset's GA; Ctrl-C ends it with what was found. Returns result, seconds and a file name's ending."""
    import numpy as np

    from glasslib.search import loop

    started, stopped = time.perf_counter(), ""
    search = preset.search("GA", rng=np.random.default_rng(SEED))
    try:
        result = loop.run(search, evaluate, n_generations=n_generations or preset.n_generations)
    except KeyboardInterrupt as error:
        result = getattr(error, "result", None)
    if result is None or result.best is None:
        raise KeyboardInterrupt  # stopped before the first generation: there is nothing to show
    if len(result.history) < (n_generations or preset.n_generations):
        stopped = "-stopped"
        print(f"stopped after {len(result.history)} generations; this is the best so far")
    return result, time.perf_counter() - started, stopped


def _card(preset, target: str, result, judged: float, seconds: float):
    from glasslib import results

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


def _print_caption(writer: str, text: str, scores: tuple[float, float]) -> float:
    print(f"caption by {writer:11} {text}")
    print(f"  score by CLIP        {scores[0]:.3f}")
    print(f"  score by the judge   {scores[1]:.3f}   (a second CLIP that neither of them saw)")
    return scores[0]


def _print_reading(picture) -> None:
    """Say what the oracle sees in a picture (1, 3, h, w), and how often it is right."""
    from glasslib.tinyworld import models, oracle

    words = oracle.load(models.WEIGHTS / "oracle")(picture).names(0)
    accuracy = oracle.own_accuracy(models.WEIGHTS / "oracle")
    print(f"the oracle sees        a {words['size']} {words['colour']} {words['shape']}, place: {words['place']},")
    print(f"                       on a {words['texture']} {words['background']} background")
    shares = ", ".join(f"{name} {accuracy[name]:.1%}" for name in ("shape", "colour", "place", "background"))
    print(f"                       (right on held-out renders: {shares})")


def _name(text: str, identity: str) -> str:
    """A file name of ASCII letters, digits and hyphens: the text's first 60, and a hash of what it is of."""
    letters = "".join(c if c.isascii() and c.isalnum() else " " for c in text.lower())
    return "-".join(["-".join(letters.split())[:60].strip("-"), hashlib.sha256(identity.encode()).hexdigest()[:8]])


def main() -> int:
    """Command line of the demo; returns the exit status."""
    end_on_signals()
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--target", help='a caption; "help" lists the words it may have', default=DEFAULT_TARGET)
    group.add_argument("--image", help="a picture's path")
    args = parser.parse_args()
    try:
        from glasslib import results

        folder = results.REPO / "demo"
        if args.image is not None:
            picture_to_caption(Path(args.image), folder)
        elif args.target.strip().lower() == "help":
            from glasslib.commands import words

            print(words.help_text())
        else:
            print(f"picture: {caption_to_picture(args.target, folder).relative_to(results.REPO)}")
    except (ValueError, OSError) as error:
        lines = str(error).replace(", or pass max_pixels", "").split("\n")  # not for who typed make demo
        print("error: " + "\n".join(printable(line) for line in lines), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before anything was found", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Train every tiny model again from scratch, one after the other: `make tinyworld`.

Each recipe keeps its checkpoints in runs/NAME, goes on from there when it was stopped, and is skipped once it has
finished (delete the folder to train it anew). Weights go to glasslib/tinyworld/weights/NAME.
"""

import subprocess
import sys

from glasslib import results

FEATURES = results.REPO / "runs" / "features"  # a second oracle, which both GANs' training looks through; not shipped
RECIPES = {
    "oracle": ["oracle"],
    "features": ["oracle", "--seed", "2", "--to", str(FEATURES)],
    "clip": ["clip", "--model", "tiny-clip", "--seed", "0"],
    "judge": ["clip", "--model", "tiny-judge", "--seed", "1"],
    "gpt2": ["gpt2"],
    "captioner": ["captioner"],
    "stylegan2": ["stylegan2", "--features", str(FEATURES / "model.safetensors")],
    "biggan": ["biggan", "--features", str(FEATURES / "model.safetensors")],
    "painter_vae": ["painter_vae"],
    "painter_text": ["painter_text"],
    "painter": ["painter"],
    "two_oracle": ["two_oracle"],  # before painter_fast, whose card it measures
    "painter_fast": ["painter_fast"],
    "two_plain": ["two_clip", "--kind", "plain"],
    "two_hard": ["two_clip", "--kind", "hard"],
    "two_judge": ["two_clip", "--kind", "judge"],
}


def main() -> int:
    """Run the recipes that have not finished; each in a process of its own, since it seeds its libraries."""
    for number, (name, (module, *options)) in enumerate(RECIPES.items(), start=1):
        folder = results.REPO / "runs" / name
        if (folder / "finished").exists():
            print(f"{number}/{len(RECIPES)} {name}: finished earlier, skipped; delete {folder} to train it again")
            continue
        print(f"{number}/{len(RECIPES)} {name}: training; Ctrl-C stops it, and the next `make tinyworld` goes on")
        command = [sys.executable, "-m", f"glasslib.tinyworld.recipes.{module}", "--out", str(folder), *options]
        if status := subprocess.run(command, check=False).returncode:
            return status
        results.write_bytes_atomic(folder / "finished", b"")
        print(f"{name}: done")
    return 0


if __name__ == "__main__":
    sys.exit(main())

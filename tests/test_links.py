"""Every relative link of README, .github/ and the notebooks leads to a file; workflows and hooks run what is there."""

import json
import re
import shlex

import pytest
import yaml

from glasslib.commands import notebooks
from glasslib.results import REPO

LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|(?:src|href)=\"([^\"]+)")
PAGES = [REPO / "README.md", *sorted((REPO / ".github").rglob("*.md")), *sorted((REPO / "notebooks").rglob("*.ipynb"))]


def markdown(path):
    """The page's text; of a notebook its markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(
            "".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"
        )
    return re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", text, flags=re.S)


def broken(path):
    """The links of a page that lead nowhere: no such file, or an address that is not https."""
    wrong = []
    for link in (a or b for a, b in LINK.findall(markdown(path))):
        target, _, _ = link.partition("#")
        if "://" in target:
            wrong += [] if target.startswith("https://") else [link]
        elif target and not target.startswith("mailto:") and not (path.parent / target).exists():
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_links_lead_somewhere(path):
    assert broken(path) == []


def test_readme_is_looked_at_closely(tmp_path):
    assert len(LINK.findall(markdown(REPO / "README.md"))) >= 15
    page = tmp_path / "a.md"
    page.write_text('[a](b.md) [c](http://d.org) <img src="e.png"> `[f](g)` [h](a.md#i) [j](https://k.org)')
    assert broken(page) == ["b.md", "http://d.org", "e.png"]


def commands():
    """Every `run:` line of the workflows."""
    for path in sorted((REPO / ".github" / "workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            yield from (step["run"] for step in job["steps"] if "run" in step)


def test_workflows_run_what_is_there():
    targets = re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.M)
    found = [shlex.split(command) for command in commands()]
    assert [".ci/run"] in found and ["make", "figures"] in found
    for command, *arguments in found:
        assert command == "git" or (REPO / command).is_file() or (command == "make" and set(arguments) <= set(targets))


def test_hooks_do_what_make_does():
    (repo,) = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repo["repo"] == "local", "a hook that fetches nothing"
    entries = [shlex.split(hook["entry"])[1:] for hook in repo["hooks"]]
    assert entries == [
        ["-m", "ruff", "check"],
        ["-m", "ruff", "format", "--check"],
        ["-m", "nbstripout", *notebooks.KEEP_OUTPUTS, "--keep-id"],
    ]

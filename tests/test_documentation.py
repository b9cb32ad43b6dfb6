"""The chapters of the documentation: links lead somewhere, and the examples are understood."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster import temporary_folder

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(
    path
    for path in [
        ROOT / "README.md",
        *(ROOT / "server").glob("*.md"),
        *(ROOT / "tests").glob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "protocol").glob("*.md"),
        ROOT / "protocol" / "python" / "README.md",
        ROOT / "protocol" / "js" / "README.md",
    ]
    if path.exists()
)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SYSTEMD = shutil.which("systemd-analyze")


def anchors(chapter: Path) -> set[str]:
    """The anchors that GitHub makes of a chapter's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", chapter.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=[str(chapter.relative_to(ROOT)) for chapter in CHAPTERS])
def test_every_link_leads_to_a_file_and_a_heading_that_exist(chapter: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", chapter.read_text())):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = chapter.parent / file if file else chapter
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_example_unit() -> None:
    assert SYSTEMD is not None
    (unit,) = re.findall(r"```ini\n(.*?)```", (ROOT / "server" / "README.md").read_text(), re.DOTALL)
    program = "/opt/atlas-sync/bin/atlas-sync"
    assert program in unit
    with temporary_folder() as folder:
        path = folder / "atlas-sync.service"
        path.write_text(unit.replace(program, shutil.which("true") or "/bin/true"))
        done = subprocess.run([SYSTEMD, "verify", path], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "atlas-sync.service" in line]
    assert (done.returncode, said) == (0, []), done.stdout + done.stderr

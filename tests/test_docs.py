"""The pages: links lead somewhere, those written by hand stay short, and every document named is in the repository."""

import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "benchmarks/README.md", ROOT / "tests/README.md"]
BY_HAND = [*READMES, *sorted((ROOT / "docs").glob("*.md"))]
CARDS = sorted((ROOT / "artifusion/weights").rglob("*.md"))
PAGES = [*BY_HAND, *sorted((ROOT / "docs/generated").glob("*.md")), *CARDS]
CODE = [path for folder in ("artifusion", "benchmarks", "tests", "tools") for path in (ROOT / folder).rglob("*.py")]
OTHERS = [ROOT / "Makefile", ROOT / "train.py", ROOT / "restore.py", *(ROOT / "configs").rglob("*.toml")]
MOST_WORDS = 10_000
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGE = re.compile(r"\bdocs/[\w/-]+\.(?:md|jpg)")
COMMIT = re.compile(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b")
OUTSIDE = re.compile(r"\b(?:DESIGN|FACTS|STYLE)\b|design document|\bissue #?\d", re.MULTILINE)


def links(page):
    """The files that a page links or shows."""
    found = (target.partition("#")[0] for target in LINK.findall(page.read_text()) if "://" not in target)
    return [page.parent / target for target in found if target]


def prose(path):
    """What a Python file says in strings and comments."""
    with path.open("rb") as file:
        return "\n".join(token.string for token in tokenize.tokenize(file.readline)
                         if token.type in (tokenize.STRING, tokenize.COMMENT))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_of_the_repository(page):
    broken = [str(target) for target in links(page)
              if not target.exists() or not target.resolve().is_relative_to(ROOT)]
    assert not broken


def test_every_picture_is_shown_by_a_page():
    shown = {target.resolve() for page in PAGES for target in links(page)}
    assert {picture for picture in (ROOT / "docs").rglob("*.jpg") if picture not in shown} == set()


def test_pages_written_by_hand_stay_short():
    words = {str(page.relative_to(ROOT)): len(page.read_text().split()) for page in BY_HAND}
    assert sum(words.values()) <= MOST_WORDS, words


def test_pages_written_by_hand_name_no_commits():
    assert {page.name: found for page in BY_HAND if (found := COMMIT.findall(page.read_text()))} == {}


@pytest.mark.parametrize("path", [path for path in [*PAGES, *CODE, *OTHERS] if path != Path(__file__)],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_only_documents_of_the_repository_are_mentioned(path):
    text = prose(path) if path.suffix == ".py" else path.read_text()
    assert not OUTSIDE.findall(text)
    assert [page for page in PAGE.findall(text) if not (ROOT / page).is_file()] == []

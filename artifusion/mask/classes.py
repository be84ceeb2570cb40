"""The one vocabulary of artifacts: names, ids in class masks (0 = keep), colours, and what other tools call them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from artifusion.errors import MaskError

CLASSES: dict[str, int] = {"fold": 1, "bubble": 2, "pen": 3, "blur": 4, "dark": 5, "dust": 6, "other": 7}
CLASSES_KEY = "artifusion.classes"           # under which a class mask carries its vocabulary
COLORS: dict[str, tuple[int, int, int]] = {
    "fold": (233, 30, 99), "bubble": (33, 150, 243), "pen": (76, 175, 80), "blur": (156, 39, 176),
    "dark": (121, 85, 72), "dust": (255, 152, 0), "other": (96, 125, 139),
}
NOUNS = {"fold": "fold", "bubble": "bubble", "pen": "pen mark", "blur": "blurred area", "dark": "dark spot",
         "dust": "dust speck", "other": "other area"}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_A-Za-z]+")        # the last of other scripts than Latin
UNACCENTED = str.maketrans({"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "ß": "ss"})


def split(name: str) -> list[str]:
    """The words in a name, in order, without accents."""
    letters = unicodedata.normalize("NFD", name.translate(UNACCENTED))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return WORD.findall(unicodedata.normalize("NFC", plain))


def words_of(name: str) -> set[str]:
    """The words in a name, in small letters and without the s of a plural."""
    return {word.lower().removesuffix("s") for word in split(name)}


WORDS: dict[str, set[str]] = {name: words_of(words) for name, words in {      # what tools and people write, in the
    # languages of many laboratories; one to three words joined
    "fold": "fold folded folding tissuefold wrinkle wrinkled crease falte falten gewebefalte gewebefalten pli "
            "plissement pliegue piega pieghe prega vouw vouwen falda faldy 折叠 褶皱 皱褶 折痕 しわ 皺 折れ 접힘 주름 "
            "складка складки",
    "bubble": "bubble airbubble blase blasen luftblase luftblasen bulle burbuja bolla bolle bolha luchtbel luchtbellen "
              "気泡 气泡 기포 пузырь пузыри",
    "pen": "pen penmark penmarking ink inked marker marking stift filzstift tinte encre stylo feutre tinta rotulador "
           "inchiostro pennarello caneta inkt 笔 笔迹 墨水 墨 ペン インク 펜 잉크 чернила маркер",
    "blur": "blur blurry blurred blurriness oof outoffocus defocus defocused unsharp unscharf unscharfe flou floue "
            "borroso desenfocado sfocato sfocatura desfocado wazig onscherp 模糊 失焦 ぼけ ボケ 흐림 размытие",
    "dark": "dark darkspot",
    "dust": "dust dusty dirt debris foreignobject foreignbody staub schmutz poussiere polvo polvere poeira 灰尘 灰塵 "
            "ほこり 埃 먼지 пыль",
}.items()}


def named_counts(counts: Mapping[str, int]) -> str:
    """Numbers of artifacts in words: "3 folds, 1 blurred area"."""
    return ", ".join(f"{counts[name]:,} {NOUNS[name]}{'s' if counts[name] > 1 else ''}" for name in CLASSES
                     if counts.get(name))


TISSUE_WORDS = words_of(                                        # many are QuPath's own classes
    "tissue background foreground glass tumor tumour tumoral tumoural carcinoma adenoma dysplasia metaplasia dcis "
    "stroma stromal immune cell necrosis necrotic epithelium epithelial gland glandular acinus duct lumen lymphocyte "
    "lymphocytic lymphatic lymphoid lymph node plasma inflammation inflammatory nuclei nucleus muscle fat adipose "
    "connective collagen vessel nerve bone cartilage blood erythrocyte hemorrhage haemorrhage mucosa mucin mucoid "
    "skin adnexa angioinvasion tma core normal clean healthy benign invasive usable good keep sharp focus gewebe "
    "hintergrund epithel tumorgewebe tissu fond tumeur tejido fondo tessuto sfondo tumore tecido weefsel achtergrond "
    "tkanka tlo vavnad bakgrund 组织 背景 肿瘤 組織 腫瘍 癌 조직 배경 종양 ткань фон опухоль")
NEUTRAL_WORDS = words_of(
    "positive negative region area annotation mask section detection detected roi all whole other binary segmentation "
    "seg boundary contour outline border viable bed secretion infiltrate aggregate material red marker debris in or")
DENIALS = {"no", "not", "non", "without"}


def class_of(name: str) -> str:
    """The class of our vocabulary that a tool's or a person's name means; "other" where none is known.

    Case, plural and punctuation do not matter. Of a derived class ("Artifact: Fold") the last part that is known
    counts; of a name that holds several ("Darkspot & Foreign Object") the first in the vocabulary.
    """
    for part in reversed(name.split(":")):
        words = [word.lower() for word in split(part)]
        joined = {"".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}
        joined |= {word.removesuffix("s") for word in joined}
        for known, meant in WORDS.items():
            if joined & meant:
                return known
    return "other"


def is_tissue(name: str) -> bool:
    """Whether a name says what a slide consists of, and no artifact: "Tumor: Positive", "Tissue 2", "no fold"."""
    words = [word.lower().removesuffix("s") for word in split(name)]
    known = TISSUE_WORDS | {"artifact", "artefact"}
    if any((one in DENIALS and (other in known or class_of(other) != "other")) or (one in known and other == "free")
           for one, other in pairwise(words)):
        return True
    return not TISSUE_WORDS.isdisjoint(words) and set(words) <= TISSUE_WORDS | NEUTRAL_WORDS


def vocabulary(names: Collection[str]) -> tuple[str, ...]:
    """Names of classes, as anybody writes them, in our vocabulary and its order. Raises ValueError for unknown ones."""
    unknown = [name for name in names if class_of(name) == "other" and name.strip().lower() != "other"]
    if unknown or not names:
        raise ValueError(f"{', '.join(unknown) or 'nothing'} is no class of artifact; choose from {', '.join(CLASSES)}")
    return tuple(sorted({class_of(name) for name in names}, key=list(CLASSES).index))


def picked(names: Sequence[str], wanted: Collection[str] | None, whose: str) -> Sequence[int]:
    """The indices of the names that mean a wanted class (None: all). Raises MaskError where none does."""
    if wanted is None:
        return range(len(names))
    indices = [index for index, name in enumerate(names) if class_of(name) in wanted]
    if not indices:
        held = ", ".join(name for name in CLASSES if name in map(class_of, names)) or "no artifact at all"
        raise MaskError(f"{whose} holds {held}: --classes {','.join(wanted)} selects nothing; name others")
    return indices

"""Clean tiles in one tar file, and tiles from wherever they lie."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import ValidationError
from tqdm import tqdm

from artifusion.config import Frozen, SpacingUm, describe
from artifusion.errors import BROKEN_FILE, DataError, OutputError, shortened
from artifusion.files import again, remove_parts, whole_file
from artifusion.mask.reading import read_mask
from artifusion.slide.reader import open_slide
from artifusion.training.tiles import SHARD, TILE_PX, Tile, clean_tiles, cut_tiles, find_images, grid

QUALITY = 95
ANOTHER = "choose another name or remove it"


class About(Frozen):
    """What a shard tells of a tile."""

    image: str                      # .../folder/name
    um_per_px: SpacingUm | None


@dataclass(frozen=True)
class ShardReport:
    """What was written."""

    tiles: int
    size_bytes: int
    left_out: int           # clean tiles that would have made it larger than asked
    done_before: bool = False           # the same shard was there, and nothing was changed


def read_tiles(images: Mapping[Path, str], quiet: bool = False) -> Iterator[Tile]:
    """The clean tiles of slides, images and shards as `find_images` found them, in their order.

    Raises:
        DataError: a shard that cannot be read.
    """
    for path, name in tqdm(images.items(), desc="tiles", unit="file", disable=quiet or None):
        yield from read_shard(path) if path.suffix.lower() == SHARD else cut_tiles(path, name)


def write_shard(
    data: Sequence[str | Path], out: str | Path, *, mask: str | Path | None = None, max_mb: float | None = None,
    quiet: bool = False,
) -> ShardReport:
    """Write the clean tiles of slides and images as a tar of JPEG and JSON pairs; nothing of it depends on the clock.

    Members are FOLDER/NUMBER.jpg (quality 95, no chroma subsampling) and FOLDER/NUMBER.json (the image's folder/name,
    um per pixel where the slide tells), as webdataset names them. Larger than `max_mb` million bytes, it loses tiles
    of the folders that take most room, evenly spread. One tile is in memory at a time. With a mask, which belongs to
    one slide, no tile holds a masked pixel.

    Raises:
        DataError: no images, no clean tissue in them, or a mask for more than one.
        MaskError: the mask cannot be read, or cannot belong to the slide.
        OutputError: `out` is there and another shard or file, is no .tar, or cannot be written.
    """
    out = Path(out)
    if out.suffix != SHARD:
        raise OutputError(f"{out}: a shard is a {SHARD} file; name one")
    remove_parts(out)
    images = find_images(data)
    first = next(iter(images))
    if mask is not None and (len(images) != 1 or first.suffix.lower() == SHARD):
        raise DataError(f"a mask belongs to one slide or image, and {len(images)} files are given; name its own"
                        if len(images) != 1 else f"{first}: a mask belongs to a slide or an image; name its own")

    def tiles() -> Iterator[Tile]:
        return read_tiles(images, quiet) if mask is None else unmasked_tiles(first, mask)

    existed = out.exists()
    if existed and not begins_with(out, next(tiles(), None)):
        raise OutputError(f"{out}: exists already; {ANOTHER}")                   # which is seen at once, mostly
    with again(out, ANOTHER) if existed else whole_file(out) as part:
        save_tiles(tiles(), part)
        sizes = _tile_sizes(part)
        kept = _within(sizes, max_mb * 1e6 if max_mb else float("inf"))
        if not kept:
            raise DataError(f"no clean tissue in {len(images)} images" if not sizes else
                            f"{max_mb:g} MB hold none of {len(sizes)} tiles; allow more")
        if len(kept) < len(sizes):
            _thin(part, kept)
    return ShardReport(len(kept), out.stat().st_size, len(sizes) - len(kept), existed)


def begins_with(path: Path, tile: Tile | None) -> bool:
    """Whether a file is a shard whose first tile is this one."""
    try:
        return tile is not None and next(read_shard(path)).image == tile.image
    except (DataError, StopIteration):
        return False


def unmasked_tiles(path: Path, mask: str | Path) -> Iterator[Tile]:
    """The clean tiles of one slide or image that hold no masked pixel."""
    with open_slide(path) as slide:
        yield from clean_tiles(slide, grid(slide.size, TILE_PX), read_mask(mask, slide))


def save_tiles(tiles: Iterable[Tile], path: Path) -> None:
    """Write tiles as the members of a shard, in their order."""
    with tarfile.open(path, "w") as shard:
        for number, tile in enumerate(tiles):
            _add(shard, f"{tile.folder}/{number:06d}", tile)


def read_shard(path: Path) -> Iterator[Tile]:
    """The tiles of a shard, decoded.

    Raises:
        DataError: it cannot be read, or was not written by `write_shard`.
    """
    try:
        with tarfile.open(path) as shard:
            pictures: dict[str, Image.Image] = {}
            for member in shard:
                key, _, suffix = member.name.rpartition(".")
                file = shard.extractfile(member)
                if suffix == "jpg" and file:
                    pictures[key] = Image.open(io.BytesIO(file.read())).convert("RGB")
                elif suffix == "json" and file:
                    about = About.model_validate_json(file.read())
                    yield Tile(np.asarray(pictures.pop(key)), about.image, about.um_per_px)
    except BROKEN_FILE as error:
        reason = describe(error, About) if isinstance(error, ValidationError) else shortened(error)
        raise DataError(f"{path}: no shard of `artifusion tiles`, or a broken one ({reason}); write it again") from None


def _add(shard: tarfile.TarFile, key: str, tile: Tile) -> None:
    encoded = io.BytesIO()
    Image.fromarray(tile.pixels).save(encoded, "JPEG", quality=QUALITY, subsampling=0)
    about = json.dumps(About(image=tile.image, um_per_px=tile.spacing_um).model_dump())
    for suffix, content in (("jpg", encoded.getvalue()), ("json", about.encode())):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(content)
        shard.addfile(info, io.BytesIO(content))


def _tile_sizes(path: Path) -> dict[str, int]:
    """Bytes that each tile takes in a tar, by its key."""
    sizes: dict[str, int] = {}
    with tarfile.open(path) as shard:
        for member in shard:
            key, blocks = member.name.rpartition(".")[0], -(-member.size // tarfile.BLOCKSIZE)
            head = member.offset_data - member.offset       # longer where a name is long or has letters beyond ASCII
            sizes[key] = sizes.get(key, 0) + head + blocks * tarfile.BLOCKSIZE
    return sizes


def _within(sizes: dict[str, int], most_bytes: float) -> set[str]:
    """The tiles to keep: all of small folders, evenly spread ones of those that would take more than an equal part."""
    room = max(0.0, most_bytes - tarfile.RECORDSIZE)
    folders: dict[str, list[str]] = {}
    for key in sizes:
        folders.setdefault(key.split("/")[0], []).append(key)
    kept: set[str] = set()
    by_size = sorted(folders.values(), key=lambda keys: sum(sizes[key] for key in keys))
    for left, keys in zip(range(len(by_size), 0, -1), by_size, strict=True):
        whole = sum(sizes[key] for key in keys)
        count = len(keys) if whole <= room / left else int(len(keys) * room / left / whole)
        while (taken := sum(sizes[key] for key in _spread(keys, count))) > room / left:
            count -= 1
        kept.update(_spread(keys, count))
        room -= taken
    return kept


def _spread(keys: list[str], count: int) -> list[str]:
    return [keys[i * len(keys) // count] for i in range(count)]


def _thin(path: Path, kept: set[str]) -> None:
    """Rewrite a tar with some of its tiles."""
    with whole_file(path) as part, tarfile.open(path) as shard, tarfile.open(part, "w") as thinned:
        for member in shard:
            if member.name.rpartition(".")[0] in kept:
                thinned.addfile(member, shard.extractfile(member))

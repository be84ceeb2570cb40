"""JPEG segments of TIFF files: decoded, and encoded again under the very header they had.

A new segment keeps every byte of the old one up to its entropy-coded data: the same markers, quantisation tables,
sampling and component ids, and no table that the old one did not carry. So no reader, which may keep tables from
one segment to the next, can tell them apart. MCUs, the blocks that are coded together, keep their coefficients where
no pixel of theirs is to change.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import imagecodecs
import numpy as np
from PIL import Image

from artifusion.errors import SlideError
from artifusion.output.codecs import scan
from artifusion.output.codecs.blocks import grown, join, per_block, per_pixel, split

SOF, DHT, SOS, DQT, EOI, DRI = 0xC0, 0xC4, 0xDA, 0xDB, 0xD9, 0xDD
FRAMES = set(range(0xC0, 0xD0)) - {DHT, 0xC8, 0xCC}
SAMPLINGS = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}
RGB, YCBCR = 2, 6                                           # TIFF photometric interpretations

# zigzag position of each coefficient in row order (ITU-T T.81, figure A.6)
ZIGZAG = np.array([sorted(((x, y) for x in range(8) for y in range(8)),
                          key=lambda p: (sum(p), p[1] if sum(p) % 2 else p[0])).index((i % 8, i // 8))
                   for i in range(64)])


@dataclass(frozen=True)
class Header:
    """What a segment's markers and the page's shared tables say together."""

    size: tuple[int, int]                                   # width, height
    sampling: tuple[int, int]                               # of the first component; the others have (1, 1)
    quantisation: tuple[tuple[int, ...], ...]               # one table per component, in row order
    huffman: tuple[tuple[bytes, bytes], ...]                # DC and AC table per component
    own_tables: frozenset[int]                              # DQT, DHT: which tables the segment itself carries
    restart: int                                            # MCUs between restart markers; 0: there are none
    end: int                                                # first byte of entropy-coded data

    @property
    def mcu(self) -> tuple[int, int]:
        """Width and height of an MCU in pixels."""
        return 8 * self.sampling[0], 8 * self.sampling[1]

    @property
    def layout(self) -> scan.Layout:
        columns, rows = (-(-length // side) for length, side in zip(self.size, self.mcu, strict=True))
        return scan.Layout(self.huffman, (0,) * (self.sampling[0] * self.sampling[1]) + (1, 2), columns * rows,
                           self.restart)


def decode(data: bytes, tables: bytes, photometric: int) -> np.ndarray:
    """Return a segment as uint8 (H, W, 3) RGB.

    Raises:
        SlideError: the segment is damaged.
    """
    space = "RGB" if photometric == RGB else "YCBCR"        # the TIFF tag decides, not the Adobe marker
    try:
        pixels = imagecodecs.jpeg8_decode(data, tables=tables or None, colorspace=space, outcolorspace="RGB")
    except (imagecodecs.Jpeg8Error, RuntimeError, ValueError) as error:
        raise SlideError(f"a JPEG segment is damaged ({error}); get a whole copy of the slide") from None
    return pixels


def encode(pixels: np.ndarray, like: bytes, tables: bytes, photometric: int, touched: np.ndarray | None = None
           ) -> bytes:
    """Return pixels, uint8 (H, W, 3) RGB, as a segment with the header, tables and sampling of another one.

    Args:
        touched: bool (H, W), where the pixels are not the other segment's; MCUs without such a pixel keep their
            coefficients. None: all are encoded.

    Raises:
        SlideError: the other segment has tables that cannot be written again (`why_not` tells in advance), or
            entropy-coded data that cannot be taken apart though it may be decoded.
    """
    reason = why_not(like, tables, photometric)
    if reason:
        raise SlideError(f"a JPEG segment cannot be written again ({reason})")
    header = parse(like, tables)
    if (pixels.shape[1], pixels.shape[0]) != header.size:
        raise SlideError(f"a JPEG segment of {header.size} px cannot hold {pixels.shape[1]} x {pixels.shape[0]}")
    reached = per_block(np.logical_or, np.ones(pixels.shape[:2], bool) if touched is None else touched, *header.mcu)
    if not reached.any():
        return like
    fresh = _encoded(pixels if reached.all() else _gathered(pixels, reached, header.mcu), header, photometric)
    written = parse(fresh, b"")
    data = fresh[written.end :]
    if not reached.all():
        taken = np.repeat(reached.ravel(), len(header.layout.components))
        known = scan.read(like[header.end :], header.layout, written.huffman)
        data = scan.write(scan.splice(known, scan.read(data, written.layout), taken), written.huffman)
    head = _without_restarts(like[: header.end])
    if header.huffman != written.huffman:                   # only where the segment brings its own: see why_not
        head = _with_huffman(head, fresh[: written.end])
    return head + data


def reach(touched: np.ndarray, like: bytes, tables: bytes) -> np.ndarray:
    """Where decoded pixels may change, bool (H, W), when those under `touched` do and the other MCUs are kept.

    Subsampled chroma bleeds out of its MCU by one pixel: libjpeg interpolates between the nearest two samples.
    """
    header = parse(like, tables)
    reached = per_pixel(per_block(np.logical_or, touched, *header.mcu), *header.mcu, touched.shape)
    return grown(reached, *(factor > 1 for factor in header.sampling))


def _encoded(pixels: np.ndarray, header: Header, photometric: int) -> bytes:
    """Pixels as a JPEG file with a header's quantisation tables and sampling, and the standard Huffman tables."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", qtables=[list(table) for table in header.quantisation], optimize=False,
                                 subsampling=SAMPLINGS[header.sampling], keep_rgb=photometric == RGB)
    return buffer.getvalue()


def _gathered(pixels: np.ndarray, reached: np.ndarray, mcu: tuple[int, int]) -> np.ndarray:
    """The reached MCUs, one after the other, as a picture of their own: an MCU's code depends on its pixels alone."""
    blocks = split(pixels, *mcu)[reached]
    columns = min(len(blocks), reached.shape[1])
    blocks = blocks[np.minimum(np.arange(-(-len(blocks) // columns) * columns), len(blocks) - 1)]
    return join(blocks.reshape(-1, columns, *blocks.shape[1:]))


def why_not(data: bytes, tables: bytes, photometric: int) -> str:
    """Why a segment cannot be written again in its own way; empty where it can."""
    try:
        header = parse(data, tables)
    except (SlideError, IndexError, KeyError, ValueError) as error:
        return f"not baseline JPEG with three 8-bit components: {error}"
    if header.sampling not in SAMPLINGS or (photometric == RGB and header.sampling != (1, 1)):
        return f"chroma sampling {header.sampling}"
    standard = _standard_huffman(photometric == RGB, header.sampling)
    shared = DHT in {marker for marker, _, _ in markers(tables)} if tables else False
    if header.huffman != standard and (shared or DHT not in header.own_tables or photometric != YCBCR):
        return "Huffman tables of its own, shared between segments"
    return ""


def markers(data: bytes) -> list[tuple[int, int, bytes]]:
    """(marker, first byte of it, payload) up to and with the start of scan."""
    if data[:2] != b"\xff\xd8":
        raise SlideError("no JPEG start marker")
    found, at = [], 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise SlideError("a JPEG marker is missing")
        if data[at + 1] == 0xFF:                            # fill byte
            at += 1
            continue
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == EOI:
            break
        found.append((marker, at, data[at + 4 : at + 2 + length]))
        at += 2 + length
        if marker == SOS:
            break
    return found


@lru_cache(maxsize=8)
def _tables(data: bytes) -> tuple[dict[int, tuple[int, ...]], dict[int, bytes]]:
    """Quantisation tables by slot and Huffman tables by class * 16 + slot."""
    quantisers: dict[int, tuple[int, ...]] = {}
    huffman: dict[int, bytes] = {}
    for marker, _, payload in markers(data) if data else []:
        while payload and marker == DQT:
            wide, slot = payload[0] >> 4, payload[0] & 15
            values = np.frombuffer(payload[1 : 1 + 64 * (1 + wide)], ">u2" if wide else "u1")
            quantisers[slot] = tuple(values[ZIGZAG].tolist())
            payload = payload[1 + 64 * (1 + wide) :]
        while payload and marker == DHT:
            length = 17 + sum(payload[1:17])
            huffman[payload[0]] = payload[1:length]
            payload = payload[length:]
    return quantisers, huffman


def parse(data: bytes, tables: bytes) -> Header:
    """Return a segment's header. Raises SlideError where it is not baseline with three 8-bit components."""
    found = markers(data)
    shared_quantisers, shared_huffman = _tables(tables)
    start = found[-1][1] if found else 0
    own_quantisers, own_huffman = _tables(data[:start])
    quantisers, huffman = {**shared_quantisers, **own_quantisers}, {**shared_huffman, **own_huffman}
    frames = {marker: payload for marker, _, payload in found if marker in FRAMES}
    if list(frames) != [SOF] or found[-1][0] != SOS or frames[SOF][0] != 8 or frames[SOF][5] != 3:
        raise SlideError(f"frames {[hex(marker) for marker in frames]}")
    frame, scan = frames[SOF], found[-1][2]
    if scan[0] != 3:
        raise SlideError("components in separate scans")
    slots = {scan[1 + 2 * i]: scan[2 + 2 * i] for i in range(3)}
    components = [frame[6 + 3 * i : 9 + 3 * i] for i in range(3)]
    samplings = [(component[1] >> 4, component[1] & 15) for component in components]
    if samplings[1:] != [(1, 1), (1, 1)]:
        raise SlideError(f"chroma samplings {samplings}")
    return Header(
        (int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")),
        samplings[0],
        tuple(quantisers[component[2]] for component in components),
        tuple((huffman[slots[c[0]] >> 4], huffman[16 + (slots[c[0]] & 15)]) for c in components),
        frozenset({marker for marker, _, _ in found} & {DQT, DHT}),
        next((int.from_bytes(payload, "big") for marker, _, payload in found if marker == DRI), 0),
        start + 2 + int.from_bytes(data[start + 2 : start + 4], "big"),
    )


@lru_cache(maxsize=8)
def _standard_huffman(rgb: bool, sampling: tuple[int, int]) -> tuple[tuple[bytes, bytes], ...]:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", subsampling=SAMPLINGS[sampling], keep_rgb=rgb)
    return parse(buffer.getvalue(), b"").huffman


def _without_restarts(head: bytes) -> bytes:
    """A header without its restart interval: the new data has no restart markers."""
    kept = [(marker, at, payload) for marker, at, payload in markers(head) if marker != DRI]
    return head[:2] + b"".join(head[at : at + 4 + len(payload)] for _, at, payload in kept)


def _with_huffman(head: bytes, fresh: bytes) -> bytes:
    """A header whose own Huffman tables are replaced by the standard ones, under the slots its scan names."""
    _, standard = _tables(fresh[: markers(fresh)[-1][1]])
    body = b"".join(bytes([slot]) + table for slot, table in sorted(standard.items()))
    tables = b"\xff\xc4" + (2 + len(body)).to_bytes(2, "big") + body
    kept, scan = b"", b""
    for marker, at, payload in markers(head):
        whole = head[at : at + 4 + len(payload)]
        if marker == SOS:                                   # Y under slot 0, Cb and Cr under slot 1, as Pillow writes
            scan = whole[:5] + bytes([whole[5], 0x00, whole[7], 0x11, whole[9], 0x11]) + whole[11:]
        elif marker != DHT:
            kept += whole
    return head[:2] + kept + tables + scan

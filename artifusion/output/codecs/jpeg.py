"""JPEG segments of TIFF files: decoded, and encoded again under the header they had.

A new segment keeps every byte of the old one up to its entropy-coded data: the same markers, quantisation tables,
sampling and component ids, and no table that the old one lacked. A reader may keep tables from one segment to the
next, so any other header could change how the next segment is decoded. An MCU (the blocks that are coded together)
keeps its coefficients where none of its pixels changes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import imagecodecs
import numpy as np
from PIL import Image

from artifusion.errors import SlideError
from artifusion.geometry import Size
from artifusion.output.codecs import scan
from artifusion.output.codecs.block_arrays import join_blocks, per_block, per_pixel, split_blocks, with_neighbours

SOF, DHT, SOS, DQT, EOI, DRI, APP0, APP14 = 0xC0, 0xC4, 0xDA, 0xDB, 0xD9, 0xDD, 0xE0, 0xEE
FRAMES = set(range(0xC0, 0xD0)) - {DHT, 0xC8, 0xCC}
SAMPLINGS = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}
RGB, YCBCR = 2, 6                                           # TIFF photometric interpretations

# zigzag position of each coefficient in row order (ITU-T T.81, figure A.6)
ZIGZAG = np.array([sorted(((x, y) for x in range(8) for y in range(8)),
                          key=lambda p: (sum(p), p[1] if sum(p) % 2 else p[0])).index((i % 8, i // 8))
                   for i in range(64)])


@dataclass(frozen=True)
class Header:
    """The header of a segment: its own markers, with the page's shared tables filled in."""

    size: tuple[int, int]                                   # width, height
    sampling: tuple[int, int]                               # of the first component; the others have (1, 1)
    quantisation: tuple[tuple[int, ...], ...]               # one table per component, in row order
    huffman: tuple[tuple[bytes, bytes], ...]                # DC and AC table per component
    own_tables: frozenset[int]                              # DQT, DHT: the kinds of table that the segment itself holds
    restart: int                                            # MCUs between restart markers; 0: no markers
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
        return imagecodecs.jpeg8_decode(data, tables=tables or None, colorspace=space, outcolorspace="RGB")
    except (imagecodecs.Jpeg8Error, RuntimeError, ValueError) as error:
        raise SlideError(str(error)) from None


def frame_size(data: bytes) -> Size:
    """Return the size that a segment's frame states, whatever its kind. Raises SlideError where it has none."""
    frame = next((payload for marker, _, payload in markers(data) if marker in FRAMES), b"")
    if len(frame) < 5:
        raise SlideError("no JPEG frame")
    return Size(int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big"))


def encode(pixels: np.ndarray, like: bytes, tables: bytes, photometric: int, touched: np.ndarray | None = None
           ) -> bytes:
    """Return pixels, uint8 (H, W, 3) RGB, as a segment with the header, tables and sampling of another one.

    Args:
        like: the other segment.
        touched: bool (H, W), where the pixels differ from the other segment's; MCUs without such a pixel keep their
            coefficients. None: all MCUs are encoded.

    Raises:
        SlideError: the other segment has tables that cannot be written again (`why_not` says so in advance), or
            entropy-coded data that can be decoded but not taken apart.
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
    encoded = _encode_whole(pixels if reached.all() else _collage(pixels, reached, header.mcu), header, photometric)
    new_header = parse(encoded, b"")
    data = encoded[new_header.end :]
    if not reached.all():
        replaced = np.repeat(reached.ravel(), len(header.layout.components))
        old_scan = scan.read(like[header.end :], header.layout, new_header.huffman)
        new_scan = scan.read(data, new_header.layout)
        data = scan.write(scan.splice(old_scan, new_scan, replaced), new_header.huffman)
    head = _without_restarts(like[: header.end])
    if header.huffman != new_header.huffman:                # only where the segment holds its own: see why_not
        head = _with_huffman(head, encoded[: new_header.end])
    return head + data


def encoded(pixels: np.ndarray, header: Header, photometric: int) -> np.ndarray:
    """Return what pixels, uint8 (H, W, 3) RGB, become where they are encoded with the tables of a header."""
    return decode(_encode_whole(pixels, header, photometric), b"", photometric)


def reach(touched: np.ndarray, like: bytes, tables: bytes) -> np.ndarray:
    """Return where decoded pixels may change, bool (H, W), when MCUs with a `touched` pixel are encoded again.

    Subsampled chroma changes one pixel beyond its MCU: libjpeg interpolates between the two nearest samples.
    """
    header = parse(like, tables)
    reached = per_pixel(per_block(np.logical_or, touched, *header.mcu), *header.mcu, touched.shape)
    return with_neighbours(reached, *(factor > 1 for factor in header.sampling))


def _encode_whole(pixels: np.ndarray, header: Header, photometric: int) -> bytes:
    """Return a JPEG file of pixels: quantisation tables and sampling of the header, standard Huffman tables."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", qtables=[list(table) for table in header.quantisation], optimize=False,
                                 subsampling=SAMPLINGS[header.sampling], keep_rgb=photometric == RGB)
    return buffer.getvalue()


def _collage(pixels: np.ndarray, reached: np.ndarray, mcu: tuple[int, int]) -> np.ndarray:
    """Return the reached MCUs, in order, as one image, whose last row is filled up with its last MCU.

    Encoding it gives them the same coefficients as encoding all pixels: these depend on an MCU's own pixels alone.
    """
    blocks = split_blocks(pixels, *mcu)[reached]
    columns = min(len(blocks), reached.shape[1])
    blocks = blocks[np.minimum(np.arange(-(-len(blocks) // columns) * columns), len(blocks) - 1)]
    return join_blocks(blocks.reshape(-1, columns, *blocks.shape[1:]))


def why_not(data: bytes, tables: bytes, photometric: int) -> str:
    """Return why a segment cannot be written again under its own header; empty where it can."""
    try:
        header = parse(data, tables)
    except SlideError as error:
        return f"not baseline JPEG with three 8-bit components: {error}"
    if header.sampling not in SAMPLINGS or (photometric == RGB and header.sampling != (1, 1)):
        return f"chroma sampling {header.sampling}"
    if photometric == YCBCR and _tells_rgb(data):
        return "its markers tell RGB and its page YCbCr, of which readers believe one or the other"
    standard = _standard_huffman(photometric == RGB, header.sampling)
    shared = DHT in {marker for marker, _, _ in markers(tables)} if tables else False
    if header.huffman != standard and (shared or DHT not in header.own_tables or photometric != YCBCR):
        return "Huffman tables of its own, shared between segments"
    return ""


def _tells_rgb(data: bytes) -> bool:
    """Return whether a reader that does not ask the page takes a segment for RGB, as libjpeg does."""
    held = {marker: payload for marker, _, payload in reversed(markers(data))}
    adobe = held.get(APP14, b"")
    if held.get(APP0, b"").startswith(b"JFIF"):
        return False
    return adobe[11:12] == b"\0" if adobe.startswith(b"Adobe") else held[SOF][6:15:3] == b"RGB"


def markers(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return a segment's markers up to and including the start of scan: (marker, its position, its payload).

    Raises:
        SlideError: no start marker, or data between markers.
    """
    if data[:2] != b"\xff\xd8":
        raise SlideError("no JPEG start marker")
    found, position = [], 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise SlideError("a JPEG marker is missing")
        if data[position + 1] == 0xFF:                      # fill byte
            position += 1
            continue
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == EOI:
            break
        found.append((marker, position, data[position + 4 : position + 2 + length]))
        position += 2 + length
        if marker == SOS:
            break
    return found


@lru_cache(maxsize=8)
def _tables(data: bytes) -> tuple[dict[int, tuple[int, ...]], dict[int, bytes]]:
    """Return the quantisation tables by slot, and the Huffman tables by class * 16 + slot."""
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
    """Return a segment's header.

    Args:
        tables: the page's shared tables as a JPEG file without a scan; may be empty.

    Raises:
        SlideError: not baseline JPEG with three 8-bit components in one scan, a marker is cut short, or it names a
            table that does not exist.
    """
    try:
        return _header(data, tables)
    except (LookupError, ValueError) as error:
        raise SlideError(f"a JPEG marker is cut short or names no table ({error})") from None


def _header(data: bytes, tables: bytes) -> Header:
    found = markers(data)
    shared_quantisers, shared_huffman = _tables(tables)
    start = found[-1][1] if found else 0
    own_quantisers, own_huffman = _tables(data[:start])
    quantisers, huffman = {**shared_quantisers, **own_quantisers}, {**shared_huffman, **own_huffman}
    frames = {marker: payload for marker, _, payload in found if marker in FRAMES}
    if list(frames) != [SOF] or found[-1][0] != SOS or frames[SOF][0] != 8 or frames[SOF][5] != 3:
        raise SlideError(f"frames {[hex(marker) for marker in frames]}")
    frame, start_of_scan = frames[SOF], found[-1][2]
    if start_of_scan[0] != 3:
        raise SlideError("components in separate scans")
    slots = {start_of_scan[1 + 2 * i]: start_of_scan[2 + 2 * i] for i in range(3)}
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
    """Return a header without its restart interval: the new data has no restart markers."""
    kept = [(position, payload) for marker, position, payload in markers(head) if marker != DRI]
    return head[:2] + b"".join(head[position : position + 4 + len(payload)] for position, payload in kept)


def _with_huffman(head: bytes, new_head: bytes) -> bytes:
    """Return a header with the Huffman tables of another one in place of its own, and a scan that names their slots."""
    _, standard = _tables(new_head[: markers(new_head)[-1][1]])
    body = b"".join(bytes([slot]) + table for slot, table in sorted(standard.items()))
    tables = b"\xff\xc4" + (2 + len(body)).to_bytes(2, "big") + body
    kept, start_of_scan = b"", b""
    for marker, position, payload in markers(head):
        raw = head[position : position + 4 + len(payload)]
        if marker == SOS:                                   # Y under slot 0, Cb and Cr under slot 1, as Pillow writes
            start_of_scan = raw[:5] + bytes([raw[5], 0x00, raw[7], 0x11, raw[9], 0x11]) + raw[11:]
        elif marker != DHT:
            kept += raw
    return head[:2] + kept + tables + start_of_scan

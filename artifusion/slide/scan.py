"""Entropy-coded scans of baseline JPEG (ITU-T T.81, annex F), taken apart into blocks and written again.

A block's coefficients are Huffman symbols, each with the bits that follow it. Only the first of them depends on another
block, since DC coefficients are stored as differences. So blocks of two scans can be mixed exactly: nothing is
transformed or rounded, symbols are copied and DC differences are taken anew.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from artifusion.errors import SlideError

RESTART = re.compile(rb"\xff[\xd0-\xd7]")
END = b"\xff\xd9"

Huffman = tuple[tuple[bytes, bytes], ...]                   # DC and AC table per component: counts, then symbols


@dataclass(frozen=True)
class Layout:
    """What a header says of its scan."""

    huffman: Huffman
    components: tuple[int, ...]                             # of the blocks of one MCU, in order
    mcus: int
    restart: int = 0                                        # MCUs between restart markers; 0: there are none


@dataclass(frozen=True)
class Scan:
    """Blocks in their order."""

    components: np.ndarray                                  # (blocks,)
    lengths: np.ndarray                                     # (blocks,) symbols of each; the first is for DC
    dc: np.ndarray                                          # (blocks,) the coefficients, not their differences
    symbols: np.ndarray                                     # (symbols,) zeros before a coefficient * 16 + its bits
    extras: np.ndarray                                      # (symbols,) those bits


def read(data: bytes, layout: Layout) -> Scan:
    """Take a scan apart.

    Args:
        data: from the first entropy-coded byte on.

    Raises:
        SlideError: it ends too early, or holds a code that no table knows.
    """
    end = data.find(END)
    pieces = [piece.replace(b"\xff\0", b"\xff") for piece in RESTART.split(data[: end if end >= 0 else len(data)])]
    at, starts = _walk(pieces, layout)
    components = np.tile(np.array(layout.components), layout.mcus)
    lengths = np.diff(starts, append=len(at))
    padded = np.frombuffer(b"".join(pieces) + bytes(5), np.uint8).astype(np.uint64)
    bits = sum(padded[(at >> 3) + i] << np.uint64(32 - 8 * i) for i in range(5))                   # 40 of them
    bits = (bits >> (8 - (at & 7)).astype(np.uint64)).astype(np.int64) & 0xFFFFFFFF
    entry = _rows(components, lengths) << 16 | bits >> 16
    symbols, codes = (table.take(entry).astype(np.int64) for table in _decoder(layout.huffman))
    if not codes.all():
        raise SlideError("a Huffman code that no table holds")
    size = symbols & 15
    extras = bits >> (32 - codes - size) & ((1 << size) - 1)
    extra, size = extras[starts], size[starts]
    difference = np.where(extra >= (1 << size) >> 1, extra, extra - (1 << size) + 1)               # T.81, F.2.2.1
    dc = np.empty_like(difference)
    interval = np.arange(layout.mcus).repeat(len(layout.components)) // (layout.restart or layout.mcus)
    for component in range(len(layout.huffman)):
        own = components == component
        total = np.cumsum(difference[own])
        first = np.unique(interval[own], return_index=True)[1]
        dc[own] = total - (total - difference[own])[first][interval[own]]                          # restarts at zero
    return Scan(components, lengths, dc, symbols, extras)


def splice(old: Scan, new: Scan, taken: np.ndarray) -> Scan:
    """The old scan with its `taken` blocks, bool (blocks,), replaced by the blocks of the new one, one by one."""
    order = np.arange(len(old.dc))
    order[taken] = len(old.dc) + np.arange(np.count_nonzero(taken))
    lengths, symbols, extras, dc = (np.concatenate([getattr(old, name), getattr(new, name)])
                                    for name in ("lengths", "symbols", "extras", "dc"))
    first, picked = (np.cumsum(lengths) - lengths)[order], lengths[order]
    at = np.repeat(first - (np.cumsum(picked) - picked), picked) + np.arange(picked.sum())
    return Scan(old.components, picked, dc[order], symbols[at], extras[at])


def write(scan: Scan, huffman: Huffman) -> bytes:
    """A scan as entropy-coded data without restart markers, and the end marker.

    Raises:
        SlideError: the tables have no code for one of its symbols.
    """
    difference = np.empty_like(scan.dc)
    for component in range(len(huffman)):
        own = scan.components == component
        difference[own] = np.diff(scan.dc[own], prepend=0)
    size = np.frexp(np.abs(difference))[1].astype(np.int64)                   # bits of the magnitude
    first = np.cumsum(scan.lengths) - scan.lengths
    symbols, extras = scan.symbols.copy(), scan.extras.copy()
    symbols[first] = size
    extras[first] = np.where(difference < 0, difference + (1 << size) - 1, difference)
    row = _rows(scan.components, scan.lengths)
    codes, lengths = (table[row, symbols] for table in _encoder(huffman))
    if not lengths.all():
        raise SlideError("the Huffman tables lack a symbol")
    size = symbols & 15
    return _packed(codes << size | extras, lengths + size).replace(b"\xff", b"\xff\0") + END


def _walk(pieces: list[bytes], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Bit positions of all symbols in the pieces' bytes, and which of them begin a block.

    The only loop over symbols: what the bits at each position mean is looked up for all positions beforehand.
    """
    interval = layout.restart or layout.mcus
    if len(pieces) != -(-layout.mcus // interval):
        raise SlideError(f"{len(pieces)} restart intervals for {layout.mcus} MCUs")
    padded = np.frombuffer(b"".join(pieces) + bytes(2), np.uint8).astype(np.uint32)
    bits = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    windows = np.empty((len(bits), 8), np.uint16)            # the 16 bits from each position on
    for bit in range(8):
        windows[:, bit] = bits >> 8 - bit & 0xFFFF
    steps = {table: [step.take(windows.ravel()).tobytes() for step in _steps(table)]
             for table in {table for tables in layout.huffman for table in tables}}
    blocks = [(steps[layout.huffman[c][0]][0], *steps[layout.huffman[c][1]]) for c in layout.components]
    at, starts, end = array("q"), array("q"), 0
    try:
        for number, piece in enumerate(pieces):
            position, end = end, end + 8 * len(piece)
            for _ in range(min(interval, layout.mcus - number * interval)):
                for dc_bits, ac_bits, ac_coefficients in blocks:
                    starts.append(len(at))
                    at.append(position)
                    position += dc_bits[position]
                    done = 1
                    while done < 64:
                        at.append(position)
                        done += ac_coefficients[position]
                        position += ac_bits[position]
            if position > end:
                raise IndexError
    except IndexError:
        raise SlideError("entropy-coded data ends too early") from None
    return np.frombuffer(at, np.int64), np.frombuffer(starts, np.int64)


def _rows(components: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(symbols,) the table of each: 2 * component, and one more for AC."""
    row = np.repeat(2 * components + 1, lengths)
    row[np.cumsum(lengths) - lengths] -= 1
    return row


def _packed(values: np.ndarray, lengths: np.ndarray) -> bytes:
    """Numbers as bits, one behind the other, filled up with ones."""
    ends = np.cumsum(lengths, dtype=np.uint32)
    shift = np.repeat(ends, lengths) - np.arange(ends[-1], dtype=np.uint32) - np.uint32(1)
    bits = (np.repeat(values.astype(np.uint32), lengths) >> shift).astype(np.uint8) & 1
    return np.packbits(np.pad(bits, (0, -len(bits) % 8), constant_values=1)).tobytes()


def _codes(table: bytes) -> list[tuple[int, int, int]]:
    """(symbol, code, bits of the code) of a DHT table: counts of codes with 1 to 16 bits, then their symbols."""
    found, code, at = list[tuple[int, int, int]](), 0, 16
    for length, count in enumerate(table[:16], 1):
        if code + count > 1 << length:
            raise SlideError("a Huffman table with too many codes")
        found += [(table[at + i], code + i, length) for i in range(count)]
        code, at = code + count << 1, at + count
    return found


@lru_cache(maxsize=16)
def _lookup(table: bytes) -> tuple[np.ndarray, np.ndarray]:
    """By the next 16 bits, uint8: the symbol, and the bits of its code (0: none begins so)."""
    symbols, lengths = np.zeros((2, 1 << 16), np.uint8)
    for symbol, code, length in _codes(table):
        where = slice(code << 16 - length, code + 1 << 16 - length)
        symbols[where], lengths[where] = symbol, length
    return symbols, lengths


@lru_cache(maxsize=16)
def _steps(table: bytes) -> tuple[np.ndarray, np.ndarray]:
    """By the next 16 bits, uint8: bits to the next symbol, and coefficients that this one stands for."""
    symbols, lengths = _lookup(table)
    run, size = symbols >> 4, symbols & 15
    coefficients = np.where((lengths == 0) | ((size == 0) & (run < 15)), 64, run + 1)              # end of block
    return (lengths + size).astype(np.uint8), coefficients.astype(np.uint8)


@lru_cache(maxsize=8)
def _decoder(huffman: Huffman) -> tuple[np.ndarray, np.ndarray]:
    """By the table's number and the next 16 bits: as _lookup."""
    symbols, lengths = zip(*(_lookup(table) for tables in huffman for table in tables), strict=True)
    return np.concatenate(symbols), np.concatenate(lengths)


@lru_cache(maxsize=8)
def _encoder(huffman: Huffman) -> tuple[np.ndarray, np.ndarray]:
    """(table, symbol): its code, and the bits of it (0: it has none)."""
    codes, lengths = np.zeros((2, 2 * len(huffman), 256), np.int64)
    for row, table in enumerate(table for tables in huffman for table in tables):
        for symbol, code, length in _codes(table):
            codes[row, symbol], lengths[row, symbol] = code, length
    return codes, lengths

"""Entropy-coded scans of baseline JPEG (ITU-T T.81, annex F), taken apart into blocks and written again.

A block's coefficients are Huffman symbols, each with the bits that follow it. Only the first of them depends on another
block, since DC coefficients are stored as differences. So blocks of two scans can be mixed exactly: nothing is
transformed or rounded, the bits of AC coefficients are copied and DC differences are taken anew.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from artifusion.errors import SlideError

RESTART = re.compile(rb"\xff[\xd0-\xd7]")
END = b"\xff\xd9"
LAST, UNKNOWN = 128, 255                                    # in place of coefficients: the block's end, no code
MOST = 48                                                   # coefficients after which a leap takes in no more symbols

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
    """Blocks in their order; each begins with its DC difference."""

    components: np.ndarray                                  # (blocks,)
    dc: np.ndarray                                          # (blocks,) the coefficients
    differences: np.ndarray                                 # (blocks,) as they are coded in `bits`
    bits: np.ndarray                                        # (bits,) uint8, 0 or 1
    begins: np.ndarray                                      # (blocks,) where in `bits` each block begins,
    ac: np.ndarray                                          # the codes of its AC coefficients begin,
    ends: np.ndarray                                        # and it ends


def read(data: bytes, layout: Layout, huffman: Huffman | None = None) -> Scan:
    """Take a scan apart, with its bits in the codes of these tables (default: its own).

    Args:
        data: from the first entropy-coded byte on.

    Raises:
        SlideError: it ends too early, holds a code that no table knows, or the tables lack one of its symbols.
    """
    end = data.find(END)
    pieces = [piece.replace(b"\xff\0", b"\xff") for piece in RESTART.split(data[: end if end >= 0 else len(data)])]
    joined = np.frombuffer(b"".join(pieces), np.uint8)
    windows = _windows(joined)
    huffman = huffman or layout.huffman
    positions, again = array("q"), huffman != layout.huffman
    known = array("H", windows[:-16].tobytes())             # an array is indexed many times faster than numpy's
    walk = _steps_walk(known, layout, positions) if again else _leaps_walk(known, layout)
    begins, ends = _walk(walk, [8 * len(piece) for piece in pieces], layout)
    components = np.tile(np.array(layout.components), layout.mcus)
    size, extra, ac = _decoded(windows, begins, 2 * components, layout.huffman)
    differences = np.where(extra >= (1 << size) >> 1, extra, extra - (1 << size) + 1)              # T.81, F.2.2.1
    dc = np.empty_like(differences)
    for component in range(len(layout.huffman)):
        own = components == component
        total = np.cumsum(differences[own])
        count = layout.components.count(component) * (layout.restart or layout.mcus)
        first = np.arange(len(total)) // count * count
        dc[own] = total - (total - differences[own])[first]                                        # restarts at zero
    found = Scan(components, dc, differences, np.unpackbits(joined), begins, ac, ends)
    return _coded_anew(found, windows, np.array(positions), layout.huffman, huffman) if again else found


def _coded_anew(scan: Scan, windows: np.ndarray, at: np.ndarray, before: Huffman, huffman: Huffman) -> Scan:
    """A scan with its bits in the codes of other tables; `at`: where in `windows` its symbols are."""
    counts = np.diff(np.searchsorted(at, scan.begins), append=len(at))
    first = np.cumsum(counts) - counts
    row = np.repeat(2 * scan.components + 1, counts)
    row[first] -= 1                                         # a block's first symbol is for DC
    symbols, extras, _ = _decoded(windows, at, row, before)
    values, lengths = _coded(symbols, extras, row, huffman)
    stops = np.cumsum(lengths)
    return replace(scan, bits=_bits(values, lengths), begins=(stops - lengths)[first], ac=stops[first],
                   ends=stops[first + counts - 1])


def splice(old: Scan, new: Scan, taken: np.ndarray) -> Scan:
    """The old scan with its `taken` blocks, bool (blocks,), replaced by the blocks of the new one, one by one."""
    order = np.arange(len(old.dc))
    order[taken] = len(old.dc) + np.arange(np.count_nonzero(taken))
    dc, differences, begins, ac, ends = (
        np.concatenate([getattr(old, name), getattr(new, name) + behind])[order] for name, behind in
        (("dc", 0), ("differences", 0), ("begins", len(old.bits)), ("ac", len(old.bits)), ("ends", len(old.bits))))
    return Scan(old.components, dc, differences, np.concatenate([old.bits, new.bits]), begins, ac, ends)


def write(scan: Scan, huffman: Huffman) -> bytes:
    """A scan as entropy-coded data without restart markers, and the end marker; in the tables it was read with.

    Raises:
        SlideError: the tables have no code for one of its DC differences.
    """
    differences = np.empty_like(scan.dc)
    for component in range(len(huffman)):
        own = scan.components == component
        differences[own] = np.diff(scan.dc[own], prepend=0)
    anew = np.flatnonzero(differences != scan.differences)
    difference = differences[anew]
    size = np.frexp(np.abs(difference))[1].astype(np.int64)                   # bits of the magnitude
    extras = np.where(difference < 0, difference + (1 << size) - 1, difference)
    values, lengths = _coded(size, extras, 2 * scan.components[anew], huffman)
    bits, stops = np.concatenate([scan.bits, _bits(values, lengths)]), len(scan.bits) + np.cumsum(lengths)
    kept = scan.begins.copy()
    kept[anew] = scan.ac[anew]
    begins, ends = np.insert(kept, anew, stops - lengths), np.insert(scan.ends, anew, stops)
    first = np.flatnonzero(np.append(True, begins[1:] != ends[:-1]))          # blocks in a row are copied as one
    last = np.append(first[1:], len(ends)) - 1
    runs = [bits[start:stop] for start, stop in zip(begins[first].tolist(), ends[last].tolist(), strict=True)]
    written = np.concatenate([*runs, np.ones(-(ends - begins).sum() % 8, np.uint8)])
    return np.packbits(written).tobytes().replace(b"\xff", b"\xff\0") + END


def _windows(data: np.ndarray) -> np.ndarray:
    """The 16 bits from each bit of some bytes on, and from 16 more."""
    padded = np.pad(data, (0, 4)).astype(np.uint32)
    bits = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    windows = np.empty((len(bits), 8), np.uint16)
    for bit in range(8):
        windows[:, bit] = bits >> 8 - bit
    return windows.ravel()


Walk = Callable[[int, int], list[int]]                      # (first bit, MCUs) -> where each of their blocks ends


def _walk(walk: Walk, lengths: list[int], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Where each block begins and ends, in pieces of so many bits."""
    interval = layout.restart or layout.mcus
    if len(lengths) != -(-layout.mcus // interval):
        raise SlideError(f"{len(lengths)} restart intervals for {layout.mcus} MCUs")
    begins, ends, start = list[int](), list[int](), 0
    try:
        for number, length in enumerate(lengths):
            found = walk(start, min(interval, layout.mcus - number * interval))
            begins += [start, *found[:-1]]
            ends += found
            start += length
            if found[-1] > start:
                raise IndexError
    except IndexError:
        raise SlideError("entropy-coded data ends too early") from None
    return np.array(begins), np.array(ends)


def _leaps_walk(windows: array, layout: Layout) -> Walk:
    """A walk in leaps, each over all symbols that 16 bits tell of."""
    tables = [(*_leaps(dc, ac, True), *_leaps(ac, ac)) for dc, ac in layout.huffman]
    blocks = [(*tables[component], _steps_walk(windows, replace(layout, components=(component,)), array("q")))
              for component in layout.components]

    def walk(at: int, mcus: int) -> list[int]:
        ends = []
        for _ in range(mcus):
            for first_bits, first_coefficients, bits, coefficients, singly in blocks:
                begin, window = at, windows[at]
                at += first_bits[window]
                done = first_coefficients[window]
                while done < 64:
                    window = windows[at]
                    at += bits[window]
                    done += coefficients[window]
                if not LAST < done < LAST + 64:             # full, with no symbol for its end: a leap may go beyond it
                    (at,) = singly(begin, 1)
                ends.append(at)
        return ends

    return walk


def _steps_walk(windows: array, layout: Layout, positions: array) -> Walk:
    """A walk symbol by symbol, whose positions it appends."""
    tables = [(_steps(dc, True)[0], *_steps(ac)) for dc, ac in layout.huffman]
    blocks = [tables[component] for component in layout.components]

    def walk(at: int, mcus: int) -> list[int]:
        ends = []
        for _ in range(mcus):
            for first_bits, bits, coefficients in blocks:
                positions.append(at)
                at += first_bits[windows[at]]
                done = 1
                while done < 64:
                    positions.append(at)
                    window = windows[at]
                    at += bits[window]
                    done += coefficients[window]
                    if done > UNKNOWN:
                        raise SlideError("a Huffman code that no table holds")
                ends.append(at)
        return ends

    return walk


def _decoded(windows: np.ndarray, at: np.ndarray, row: np.ndarray, huffman: Huffman
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Symbols at these bits, each by its row of tables, the bits that follow it as a number, and where they end."""
    entry = row << 16 | windows[at]
    symbols, codes = (table.take(entry).astype(np.int64) for table in _decoder(huffman))
    if not codes.all():
        raise SlideError("a Huffman code that no table holds")
    size = symbols & 15
    bits = windows[at].astype(np.int64) << 16 | windows[at + 16]
    return symbols, bits >> 32 - codes - size & (1 << size) - 1, at + codes + size


def _coded(symbols: np.ndarray, extras: np.ndarray, row: np.ndarray, huffman: Huffman
           ) -> tuple[np.ndarray, np.ndarray]:
    """Codes of symbols with the bits that follow them, and how many bits these are together."""
    codes, lengths = (table[row, symbols] for table in _encoder(huffman))
    if not lengths.all():
        raise SlideError("the Huffman tables lack a symbol")
    return codes << (symbols & 15) | extras, lengths + (symbols & 15)


def _bits(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Numbers as bits, one behind the other: uint8, 0 or 1."""
    ends = np.cumsum(lengths, dtype=np.uint32)
    shift = np.repeat(ends, lengths) - np.arange(lengths.sum(), dtype=np.uint32) - np.uint32(1)
    return (np.repeat(values.astype(np.uint32), lengths) >> shift).astype(np.uint8) & 1


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
def _steps(table: bytes, dc: bool = False) -> tuple[bytes, bytes]:
    """By the next 16 bits: bits to the next symbol, and coefficients that this one stands for."""
    symbols, lengths = _lookup(table)
    run, size = symbols >> 4, symbols & 15
    coefficients = np.ones_like(run) if dc else np.where((size == 0) & (run < 15), LAST, run + 1).astype(np.uint8)
    return (lengths + size).tobytes(), np.where(lengths, coefficients, np.uint8(UNKNOWN)).tobytes()


@lru_cache(maxsize=16)
def _leaps(first: bytes, then: bytes, dc: bool = False) -> tuple[bytes, bytes]:
    """By the next 16 bits: the bits of all symbols whose codes lie within them, and the coefficients these stand for.

    Up to the end of the block, which counts for LAST besides, or some MOST coefficients.
    """
    bits, coefficients = (np.frombuffer(values, np.uint8).copy() for values in _steps(first, dc))
    more_bits, more_coefficients = (np.frombuffer(values, np.uint8) for values in _steps(then))
    codes, window = _lookup(then)[1], np.arange(1 << 16)
    while len(window):
        rest = window << bits[window] & 0xFFFF
        known = (codes[rest] > 0) & (codes[rest] + bits[window] <= 16) & (coefficients[window] < MOST)
        window, rest = window[known], rest[known]
        bits[window] += more_bits[rest]
        coefficients[window] += more_coefficients[rest]
    return bits.tobytes(), coefficients.tobytes()


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

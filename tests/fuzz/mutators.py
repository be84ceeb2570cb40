"""Bytes -> bytes with something wrong in them; every mutator knows the structure of one kind of file.

A mutator takes a file's content and a random generator and gives another content, which depends on nothing else.
"""

from __future__ import annotations

import io
import json
import tarfile
import tomllib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator
Mutator = Callable[[bytes, Rng], bytes]

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 64, 100, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 50000,
           65535, 65536, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1,
           1 << 63, (1 << 64) - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, 1e-9, -0.0, 1e9, 1e308, float("nan"), float("inf"), -float("inf"),
    10**30,
    2**31, 2**53, 2**63, "", "a", "nan", "0", "-1", "1e400", "x" * 5000, "é\u202e\x1b[31m\0\n", "\ud800", [], {}, [[]],
    [None], [1, 2], {"a": 1}, {"type": "Polygon"}, [[0, 0], [1, 1]], "../../etc/passwd", "/",
    ".", "fold", "he-small")
TEXTS = (b"\0", b"\n", b"|", b"=", b"MPP = nan", b"MPP = -1", b"MPP = 1e999", b"MPP = 0", b"|AppMag = inf", b"\xff\xfe",
         b"<?xml", b"</OME>", b"<OME/>", b"{}", b'{"shape": [1]}', b"ImageJ=1.5\nimages=9", b"\x1b[2J", b"%s%n",
         b"\xc3", b"Aperio", b"Leica", b"shape=(9,9,3)", b"999999999999x1 [0,0 1x1] (1x1)")


def pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def number(rng: Rng, old: int, size: int) -> int:
    """Another number of so many bytes: one that programs trip over, or near the old one."""
    near = (old + 1, old - 1, old * 2, old // 2, old ^ (1 << int(rng.integers(8 * size))), int(rng.integers(1 << 16)))
    return int(pick(rng, NUMBERS) if rng.random() < 0.5 else pick(rng, near)) % (1 << 8 * size)


def plain(data: bytes, rng: Rng) -> bytes:
    """Bytes changed without any knowledge: flipped, overwritten, moved, cut, repeated."""
    for _ in range(int(rng.integers(1, 5))):
        if not data:
            return bytes(rng.integers(0, 256, 16, np.uint8))
        at, length = int(rng.integers(len(data))), int(min(2 ** rng.integers(0, 10), len(data)))
        if (how := int(rng.integers(9))) == 0:
            data = data[:at]
        elif how == 1:
            data = data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
        elif how == 2:
            data = data[:at] + bytes(rng.integers(0, 256, length, np.uint8)) + data[at + length :]
        elif how == 3:
            data = data[:at] + bytes(length) + data[at + length :]
        elif how == 4:
            data = data[:at] + data[at + length :]
        elif how == 5:
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif how == 6:
            other = int(rng.integers(len(data)))
            data = data[:at] + data[other : other + length] + data[at + length :]
        elif how == 7:
            data = data[:at] + pick(rng, (b"\xff", b"\0", b"\xff\xd9", b"\xff\xd8", *TEXTS)) + data[at:]
        else:
            size, order = int(pick(rng, (1, 2, 4, 8))), pick(rng, ("little", "big"))
            old = int.from_bytes(data[at : at + size], order)
            data = data[:at] + number(rng, old, size).to_bytes(size, order) + data[at + size :]
    return data


# TIFF

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
CODES = (254, 255, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 283, 284, 296, 305, 317, 320, 322,
         323, 324, 325, 330, 338, 339, 347, 513, 530, 531, 532, 32997, 33550, 34665, 34675, 65000)
COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 33003, 33004, 33005, 34712, 34887, 34925, 50000, 50001, 0, 65535)


class Field:
    """A number in a TIFF file: where, how long, and of which tag."""

    def __init__(self, at: int, size: int, code: int = 0, part: str = "") -> None:
        self.at, self.size, self.code, self.part = at, size, code, part


def tiff_fields(data: bytes) -> tuple[str, list[Field], list[dict[int, tuple[int, int, int]]]]:
    """The byte order, every number of the structure, and per directory (place, type, count) of every tag's values."""
    order = "little" if data[:2] == b"II" else "big"
    big = int.from_bytes(data[2:4], order) == 43

    def read(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    word, entry_bytes, head = (8, 20, 8) if big else (4, 12, 2)
    pointer = 8 if big else 4
    fields, pages = [Field(2, 2, part="version"), Field(pointer, word, part="next")], []
    offset = read(pointer, word)
    while offset and offset + head <= len(data) and len(pages) < 20:
        count = read(offset, head)
        fields.append(Field(offset, head, part="entries"))
        tags: dict[int, tuple[int, int, int]] = {}
        for at in range(offset + head, offset + head + min(count, 100) * entry_bytes, entry_bytes):
            code, kind, items = read(at, 2), read(at + 2, 2), read(at + 4, word)
            place = at + 4 + word
            if TYPE_BYTES.get(kind, 1) * items > word:
                fields.append(Field(place, word, code, "place"))
                place = read(place, word)
            tags[code] = (place, kind, items)
            fields += [Field(at, 2, code, "code"), Field(at + 2, 2, code, "type"), Field(at + 4, word, code, "count")]
            fields += [Field(place + i * TYPE_BYTES.get(kind, 1), TYPE_BYTES.get(kind, 1), code, "value")
                       for i in range(min(items, 6 if kind in (2, 7, 1) else 40)) if kind in TYPE_BYTES]
        end = offset + head + count * entry_bytes
        fields.append(Field(end, word, part="next"))
        pages.append(tags)
        offset = read(end, word)
    return order, [field for field in fields if field.at + field.size <= len(data)], pages


def tiff(data: bytes, rng: Rng) -> bytes:
    """A TIFF file with a few numbers of its structure, or texts of its tags, changed."""
    order, fields, pages = tiff_fields(data)
    changed = bytearray(data)
    starts = [int.from_bytes(data[f.at : f.at + f.size], order) for f in fields if f.part == "next"]
    for _ in range(int(rng.choice((1, 1, 1, 2, 3)))):
        code = pick(rng, sorted({field.code for field in fields}))     # the many numbers of offsets count as one
        field = pick(rng, [field for field in fields if field.code == code])
        old = int.from_bytes(changed[field.at : field.at + field.size], order)
        new = number(rng, old, field.size)
        if field.part == "next" and rng.random() < 0.5:
            new = pick(rng, starts)
        elif field.part == "code" and rng.random() < 0.8:
            new = pick(rng, CODES)
        elif field.part == "type":
            new = int(rng.integers(20))
        elif field.part == "value" and field.code == 259:
            new = pick(rng, COMPRESSIONS)
        elif field.part == "value" and rng.random() < 0.1:
            new = pick(rng, (len(data), len(data) - 1, *(place for tags in pages for place, *_ in tags.values())))
        changed[field.at : field.at + field.size] = (new % (1 << 8 * field.size)).to_bytes(field.size, order)
    texts = [tags[270] for tags in pages if 270 in tags and tags[270][2] > 40]
    if texts and rng.random() < 0.15:
        place, _, count = pick(rng, texts)
        text = pick(rng, TEXTS)
        at = place + int(rng.integers(count - len(text) + 1)) if count > len(text) else place
        changed[at : at + len(text)] = text
    if rng.random() < 0.05:
        return plain(bytes(changed), rng)
    return bytes(changed)


def tiff_segment(data: bytes, rng: Rng) -> bytes:
    """A TIFF file with one of its segments broken: its stream stands at the end of the file."""
    order, _, pages = tiff_fields(data)
    places = []
    for tags in pages:
        offsets, counts = tags.get(324, tags.get(273)), tags.get(325, tags.get(279))
        if offsets and counts and TYPE_BYTES.get(offsets[1]) and TYPE_BYTES.get(counts[1]):
            sizes = TYPE_BYTES[offsets[1]], TYPE_BYTES[counts[1]]
            places += [(offsets[0] + i * sizes[0], sizes[0], counts[0] + i * sizes[1], sizes[1])
                       for i in range(offsets[2])]
    if not places:
        return plain(data, rng)
    changed = bytearray(data)
    for _ in range(int(rng.choice((1, 1, 3, 10)))):
        streams = []
        for _ in range(2):
            at, size, counted, width = pick(rng, places)
            start = int.from_bytes(changed[at : at + size], order)
            streams.append(bytes(changed[start : start + int.from_bytes(changed[counted : counted + width], order)]))
        stream = broken_stream(streams[1], rng) if rng.random() < 0.9 else streams[0]
        if len(stream) < 1 << 8 * width:
            changed[counted : counted + width] = len(stream).to_bytes(width, order)
            changed[at : at + size] = len(changed).to_bytes(size, order)
            changed += stream
    return bytes(changed)


def broken_stream(stream: bytes, rng: Rng) -> bytes:
    if stream[:2] == b"\xff\xd8" or stream[:4] == b"\xff\x4f\xff\x51":
        return markers(stream, rng)
    if stream[:1] == b"\x78" and rng.random() < 0.5:        # zlib: its checksum is right, its length is not
        try:
            return zlib.compress(plain(zlib.decompress(stream), rng))
        except zlib.error:
            pass
    return plain(stream, rng)


def markers(data: bytes, rng: Rng) -> bytes:
    """A JPEG or JPEG 2000 stream with its marker segments or its entropy-coded data changed."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0x93):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at : at + 2 + length])
        at += 2 + length
    rest = data[at:]
    how = int(rng.integers(7))
    if not segments or how == 0:
        return data[:at] + plain(rest, rng)
    chosen = int(rng.integers(len(segments)))
    segment = segments[chosen]
    if how == 1:
        segments.insert(int(rng.integers(len(segments) + 1)), segment)
    elif how == 2:
        del segments[chosen]
    elif how == 3:
        segments[chosen] = segment[:1] + bytes([int(pick(rng, (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xC4, 0xDB, 0xDD, 0xE0,
                                                               0xEE, 0xFE, 0xDA, 0x52, 0x5C, 0x64)))]) + segment[2:]
    elif how == 4 and len(segment) > 4:
        place, size = int(rng.integers(2, len(segment))), int(pick(rng, (1, 2, 4)))
        old = int.from_bytes(segment[place : place + size], "big")
        new = number(rng, old, size).to_bytes(size, "big")
        segments[chosen] = (segment[:place] + new + segment[place + size :])[: len(segment)]
    elif how == 5:
        body = plain(segment[4:], rng)[:65000]
        segments[chosen] = segment[:2] + (len(body) + 2).to_bytes(2, "big") + body
    else:
        rest = rest[: int(rng.integers(len(rest) + 1))] + pick(rng, (b"", b"\xff\xd9", b"\xff\xd0", b"\xff\xff"))
    return data[:2] + b"".join(segments) + rest


# Files of other forms

def png(data: bytes, rng: Rng) -> bytes:
    """A PNG with a chunk changed, left out or repeated; its checksums are right."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = int(rng.integers(len(chunks))) if rng.random() < 0.6 else 0
    name, body = chunks[which]
    how = int(rng.integers(6))
    if how == 0:
        return plain(data, rng)
    if how == 1:
        chunks.insert(int(rng.integers(len(chunks) + 1)), (name, body))
    elif how == 2:
        del chunks[which]
    elif how == 3 and name == b"IDAT":
        try:
            body = zlib.compress(plain(zlib.decompress(body), rng))
        except zlib.error:
            body = plain(body, rng)
        chunks[which] = name, body
    elif how == 4:
        words = b"artifusion.classes\0" + pick(rng, (*TEXTS, b'{"fold": 1, "pen": 1e9}', b'{"x": true}'))
        extra = pick(rng, ((b"tEXt", words), (b"tRNS", b"\0\0"), (b"gAMA", bytes(4)), (b"acTL", bytes(8)),
                           (b"eXIf", b"MM\0*" + bytes(20)), (b"iCCP", b"a\0\0" + bytes(9)),
                           (b"pHYs", b"\0\0\0\0\0\0\0\1\1"), (b"PLTE", bytes(9)), (b"zTXt", b"a\0\0x")))
        chunks.insert(int(rng.integers(1, len(chunks) + 1)), extra)
    elif body:
        place, size = int(rng.integers(len(body))), int(pick(rng, (1, 2, 4)))
        new = number(rng, int.from_bytes(body[place : place + size], "big"), size).to_bytes(size, "big")
        chunks[which] = name, (body[:place] + new + body[place + size :])[: len(body)]
    return data[:8] + b"".join(len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
                               for name, body in chunks)


def image(data: bytes, rng: Rng) -> bytes:
    """Any picture, by its first bytes."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return png(data, rng)
    if data[:2] == b"\xff\xd8":
        return markers(data, rng)
    if data[:2] in (b"II", b"MM"):
        return tiff(data, rng) if rng.random() < 0.7 else tiff_segment(data, rng)
    return plain(data, rng)


def changed_tree(tree: Any, rng: Rng) -> Any:
    """Nested dictionaries and lists with one value, key or item changed; what is given is changed in place."""
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key in (list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()):
            places.append((node, key))
            collect(node[key])

    collect(tree)
    if not places:
        return pick(rng, VALUES)
    node, key = pick(rng, places)
    how = int(rng.integers(8))
    if isinstance(node[key], int | float) and rng.random() < 0.5:
        node[key] = pick(rng, (0, 1, -1, 2, node[key] * 2, node[key] * 2, node[key] // 2, node[key] + 1, node[key] * 4,
                               node[key] / 2, 1000, 10**6))
    elif how == 0:
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node[pick(rng, ("", "type", "unknown", "Type", key + " ", key.upper()))] = node.pop(key)
    elif how == 2 and isinstance(node, list):
        node.extend([node[key]] * int(rng.integers(1, 40)))
    elif how == 3:
        other, its_key = pick(rng, places)
        node[key] = json.loads(json.dumps(other.get(its_key) if isinstance(other, dict) else other[key % len(other)]
                                          if isinstance(key, int) else None))
    elif how == 4 and isinstance(node[key], int | float):
        node[key] = pick(rng, (-node[key], node[key] * 1e6, str(node[key]), [node[key]], node[key] + 0.5))
    else:
        node[key] = pick(rng, VALUES)
    return tree


def json_text(data: bytes, rng: Rng) -> bytes:
    """JSON with values, keys or its text changed."""
    if (how := rng.random()) < 0.15:
        return plain(data, rng)
    if how < 0.2:
        return bytes(pick(rng, (b"", b"null", b"[]", b"{}", b"0", b'"a"', b"[" * 5000, b'{"a":' * 5000, b"NaN",
                                b"\0" * 99, b"9" * 5000, b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"),
                                data + data, data[:-2])))
    tree = json.loads(data)
    for _ in range(int(rng.choice((1, 1, 2, 4)))):
        tree = changed_tree(tree, rng)
    return json.dumps(tree).encode()


def toml(data: bytes, rng: Rng) -> bytes:
    """TOML with values, keys or its text changed."""
    if rng.random() < 0.25:
        return plain(data, rng)
    tree = tomllib.loads(data.decode())
    for _ in range(int(rng.choice((1, 1, 2, 4)))):
        tree = changed_tree(tree, rng)
    return toml_of(tree).encode("utf-8", "surrogatepass")


def toml_of(value: Any, top: bool = True) -> str:
    """Nearly TOML: what it cannot hold becomes what people write by mistake."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(str(key))} = {toml_of(inner, False)}" for key, inner in value.items()]
        return "\n".join(pairs) + "\n" if top else "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml_of(inner, False) for inner in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def safetensors(data: bytes, rng: Rng) -> bytes:
    """A safetensors file with its header, its length or its numbers changed."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    how = int(rng.integers(6))
    if how == 0:
        return plain(data, rng)
    if how == 1:
        return number(rng, length, 8).to_bytes(8, "little") + data[8:]
    if how == 2:
        header = json_text(header, rng)
    elif how == 3:
        tensors = json.loads(header)
        about = tensors[pick(rng, [name for name in tensors if name != "__metadata__"])]
        about["dtype"] = pick(rng, ("F64", "F32", "BF16", "I64", "I8", "BOOL", "F8_E4M3", "C64", "U16", "x"))
        header = json.dumps(tensors).encode()
    elif how == 4:
        values = np.frombuffer(body[: len(body) // 2 * 2], np.float16).copy()
        values[rng.integers(len(values), size=int(rng.integers(1, 50)))] = pick(rng, (np.nan, np.inf, -np.inf, 6e4))
        body = values.tobytes()
    else:
        body = plain(body, rng)
    return len(header).to_bytes(8, "little") + header + body


def tar(data: bytes, rng: Rng) -> bytes:
    """A tar of tiles with a member or a header changed, left out or repeated; header checksums are right."""
    if (how := int(rng.integers(5))) == 0:
        return plain(data, rng)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive]       # type: ignore[union-attr]
    which = int(rng.integers(len(members)))
    info, content = members[which]
    if how == 1:
        members[which] = info, (json_text if info.name.endswith("json") else image)(content, rng)
    elif how == 2:
        del members[which]
    elif how == 3:
        members.insert(int(rng.integers(len(members) + 1)), members[which])
    else:
        for attribute in rng.choice(("name", "type", "mtime", "mode", "pax_headers", "linkname"), 2):
            value = {"name": pick(rng, ("", "a.jpg", "../../a.jpg", "/a.json", "é" * 200, "a\nb.jpg", ".jpg",
                                        "a/b/c.json")),
                     "type": pick(rng, (b"1", b"2", b"3", b"5", b"6", b"7", b"S", b"x", b"g", b"L", b"Z")),
                     "mtime": -1, "mode": 0, "linkname": "a.jpg",
                     "pax_headers": {pick(rng, ("size", "path", "GNU.sparse.map", "hdrcharset")): pick(
                         rng, ("-1", "x", "1", "999999999999", "0,1,5"))}}[attribute]
            setattr(info, attribute, value)
        info.size = len(content)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, body in members:
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    if how == 4 and rng.random() < 0.5:
        return tar_numbers(out.getvalue(), rng)
    return out.getvalue()


def tar_numbers(data: bytes, rng: Rng) -> bytes:
    """A tar whose first header tells another size; its checksum is right."""
    head = bytearray(data[:512])
    head[124:136] = pick(rng, (b"777777777777", b"00000000000\0", b"-0000000001\0", b"\x80" + bytes(10) + b"\x01",
                               b"\xff" * 12, b"xxxxxxxxxxxx"))
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


def csv(data: bytes, rng: Rng) -> bytes:
    """A CSV table with a cell, a row or its text changed."""
    if rng.random() < 0.3:
        return plain(data, rng)
    rows = [line.split(",") for line in data.decode().splitlines()]
    row = pick(rng, rows)
    place = int(rng.integers(len(row)))
    if (how := int(rng.integers(5))) == 0:
        del row[place]
    elif how == 1:
        row.insert(place, pick(rng, ("", "x", '"', "1")))
    elif how == 2:
        rows.insert(int(rng.integers(len(rows) + 1)), row)
    elif how == 3:
        rows.remove(row)
    else:
        row[place] = pick(rng, ("", "nan", "inf", "-1", "1e999", "x", '"', "\0", "é", "9" * 400, "0x10", " 1", "1;2"))
    return "\n".join(",".join(row) for row in [*rows, [""]]).encode()


def packed(data: bytes, rng: Rng) -> bytes:
    """A gzip or zip file, changed without knowledge."""
    return plain(data, rng)



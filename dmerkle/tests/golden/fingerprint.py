"""Makes fingerprint.txt, the golden vectors of the fingerprint, from its definition alone.

    pip install blake3; python3 fingerprint.py > fingerprint.txt

Line by line: what, then its fields. Fingerprints are numbers (u128) in hexadecimal. A part is
`length+first`: bytes first, first + 7, first + 14, ... modulo 251.
"""
from blake3 import blake3

PUBLIC = b"dynomite public fingerprint key."
SECRET = bytes(range(32))

ENTRIES = [
    (b"", b"", []),
    (b"key", b"", [(5, 0)]),
    (b"key", b"", [(5, 1)]),
    (b"ke", b"y", [(5, 0)]),
    (b"key", b"meta", []),
    (b"key", b"meta", [(0, 0)]),
    (b"key", b"meta", [(0, 0), (0, 0)]),
    (b"key", b"meta", [(3, 0), (2, 21)]),
    (b"inline", b"", [(1024, 5)]),
    (b"hashed", b"", [(1025, 5)]),
    (b"two", b"\x00\xff", [(70000, 9), (10, 9)]),
    (b"k" * 4096, b"m" * 1024, [(1, 1)] * 255),
]


def part_bytes(part):
    length, first = part
    return bytes((first + 7 * i) % 251 for i in range(length))


def fingerprint(secret, key, meta, parts):
    data = b"\x01" + len(key).to_bytes(4, "little") + key
    data += len(meta).to_bytes(4, "little") + meta + bytes([len(parts)])
    for part in map(part_bytes, parts):
        data += len(part).to_bytes(8, "little")
        data += part if len(part) <= 1024 else blake3(part).digest()
    return int.from_bytes(blake3(data, key=secret).digest()[:16], "little")


def main():
    for name, secret in (("public", PUBLIC), ("secret", SECRET)):
        derived = blake3(secret, derive_key_context="dynomite fingerprint key id").digest()
        print("key-id", name, f"{int.from_bytes(derived[:8], 'little'):016x}")
    for part in ((0, 0), (1, 0), (1025, 5), (70000, 9)):
        print("part-hash", "%d+%d" % part, blake3(part_bytes(part)).hexdigest())
    totals = [0, 0]
    for key, meta, parts in ENTRIES:
        both = [fingerprint(secret, key, meta, parts) for secret in (PUBLIC, SECRET)]
        totals = [(total + one) % 2**128 for total, one in zip(totals, both)]
        listed = ",".join("%d+%d" % part for part in parts)
        print("entry", key.hex() or "-", meta.hex() or "-", listed or "-", *(f"{one:032x}" for one in both))
    print("sum", *(f"{total:032x}" for total in totals))


main()

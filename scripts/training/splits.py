"""Mails to splits, without duplicates on both sides of one."""

import hashlib
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np

SEED = 20021015
SHINGLE_WORDS = 4
PERMUTATIONS = 96
BANDS = 24
SIMILARITY = 0.6


def words(text):
    return re.findall(r"\w+", text.lower())


def signature(tokens, coefficients):
    """MinHash of the mail's word shingles (Broder 1997)."""
    shingles = {" ".join(tokens[i : i + SHINGLE_WORDS]) for i in range(max(1, len(tokens) - SHINGLE_WORDS + 1))}
    hashes = np.array(
        [int.from_bytes(hashlib.blake2b(s.encode(), digest_size=4).digest(), "little") for s in shingles],
        dtype=np.uint64,
    )
    a, b = coefficients
    return ((hashes[:, None] * a + b) % np.uint64(4294967291)).min(axis=0)


def deduplicate(mails):
    """Keeps the first mail of each cluster of equal or nearly equal ones."""
    rng = np.random.default_rng(SEED)
    coefficients = (
        rng.integers(1, 1 << 31, PERMUTATIONS, dtype=np.uint64),
        rng.integers(0, 1 << 31, PERMUTATIONS, dtype=np.uint64),
    )
    rows = PERMUTATIONS // BANDS
    buckets, signatures, kept, dropped = {}, [], [], Counter()
    for mail in mails:
        mark = signature(words(mail["text"]), coefficients)
        keys = [(band, mark[band * rows : (band + 1) * rows].tobytes()) for band in range(BANDS)]
        near = {other for key in keys for other in buckets.get(key, ())}
        if any((signatures[other] == mark).mean() >= SIMILARITY for other in near):
            dropped[mail["group"]] += 1
            continue
        for key in keys:
            buckets.setdefault(key, []).append(len(signatures))
        signatures.append(mark)
        kept.append(mail)
    return kept, dropped


def split(mails):
    """train, validation, test, bulk (held-out hard ham)."""
    rng = random.Random(SEED)
    groups = {}
    for mail in mails:
        groups.setdefault(mail["group"], []).append(mail)
    for group in groups.values():
        rng.shuffle(group)
    take = lambda group, share: int(len(groups[group]) * share)
    spam, hard = take("spam-2", 0.7), take("hard-ham-1", 0.5)
    bulk = groups["hard-ham-1"][hard:]
    test = groups["easy-ham-2"] + groups["spam-2"][spam:]
    train, validation = [], []
    for group in (groups["easy-ham-1"], groups["spam-1"], groups["spam-2"][:spam], groups["hard-ham-1"][:hard]):
        share = 0.2 if group and group[0]["group"] == "hard-ham-1" else 0.1
        held = int(len(group) * share)
        validation += group[:held]
        train += group[held:]
    return {"train": train, "validation": validation, "test": test, "bulk": bulk}


def mark(parts):
    """Of the mails that train. What changes texts may change which are duplicates, and so all splits:
    a model is measured on the splits that it was trained on only."""
    names = sorted(f"{mail['group']}/{Path(mail['path']).name}" for mail in parts["train"])
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def without_traps(text):
    """The text without the mark that a spam-trap list put into what it forwarded, and what the list
    added behind it. A page that is one line keeps what is before."""
    lines = (re.sub(r"\s*-*DeathToSpam.*", "", line) if "DeathToSpam" in line else line
             for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def load(path):
    """Reads the extracted mails; returns splits and the counts that the model card states."""
    mails = []
    for line in Path(path).read_text().splitlines():
        mail = json.loads(line)
        mail["text"] = without_traps(mail["text"])
        mail["group"] = Path(mail["path"]).parent.name
        mail["label"] = int(mail["group"].startswith("spam"))
        mails.append(mail)
    mails.sort(key=lambda mail: (mail["group"], Path(mail["path"]).name))
    kept, dropped = deduplicate(mails)
    splits = split(kept)
    counts = {
        "found": dict(Counter(mail["group"] for mail in mails)),
        "duplicates": dict(dropped),
        "splits": {name: dict(Counter(mail["group"] for mail in part)) for name, part in splits.items()},
    }
    return splits, counts

"""Sentences with the sentiment that at least twenty people saw in them (Hutto and Gilbert 2014)."""

import hashlib
import html
from collections import Counter
from pathlib import Path

SENTIMENTS = ("negative", "neutral", "positive")
FILES = {
    "amazonReviewSnippets": "product reviews",
    "movieReviewSnippets": "film reviews",
    "nytEditorialSnippets": "newspaper opinion",
    "tweets": "short messages",
}
# Mean ratings go from -4 to 4.
NEUTRAL = 0.5


def sentences(folder):
    """All sentences once: text, label, rating, source, and the review or article that it is of."""
    found, seen = [], set()
    for name, source in FILES.items():
        text = (Path(folder) / f"{name}_GroundTruth.txt").read_bytes().decode("utf-8", "replace")
        for line in text.splitlines():
            number, rating, sentence = line.split("\t")[:3]
            sentence, rating = html.unescape(sentence).strip(), float(rating)
            if not sentence or sentence.lower() in seen:
                continue
            seen.add(sentence.lower())
            label = 0 if rating < -NEUTRAL else 2 if rating > NEUTRAL else 1
            found.append({"text": sentence, "subject": "", "label": label, "rating": rating,
                          "source": source, "of": f"{name} {number.split('_')[0]}"})
    return found


def splits_of(found):
    """train, validation, test: 8 : 1 : 1, the sentences of one review or article on one side."""
    parts = {"train": [], "validation": [], "test": []}
    for sentence in found:
        draw = hashlib.blake2b(sentence["of"].encode(), digest_size=2).digest()[0] % 10
        parts["validation" if draw == 0 else "test" if draw == 1 else "train"].append(sentence)
    return parts


def counts(parts):
    """Sentences by split and label."""
    return {name: {SENTIMENTS[label]: count for label, count in
                   sorted(Counter(sentence["label"] for sentence in part).items())}
            for name, part in parts.items()}

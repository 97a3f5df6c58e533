"""Texts as sequences of token ids, the way the server cuts them (`long` in a manifest)."""

WINDOWS_MAX = 8
SUBJECT_TOKENS_MAX = 32
# Ways of which an aggregation makes one answer.
IN_WINDOWS = ("window", "skim")
# `[skim]` of a manifest that says nothing else.
SKIM_WINDOWS = 3
SKIM_CONFIDENCE_MIN = 0.95


def windows(ids, subject, long, tokens_max):
    """Sequences without special tokens of a text with `ids` that begins with `subject`.

    `long`: `truncate`, `head_tail`, `window` or `skim` (all that there is to read); `tokens_max` counts the two special tokens.
    """
    room = tokens_max - 2
    if long == "truncate" or len(ids) <= room:
        return [ids[:room]]
    if long == "head_tail":
        return [ids[: room - room // 2] + ids[len(ids) - room // 2 :]]
    subject = subject[: min(SUBJECT_TOKENS_MAX, room // 4)]
    width = room - len(subject)
    found, end = [ids[:room]], room
    while end < len(ids) and len(found) < WINDOWS_MAX:
        start = end - width // 4
        end = min(len(ids), start + width)
        found.append(subject + ids[start:end])
    return found


def way_name(long, aggregation):
    """What a way to read is called in tables."""
    return f"{long} / {aggregation}" if long in IN_WINDOWS else long


def spread(windows, count=SKIM_WINDOWS):
    """Places of the windows that are read first, of so many."""
    last, gaps = windows - 1, count - 1
    return list(range(windows)) if last <= gaps else [(2 * at * last + gaps) // (2 * gaps) for at in range(count)]


def skimmed(windows, certainty):
    """Of each text's rows of logits those that are computed with `long = "skim"`; `certainty` is the best
    label's score of a row."""
    read = []
    for rows in windows:
        first = rows[spread(len(rows))]
        read.append(first if certainty(first.mean(0)) >= SKIM_CONFIDENCE_MIN else rows)
    return read


def token_ids(tokenizer, texts):
    """Token ids of each text, whole and without special tokens."""
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]


def padded(tokenizer, sequences):
    """One batch of sequences, special tokens added."""
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = [[first, *sequence, last] for sequence in sequences]
    return tokenizer.pad({"input_ids": rows}, return_tensors="pt")

"""What one epoch of training reads: the mails, varied anew in each epoch."""

from pathlib import Path

HERE = Path(__file__).parent
HARD_HAM_COPIES = 6
SHORT_COPIES = 2
# Mails are cut to one of these lengths; short ones vary more for the same work.
TOKENS_MAX = (96, 128, 192, 256, 256)


def subject_and_body(mail):
    """Subject and body of a model text, which holds them on two sides of a line break."""
    text, subject = mail["text"], mail["subject"]
    if not subject or not text.startswith(subject):
        return "", text
    return subject, text[len(subject) + 1 :]


def excerpt(rng, body, lines_max):
    """A few of the author's own lines: what a short mail by the same hand would look like."""
    lines = [line for line in body.split("\n") if not line.startswith(">") and len(line) > 20]
    if not lines:
        return body
    start = rng.randrange(len(lines))
    return "\n".join(lines[start : start + rng.randint(1, lines_max)])


def varied(rng, mail):
    """The mail with its subject or most of its body left out now and then."""
    subject, body = subject_and_body(mail)
    chance = rng.random()
    if mail["label"] == 0 and mail["group"] != "hard-ham-1" and chance < 0.15:
        body = excerpt(rng, body, 3)
    elif mail["label"] == 1 and chance < 0.08:
        body = excerpt(rng, body, 8)
    if rng.random() < 0.1 and body:
        subject = ""
    return subject, body


def examples(rng, mails):
    """Subjects, bodies and labels of one epoch, shuffled."""
    drawn = []
    for mail in mails:
        for _ in range(HARD_HAM_COPIES if mail["group"] == "hard-ham-1" else 1):
            drawn.append((*varied(rng, mail), mail["label"]))
    for name, label in (("personal_ham.txt", 0), ("short_spam.txt", 1)):
        lines = (HERE / name).read_text().splitlines()
        drawn += [("", line, label) for line in lines] * SHORT_COPIES
    rng.shuffle(drawn)
    return drawn


def cut(rng, subject, body):
    """A sequence of token ids: mostly the head of the mail, else the subject and a later piece."""
    room = rng.choice(TOKENS_MAX) - 2
    if len(subject) + len(body) > room and rng.random() < 0.4:
        subject = subject[: min(32, room // 4)]
        width = room - len(subject)
        start = rng.randint(0, max(0, len(body) - width))
        return subject + body[start : start + width]
    return (subject + body)[:room]

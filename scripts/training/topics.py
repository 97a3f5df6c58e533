"""What a mail is about, as far as the mailing list or feed that it came by tells."""

import re

TOPICS = ("advertising", "discussion", "linux", "mail-software", "news", "packaging", "spam-filtering")

# What lists call themselves (`List-Id`, or the address that the mail is to).
LISTS = {
    r"^fork\.": "discussion",
    r"^(ilug|social|webdev)\.": "linux",
    r"^exmh-": "mail-software",
    r"^rpm-zzzlist\.": "packaging",
    r"^(spamassassin-|razor-users|spambayes)": "spam-filtering",
}
HEADER_BYTES = 64 << 10


def headers(path):
    """The header lines of a mail, folded ones joined."""
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES).replace(b"\r\n", b"\n").split(b"\n\n", 1)[0]
    return re.sub(r"\n[ \t]+", " ", head.decode("latin-1"))


def field(head, name):
    found = re.search(rf"(?im)^{name}:[ \t]*(.*)$", head)
    return found.group(1).strip() if found else ""


def topic(mail):
    """The topic of a mail of the corpus, or None where nothing tells."""
    if mail["label"] == 1:
        return "advertising"
    head = headers(mail["path"])
    own_name = re.search(r"<?([\w.-]+)>?$", field(head, "List-Id").lower())
    for pattern, name in LISTS.items():
        if own_name and re.search(pattern, own_name.group(1)):
            return name
    if "rssfeeds@" in field(head, "From") or "zzzzteana" in field(head, "To"):
        return "news"
    return None


def labelled(mails):
    """Adds `topic`, a position in TOPICS or None, to each mail."""
    for mail in mails:
        name = topic(mail)
        mail["topic"] = None if name is None else TOPICS.index(name)
    return mails


def splits_of(parts):
    """train, validation and test of the spam model's splits: its training part; one half of its
    validation part; the other half with its test part, which is of other months."""
    held = labelled(parts["validation"])
    known = lambda mails: [mail for mail in mails if mail["topic"] is not None]
    return {
        "train": known(labelled(parts["train"])),
        "validation": known(held[::2]),
        "test": known(held[1::2] + labelled(parts["test"])),
    }

-- Models' revisions, with the labels that scores are of (JSON).
CREATE TABLE revisions (
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    revision TEXT NOT NULL,
    labels TEXT NOT NULL,
    UNIQUE (model, revision)
);

-- What was said of which mail. The id tells the time: see store/src/id.rs.
CREATE TABLE verdicts (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    item INTEGER NOT NULL,
    mail BLOB NOT NULL,
    model TEXT NOT NULL,
    revision_id INTEGER NOT NULL,
    label TEXT NOT NULL,
    confidence REAL NOT NULL,
    scores BLOB NOT NULL,
    answered_by TEXT,
    tokens INTEGER NOT NULL,
    windows INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    queue_us INTEGER NOT NULL,
    infer_us INTEGER NOT NULL,
    total_us INTEGER NOT NULL
);
CREATE INDEX verdicts_by_model ON verdicts (model, id);
CREATE INDEX verdicts_by_label ON verdicts (model, label, id);
CREATE INDEX verdicts_by_mail ON verdicts (mail, id);
CREATE INDEX verdicts_by_request ON verdicts (request_id, id);

-- Sums of verdicts by hour (in hours since 1970), so that nobody has to count rows.
CREATE TABLE hours (
    hour INTEGER NOT NULL,
    revision_id INTEGER NOT NULL,
    label TEXT NOT NULL,
    mails INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    total_us INTEGER NOT NULL,
    confidence REAL NOT NULL,
    PRIMARY KEY (hour, revision_id, label)
) WITHOUT ROWID;

-- What people said of a mail, and the verdict that they said it of.
CREATE TABLE feedback (
    mail BLOB NOT NULL,
    model TEXT NOT NULL,
    label TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    revision_id INTEGER NOT NULL,
    predicted TEXT NOT NULL,
    PRIMARY KEY (mail, model)
) WITHOUT ROWID;
CREATE INDEX feedback_by_time ON feedback (at_ms, mail, model);

-- Sums of feedback by the hour of the verdict.
CREATE TABLE confusion (
    hour INTEGER NOT NULL,
    revision_id INTEGER NOT NULL,
    predicted TEXT NOT NULL,
    truth TEXT NOT NULL,
    mails INTEGER NOT NULL,
    PRIMARY KEY (hour, revision_id, predicted, truth)
) WITHOUT ROWID;

-- Memoized answers. A space is what they depend on beside what the digest is of.
CREATE TABLE answers (
    digest BLOB NOT NULL,
    space TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (space, digest)
) WITHOUT ROWID;
CREATE INDEX answers_by_time ON answers (at_ms, digest, space);
CREATE INDEX answers_by_space ON answers (space, at_ms, digest);

-- The objectives' figures, minute by minute (in minutes since 1970).
CREATE TABLE objectives (
    minute INTEGER NOT NULL,
    replica INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    p95_seconds REAL,
    error_share REAL,
    memory_share REAL,
    availability REAL,
    PRIMARY KEY (minute, replica)
) WITHOUT ROWID;

-- Rows and bytes of tables that are bounded, kept with every change so that nobody has to count.
CREATE TABLE sizes (
    name TEXT NOT NULL PRIMARY KEY,
    row_count INTEGER NOT NULL,
    byte_count INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO sizes (name, row_count, byte_count)
VALUES ('verdicts', 0, 0), ('feedback', 0, 0), ('answers', 0, 0);

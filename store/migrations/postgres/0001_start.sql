-- Models' revisions, with the labels that scores are of (JSON).
CREATE TABLE revisions (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model TEXT NOT NULL,
    revision TEXT NOT NULL,
    labels TEXT NOT NULL,
    UNIQUE (model, revision)
);

-- What was said of which mail. The id tells the time: see store/src/id.rs.
CREATE TABLE verdicts (
    id BIGINT PRIMARY KEY,
    request_id TEXT NOT NULL,
    item BIGINT NOT NULL,
    mail BYTEA NOT NULL,
    model TEXT NOT NULL,
    revision_id BIGINT NOT NULL,
    label TEXT NOT NULL,
    confidence DOUBLE PRECISION NOT NULL,
    scores BYTEA NOT NULL,
    answered_by TEXT,
    tokens BIGINT NOT NULL,
    windows BIGINT NOT NULL,
    flags BIGINT NOT NULL,
    queue_us BIGINT NOT NULL,
    infer_us BIGINT NOT NULL,
    total_us BIGINT NOT NULL
);
CREATE INDEX verdicts_by_model ON verdicts (model, id);
CREATE INDEX verdicts_by_label ON verdicts (model, label, id);
CREATE INDEX verdicts_by_mail ON verdicts (mail, id);
CREATE INDEX verdicts_by_request ON verdicts (request_id, id);

-- Sums of verdicts by hour (in hours since 1970), so that nobody has to count rows.
CREATE TABLE hours (
    hour BIGINT NOT NULL,
    revision_id BIGINT NOT NULL,
    label TEXT NOT NULL,
    mails BIGINT NOT NULL,
    cached BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    total_us BIGINT NOT NULL,
    confidence DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (hour, revision_id, label)
);

-- What people said of a mail, and the verdict that they said it of.
CREATE TABLE feedback (
    mail BYTEA NOT NULL,
    model TEXT NOT NULL,
    label TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    hour BIGINT NOT NULL,
    revision_id BIGINT NOT NULL,
    predicted TEXT NOT NULL,
    PRIMARY KEY (mail, model)
);
CREATE INDEX feedback_by_time ON feedback (at_ms, mail, model);

-- Sums of feedback by the hour of the verdict.
CREATE TABLE confusion (
    hour BIGINT NOT NULL,
    revision_id BIGINT NOT NULL,
    predicted TEXT NOT NULL,
    truth TEXT NOT NULL,
    mails BIGINT NOT NULL,
    PRIMARY KEY (hour, revision_id, predicted, truth)
);

-- Memoized answers. A space is what they depend on beside what the digest is of.
CREATE TABLE answers (
    digest BYTEA NOT NULL,
    space TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    value BYTEA NOT NULL,
    PRIMARY KEY (space, digest)
);
CREATE INDEX answers_by_time ON answers (at_ms, digest, space);
CREATE INDEX answers_by_space ON answers (space, at_ms, digest);

-- The objectives' figures, minute by minute (in minutes since 1970).
CREATE TABLE objectives (
    minute BIGINT NOT NULL,
    replica BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    p95_seconds DOUBLE PRECISION,
    error_share DOUBLE PRECISION,
    memory_share DOUBLE PRECISION,
    availability DOUBLE PRECISION,
    PRIMARY KEY (minute, replica)
);

-- Rows and bytes of tables that are bounded, kept with every change so that nobody has to count.
CREATE TABLE sizes (
    name TEXT NOT NULL PRIMARY KEY,
    row_count BIGINT NOT NULL,
    byte_count BIGINT NOT NULL
);
INSERT INTO sizes (name, row_count, byte_count)
VALUES ('verdicts', 0, 0), ('feedback', 0, 0), ('answers', 0, 0);

-- The audit by time: a partition for each month (UTC), made ahead, and dropped whole once all of it is older than what is
-- kept. Rows are added, and nothing changes one. The key is the time and the event's id, so that what comes again changes
-- nothing.
ALTER TABLE audit RENAME TO audit_before;
ALTER TABLE audit_before RENAME CONSTRAINT audit_pkey TO audit_before_pkey;
DROP INDEX audit_instance;
CREATE TABLE audit (
    occurred_at BIGINT NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    instance_id TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    credential TEXT COLLATE "C" NOT NULL,
    address TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    -- done, or why not.
    result TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    -- What the subject was called then.
    name TEXT COLLATE "C" NOT NULL,
    repository_id TEXT COLLATE "C" NOT NULL,
    repository TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    tag TEXT COLLATE "C" NOT NULL,
    -- So many that are equal, from occurred_at to last_at.
    count BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL,
    PRIMARY KEY (occurred_at, event_id)
) PARTITION BY RANGE (occurred_at);
-- Takes what no month is there for, so that recording never fails for want of one.
CREATE TABLE audit_strays PARTITION OF audit DEFAULT;
CREATE INDEX audit_by_time ON audit (instance_id, occurred_at, event_id);
CREATE INDEX audit_by_recording ON audit (instance_id, recorded_at, event_id);
CREATE INDEX audit_by_principal ON audit (instance_id, principal, occurred_at, event_id);
CREATE INDEX audit_by_type ON audit (instance_id, type, occurred_at, event_id);
CREATE INDEX audit_by_repository ON audit (instance_id, repository, occurred_at, event_id);
CREATE INDEX audit_by_repository_id ON audit (instance_id, repository_id, occurred_at, event_id);
CREATE INDEX audit_by_request ON audit (instance_id, request_id, occurred_at, event_id);

-- These three run with the rights of whoever migrates, so that the role that serves needs no more than to read and add.

-- Makes the partition of the month of a moment, unless it is there; what strayed moves in. Waits for no lock longer than
-- two seconds: an error then, and another try later.
CREATE FUNCTION audit_make_month(moment BIGINT) RETURNS BOOLEAN
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    month TIMESTAMP := date_trunc('month', to_timestamp(moment / 1000000) AT TIME ZONE 'UTC');
    named TEXT := 'audit_' || to_char(month, 'YYYY_MM');
    starts BIGINT := extract(epoch FROM month)::bigint * 1000000;
    ends BIGINT := extract(epoch FROM month + interval '1 month')::bigint * 1000000;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('berth audit'));
    IF to_regclass(quote_ident(named)) IS NOT NULL THEN
        RETURN FALSE;
    END IF;
    LOCK TABLE audit_strays IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I (LIKE audit INCLUDING ALL)', named);
    EXECUTE format('WITH strayed AS (DELETE FROM audit_strays WHERE occurred_at >= $1 AND occurred_at < $2 RETURNING *) '
        'INSERT INTO %I SELECT * FROM strayed', named) USING starts, ends;
    EXECUTE format('ALTER TABLE audit ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', named, starts, ends);
    RETURN TRUE;
END $$;

-- Drops the oldest month if all of it is before a moment; which one, such as 2026-11.
CREATE FUNCTION audit_drop_month(moment BIGINT) RETURNS TEXT
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    named TEXT;
    month TIMESTAMP;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('berth audit'));
    SELECT c.relname INTO named FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'audit'::regclass AND c.relname <> 'audit_strays' ORDER BY c.relname LIMIT 1;
    IF named IS NULL THEN
        RETURN NULL;
    END IF;
    month := to_date(substr(named, 7), 'YYYY_MM')::timestamp;
    IF extract(epoch FROM month + interval '1 month')::bigint * 1000000 > moment THEN
        RETURN NULL;
    END IF;
    EXECUTE format('DROP TABLE %I', named);
    RETURN to_char(month, 'YYYY-MM');
END $$;

-- Deletes at most so many of what strayed before a moment; how many.
CREATE FUNCTION audit_drop_strays(moment BIGINT, most BIGINT) RETURNS BIGINT
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    dropped BIGINT;
BEGIN
    DELETE FROM audit_strays WHERE (occurred_at, event_id) IN (SELECT occurred_at, event_id FROM audit_strays
        WHERE occurred_at < moment ORDER BY occurred_at, event_id LIMIT most);
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END $$;

REVOKE EXECUTE ON FUNCTION audit_make_month, audit_drop_month, audit_drop_strays FROM PUBLIC;

-- Months that hold something of the last two years, and those to come.
SELECT audit_make_month(months.moment) FROM (
    SELECT DISTINCT extract(epoch FROM date_trunc('month', to_timestamp(occurred_at / 1000000) AT TIME ZONE 'UTC'))::bigint
        * 1000000 AS moment
    FROM audit_before WHERE to_timestamp(occurred_at / 1000000) BETWEEN now() - interval '2 years' AND now()
    UNION SELECT extract(epoch FROM now() + (ahead || ' months')::interval)::bigint * 1000000
    FROM generate_series(0, 2) AS ahead
) AS months;
INSERT INTO audit (occurred_at, event_id, instance_id, type, principal, credential, address, request_id, result, subject,
        name, repository_id, repository, digest, tag, count, last_at, recorded_at)
    SELECT occurred_at, event_id, instance_id, type, principal, credential, address, request_id, result, subject,
        '', repository_id, repository, digest, tag, 1, occurred_at, recorded_at FROM audit_before;
DROP TABLE audit_before;

-- Reading keys leaves no predicate lock: a serializable transaction cannot fail
-- because somebody made or rotated a key meanwhile.

CREATE TABLE key_reads (id int, t text) USING cmek_heap;
CREATE TABLE key_reads_plain (id int) USING heap;
INSERT INTO key_reads VALUES (1, repeat('x', 10000));
INSERT INTO key_reads_plain VALUES (1);

-- a new session, which has no key yet; the plain table is the control
\c -
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT id, length(t) FROM key_reads;
INSERT INTO key_reads VALUES (2, 'two');
SELECT id FROM key_reads_plain;
SELECT DISTINCT relation::regclass, mode FROM pg_locks
WHERE pid = pg_backend_pid() AND mode = 'SIReadLock' AND relation::regclass::text NOT LIKE 'pg_toast.%'
ORDER BY 1;
COMMIT;

DROP TABLE key_reads, key_reads_plain;

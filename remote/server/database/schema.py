"""The tables: each with its shard key first in every key, no sequences, no foreign keys across groups.

Types are those that SQLite and PostgreSQL both take. Groups and their shard keys: a space's tables `space_id`, an
account's tables `user_id`; directories are keyed by what they are looked up with. `setting` belongs to the instance.
"""

FORMAT = 5
"""The version of these tables and of how objects are named; written into `setting` when an instance is made."""

NEVER = (1 << 63) - 1
"""The `until_rev` of a name that is current."""

_CLUSTERED = "WITHOUT ROWID"

_REMOVED = f"""CREATE TABLE removed (
        space_id BIGINT NOT NULL, rev BIGINT NOT NULL, node_id BIGINT NOT NULL,
        PRIMARY KEY (space_id, rev, node_id)) {_CLUSTERED}"""

_KEPT = f"""CREATE TABLE kept (
        space_id BIGINT NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, rev)) {_CLUSTERED}"""
_RETENTION = f"""CREATE TABLE retention (
        space_id BIGINT NOT NULL, all_days INTEGER NOT NULL, hourly_days INTEGER NOT NULL, daily_days INTEGER NOT NULL,
        for_ever SMALLINT NOT NULL,
        PRIMARY KEY (space_id)) {_CLUSTERED}"""
_VERSION_BY_CONTENT = "CREATE INDEX version_by_content ON version (space_id, content_id) WHERE content_id IS NOT NULL"

# Who pays for which shared spaces, by the home that does.
_PAID = f"""CREATE TABLE paid (
        space_id BIGINT NOT NULL, shared BIGINT NOT NULL,
        PRIMARY KEY (space_id, shared)) {_CLUSTERED}"""
# What is granted in a shared space, to a user or a group; `member` says what that makes of each user who accepted.
_PERMIT = f"""CREATE TABLE permit (
        space_id BIGINT NOT NULL, is_group SMALLINT NOT NULL, who BIGINT NOT NULL, role TEXT NOT NULL,
        PRIMARY KEY (space_id, is_group, who)) {_CLUSTERED}"""
# Spaces that are granted to a user who is no member, because he did not accept (yet), declined, or left.
_INVITATION = f"""CREATE TABLE invitation (
        user_id BIGINT NOT NULL, space_id BIGINT NOT NULL, invited_by BIGINT NOT NULL, invited_ns BIGINT NOT NULL,
        is_declined SMALLINT NOT NULL,
        PRIMARY KEY (user_id, space_id)) {_CLUSTERED}"""
_GROUP_TABLES = (
    f"""CREATE TABLE user_group (
        group_id BIGINT NOT NULL, group_name TEXT NOT NULL, owner BIGINT NOT NULL, created_ns BIGINT NOT NULL,
        PRIMARY KEY (group_id)) {_CLUSTERED}""",
    f"""CREATE TABLE group_member (
        group_id BIGINT NOT NULL, user_id BIGINT NOT NULL,
        PRIMARY KEY (group_id, user_id)) {_CLUSTERED}""",
    # The spaces that are granted to the group.
    f"""CREATE TABLE group_permit (
        group_id BIGINT NOT NULL, space_id BIGINT NOT NULL,
        PRIMARY KEY (group_id, space_id)) {_CLUSTERED}""",
    # The groups that a user owns or is in: user_group and group_member seen from the other side.
    f"""CREATE TABLE in_group (
        user_id BIGINT NOT NULL, group_id BIGINT NOT NULL,
        PRIMARY KEY (user_id, group_id)) {_CLUSTERED}""",
    f"""CREATE TABLE group_name (
        login_name TEXT NOT NULL, group_id BIGINT NOT NULL,
        PRIMARY KEY (login_name)) {_CLUSTERED}""",
)

SHARD_KEYS: dict[str, str] = {
    "setting": "",
    "space": "space_id",
    "member": "space_id",
    "node": "space_id",
    "name": "space_id",
    "journal": "space_id",
    "version": "space_id",
    "op_seen": "space_id",
    "conflict": "space_id",
    "removed": "space_id",
    "kept": "space_id",
    "retention": "space_id",
    "manifest": "space_id",
    "moment": "space_id",
    "chunk_reference": "space_id",
    "life": "space_id",
    "holding": "space_id",
    "paid": "space_id",
    "permit": "space_id",
    "job_cursor": "space_id",
    "job_trouble": "space_id",
    "account": "user_id",
    "invitation": "user_id",
    "in_group": "user_id",
    "user_group": "group_id",
    "group_member": "group_id",
    "group_permit": "group_id",
    "group_name": "login_name",
    "mount": "user_id",
    "device": "user_id",
    "lease": "user_id",
    "login": "login_name",
    "token": "token_hash",
    "node_range": "range_number",
    "chunk": "chunk_id",
    "link": "user_id",
    "link_secret": "secret_hash",
    "upload": "user_id",
    "upload_part": "user_id",
    "lost_chunk": "chunk_id",
    "doomed": "object_id",
    "guard": "space_id",
    "burst": "space_id",
    "event": "space_id",
    "refused": "space_id",
    "audit": "user_id",
    "totp": "user_id",
    "recovery_code": "user_id",
    "identity": "identity_hash",
}
"""The column that every statement on a table must bind; a walk through all rows (`key > ? ... LIMIT`) to a range."""

# The lives of a journal: of which run of a server the commits after `from_rev` are. A server that was put back from an
# older copy begins another life there, so a rev with the name of its life is the same commit for ever.
_LIFE = f"""CREATE TABLE life (
        space_id BIGINT NOT NULL, from_rev BIGINT NOT NULL, life BIGINT NOT NULL,
        PRIMARY KEY (space_id, from_rev)) {_CLUSTERED}"""
# Chunks that the store had and lost, or that were damaged there, until somebody sends them again.
_LOST_CHUNK = f"""CREATE TABLE lost_chunk (
        chunk_id BYTEA NOT NULL, size INTEGER NOT NULL, found_ns BIGINT NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (chunk_id)) {_CLUSTERED}"""
# Objects in which no chunk lies any more, to be removed from the store; object_id: of a chunk or of a pack.
_DOOMED = f"""CREATE TABLE doomed (
        object_id BYTEA NOT NULL, is_pack SMALLINT NOT NULL,
        PRIMARY KEY (object_id)) {_CLUSTERED}"""

LINK_TABLES: tuple[str, ...] = (
    # kind: read, view or upload; expires_ns, downloads_max: 0 for never and any number.
    f"""CREATE TABLE link (
        user_id BIGINT NOT NULL, link_id BIGINT NOT NULL, space_id BIGINT NOT NULL, node_id BIGINT NOT NULL,
        kind TEXT NOT NULL, secret BYTEA NOT NULL, password_hash TEXT NOT NULL, created_ns BIGINT NOT NULL,
        expires_ns BIGINT NOT NULL, downloads_max BIGINT NOT NULL, downloads BIGINT NOT NULL,
        is_revoked SMALLINT NOT NULL,
        PRIMARY KEY (user_id, link_id)) {_CLUSTERED}""",
    f"""CREATE TABLE link_secret (
        secret_hash BYTEA NOT NULL, user_id BIGINT NOT NULL, link_id BIGINT NOT NULL,
        PRIMARY KEY (secret_hash)) {_CLUSTERED}""",
)
# What of the quota is kept for a device until then.
_HOLDING = f"""CREATE TABLE holding (
        space_id BIGINT NOT NULL, device_id BIGINT NOT NULL, lease BIGINT NOT NULL, serial BIGINT NOT NULL,
        until_ns BIGINT NOT NULL,
        PRIMARY KEY (space_id, device_id)) {_CLUSTERED}"""
UPLOAD_TABLES: tuple[str, ...] = (
    # base: of what is replaced, 0: nothing; rev: that the finished upload got, 0: it is not finished.
    f"""CREATE TABLE upload (
        user_id BIGINT NOT NULL, upload_id BIGINT NOT NULL, space_id BIGINT NOT NULL, node_id BIGINT NOT NULL,
        parent BIGINT NOT NULL, name BYTEA NOT NULL, base BIGINT NOT NULL, size BIGINT NOT NULL,
        mtime_ns BIGINT NOT NULL, op_id BYTEA NOT NULL, expires_ns BIGINT NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (user_id, upload_id)) {_CLUSTERED}""",
    # entries: of the manifest, sealed by the space's key; NULL: the part is not there yet.
    f"""CREATE TABLE upload_part (
        user_id BIGINT NOT NULL, upload_id BIGINT NOT NULL, number INTEGER NOT NULL, size BIGINT NOT NULL,
        sha256 BYTEA NOT NULL, entries BYTEA,
        PRIMARY KEY (user_id, upload_id, number)) {_CLUSTERED}""",
)

JOB_TABLES: tuple[str, ...] = (
    # How far each job has come, see database.jobs.Cursor.
    f"""CREATE TABLE job_cursor (
        space_id BIGINT NOT NULL, job TEXT NOT NULL, life BIGINT NOT NULL, rev BIGINT NOT NULL,
        ordinal INTEGER NOT NULL, walked BIGINT NOT NULL,
        PRIMARY KEY (space_id, job)) {_CLUSTERED}""",
    # Files that a job could not do, and will not try again before they change.
    f"""CREATE TABLE job_trouble (
        space_id BIGINT NOT NULL, job TEXT NOT NULL, node_id BIGINT NOT NULL, rev BIGINT NOT NULL,
        reason TEXT NOT NULL, time_ns BIGINT NOT NULL,
        PRIMARY KEY (space_id, job, node_id)) {_CLUSTERED}""",
)

EVENT_TABLES: tuple[str, ...] = (
    # What a space does when one device loses much of it, where somebody has set it; most: how much may go untold.
    f"""CREATE TABLE guard (
        space_id BIGINT NOT NULL, mode TEXT NOT NULL, most BIGINT NOT NULL, window_seconds BIGINT NOT NULL,
        settled_seconds BIGINT NOT NULL,
        PRIMARY KEY (space_id)) {_CLUSTERED}""",
    # What a device removed and overwrote of late, in two halves of the window; event_id: what became of it, 0: nothing.
    f"""CREATE TABLE burst (
        space_id BIGINT NOT NULL, user_id BIGINT NOT NULL, device_id BIGINT NOT NULL, began_ns BIGINT NOT NULL,
        first_rev BIGINT NOT NULL, removed BIGINT NOT NULL, overwritten BIGINT NOT NULL, earlier_rev BIGINT NOT NULL,
        earlier_removed BIGINT NOT NULL, earlier_overwritten BIGINT NOT NULL, event_id BIGINT NOT NULL,
        PRIMARY KEY (space_id, user_id, device_id)) {_CLUSTERED}""",
    # What members are told of, and what became of it; examples: paths, encoded.
    f"""CREATE TABLE event (
        space_id BIGINT NOT NULL, event_id BIGINT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
        user_id BIGINT NOT NULL, device_id BIGINT NOT NULL, began_ns BIGINT NOT NULL, ended_ns BIGINT NOT NULL,
        from_rev BIGINT NOT NULL, to_rev BIGINT NOT NULL, removed BIGINT NOT NULL, overwritten BIGINT NOT NULL,
        until_ns BIGINT NOT NULL, node_id BIGINT NOT NULL, detail TEXT NOT NULL, examples BYTEA NOT NULL,
        PRIMARY KEY (space_id, event_id)) {_CLUSTERED}""",
    # Chunks of content in which a virus was found: given out no more, unless somebody allowed it.
    f"""CREATE TABLE refused (
        space_id BIGINT NOT NULL, chunk_id BYTEA NOT NULL, virus TEXT NOT NULL, event_id BIGINT NOT NULL,
        is_allowed SMALLINT NOT NULL,
        PRIMARY KEY (space_id, chunk_id)) {_CLUSTERED}""",
)

ACCOUNT_TABLES: tuple[str, ...] = (
    # Who did what, when and from where: rows are added, read, and let go of when they are old; never changed.
    # user_id: whose account it concerns, 0 for names that nobody has; by_user 0: whoever runs the server, or nobody.
    f"""CREATE TABLE audit (
        user_id BIGINT NOT NULL, time_ns BIGINT NOT NULL, note_id BIGINT NOT NULL, by_user BIGINT NOT NULL,
        device_id BIGINT NOT NULL, address TEXT NOT NULL, what TEXT NOT NULL, about TEXT NOT NULL,
        is_good SMALLINT NOT NULL,
        PRIMARY KEY (user_id, time_ns, note_id)) {_CLUSTERED}""",
    # secret: sealed by the master key; last_step: of the newest code that was taken, so that none is taken twice.
    f"""CREATE TABLE totp (
        user_id BIGINT NOT NULL, secret BYTEA NOT NULL, is_on SMALLINT NOT NULL, last_step BIGINT NOT NULL,
        PRIMARY KEY (user_id)) {_CLUSTERED}""",
    f"""CREATE TABLE recovery_code (
        user_id BIGINT NOT NULL, code_hash BYTEA NOT NULL,
        PRIMARY KEY (user_id, code_hash)) {_CLUSTERED}""",
    # Who signs in elsewhere; identity_hash: of the issuer and the subject there.
    f"""CREATE TABLE identity (
        identity_hash BYTEA NOT NULL, user_id BIGINT NOT NULL,
        PRIMARY KEY (identity_hash)) {_CLUSTERED}""",
)

TABLES: tuple[str, ...] = (
    f"CREATE TABLE setting (name TEXT NOT NULL, value BYTEA NOT NULL, PRIMARY KEY (name)) {_CLUSTERED}",
    # head: the newest rev; floor: the oldest cursor that the journal still answers; wrapped_key: by the master key.
    # payer: the home whose quota counts for a shared space, 0 for a home; shared_used: bytes that a home pays for so.
    # counts_past: `used` is with the bytes of older versions.
    f"""CREATE TABLE space (
        space_id BIGINT NOT NULL, name TEXT NOT NULL, head BIGINT NOT NULL, floor BIGINT NOT NULL,
        quota BIGINT NOT NULL, used BIGINT NOT NULL, last_time_ns BIGINT NOT NULL, wrapped_key BYTEA NOT NULL,
        payer BIGINT NOT NULL DEFAULT 0, shared_used BIGINT NOT NULL DEFAULT 0,
        counts_past SMALLINT NOT NULL DEFAULT 0,
        PRIMARY KEY (space_id)) {_CLUSTERED}""",
    f"""CREATE TABLE member (
        space_id BIGINT NOT NULL, user_id BIGINT NOT NULL, role TEXT NOT NULL,
        PRIMARY KEY (space_id, user_id)) {_CLUSTERED}""",
    # The present. A removed node stays, with state NULL: its id is never used again and its rev is a base to return on.
    # parent: of a folder, so that walking up needs no decoding; of a removed node the space that it moved to, if any;
    # 0 for everything else.
    f"""CREATE TABLE node (
        space_id BIGINT NOT NULL, node_id BIGINT NOT NULL, rev BIGINT NOT NULL, edited_ns BIGINT NOT NULL,
        kind SMALLINT NOT NULL, parent BIGINT NOT NULL, size BIGINT NOT NULL, state BYTEA, content_id BYTEA,
        PRIMARY KEY (space_id, node_id)) {_CLUSTERED}""",
    # Valid for from_rev <= rev < until_rev. The key makes a current name unique in its folder, keeps current names
    # together in order, and what ended after a rev in one range behind it.
    f"""CREATE TABLE name (
        space_id BIGINT NOT NULL, parent BIGINT NOT NULL, until_rev BIGINT NOT NULL, name BYTEA NOT NULL,
        node_id BIGINT NOT NULL, from_rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, parent, until_rev, name)) {_CLUSTERED}""",
    f"""CREATE TABLE journal (
        space_id BIGINT NOT NULL, rev BIGINT NOT NULL, time_ns BIGINT NOT NULL, user_id BIGINT NOT NULL,
        device_id BIGINT NOT NULL, op_id BYTEA NOT NULL,
        PRIMARY KEY (space_id, rev)) {_CLUSTERED}""",
    "CREATE UNIQUE INDEX journal_by_time ON journal (space_id, time_ns)",
    # mark: 0 it was the node's state, 1 it was and then lost a merge, 2 it lost a merge and never was.
    # overrides -1: what it was is purged, and state is NULL as for a removal.
    # past_bytes: what it counts for in a space that counts its past.
    f"""CREATE TABLE version (
        space_id BIGINT NOT NULL, rev BIGINT NOT NULL, ordinal INTEGER NOT NULL, node_id BIGINT NOT NULL,
        edited_ns BIGINT NOT NULL, state BYTEA, content_id BYTEA, mark SMALLINT NOT NULL, overrides BIGINT NOT NULL,
        past_bytes BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (space_id, rev, ordinal)) {_CLUSTERED}""",
    "CREATE INDEX version_by_node ON version (space_id, node_id, rev)",
    # Which manifests are named at all.
    _VERSION_BY_CONTENT,
    # Versions that lost a merge, until somebody settles it.
    f"""CREATE TABLE conflict (
        space_id BIGINT NOT NULL, node_id BIGINT NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, node_id, rev)) {_CLUSTERED}""",
    # Nodes that are removed, by the rev that did it: node says the same, but not in this order.
    _REMOVED,
    # Revs before space.floor at which everything still reads as it was; all others there are thinned. The floor is one.
    _KEPT,
    # What a space keeps, where somebody has set it.
    _RETENTION,
    # rev 0: the commit was refused, and is not taken when it comes once more.
    f"""CREATE TABLE op_seen (
        space_id BIGINT NOT NULL, op_id BYTEA NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, op_id)) {_CLUSTERED}""",
    # body: the encoded manifest, sealed by the space's key; content_id: its hash, keyed by the space's key.
    f"""CREATE TABLE manifest (
        space_id BIGINT NOT NULL, content_id BYTEA NOT NULL, body BYTEA NOT NULL,
        PRIMARY KEY (space_id, content_id)) {_CLUSTERED}""",
    f"""CREATE TABLE moment (
        space_id BIGINT NOT NULL, folder BIGINT NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, folder, rev)) {_CLUSTERED}""",
    # doubted_ns: since when nothing in the space is known to name the chunk; 0: something does, or may soon.
    f"""CREATE TABLE chunk_reference (
        space_id BIGINT NOT NULL, chunk_id BYTEA NOT NULL, doubted_ns BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (space_id, chunk_id)) {_CLUSTERED}""",
    _LIFE,
    _HOLDING,
    _PAID,
    _PERMIT,
    _INVITATION,
    *_GROUP_TABLES,
    f"""CREATE TABLE account (
        user_id BIGINT NOT NULL, user_name TEXT NOT NULL, password_hash TEXT NOT NULL, home BIGINT NOT NULL,
        created_ns BIGINT NOT NULL, spaces_serial BIGINT NOT NULL DEFAULT 1,
        is_disabled SMALLINT NOT NULL DEFAULT 0, email TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (user_id)) {_CLUSTERED}""",
    # The spaces of a user: member seen from the other side. node_id: what stands for it in his home; 0: it is that.
    f"""CREATE TABLE mount (
        user_id BIGINT NOT NULL, space_id BIGINT NOT NULL, node_id BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (user_id, space_id)) {_CLUSTERED}""",
    # scopes: empty for a device, which may do everything; else the words of an app token. expires_ns: 0 for never.
    f"""CREATE TABLE device (
        user_id BIGINT NOT NULL, device_id BIGINT NOT NULL, device_name TEXT NOT NULL, token_hash BYTEA NOT NULL,
        created_ns BIGINT NOT NULL, is_revoked SMALLINT NOT NULL, seen_ns BIGINT NOT NULL DEFAULT 0,
        scopes TEXT NOT NULL DEFAULT '', expires_ns BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (user_id, device_id)) {_CLUSTERED}""",
    f"""CREATE TABLE lease (
        user_id BIGINT NOT NULL, range_number BIGINT NOT NULL, device_id BIGINT NOT NULL,
        PRIMARY KEY (user_id, range_number)) {_CLUSTERED}""",
    f"""CREATE TABLE login (
        login_name TEXT NOT NULL, user_id BIGINT NOT NULL,
        PRIMARY KEY (login_name)) {_CLUSTERED}""",
    f"""CREATE TABLE token (
        token_hash BYTEA NOT NULL, user_id BIGINT NOT NULL, device_id BIGINT NOT NULL,
        PRIMARY KEY (token_hash)) {_CLUSTERED}""",
    f"""CREATE TABLE node_range (
        range_number BIGINT NOT NULL, user_id BIGINT NOT NULL,
        PRIMARY KEY (range_number)) {_CLUSTERED}""",
    # pack NULL: the chunk is an object of its own. doubted: 1 when a space ceased to name it, until another does.
    f"""CREATE TABLE chunk (
        chunk_id BYTEA NOT NULL, size INTEGER NOT NULL, pack BYTEA, pack_offset INTEGER NOT NULL,
        doubted SMALLINT NOT NULL DEFAULT 0,
        PRIMARY KEY (chunk_id)) {_CLUSTERED}""",
    *LINK_TABLES,
    _LOST_CHUNK,
    _DOOMED,
    *JOB_TABLES,
    *UPLOAD_TABLES,
    *EVENT_TABLES,
    *ACCOUNT_TABLES,
)

PLANNING: tuple[str, ...] = (
    # SQLite chooses its indices by statistics, and without any it reads a space's whole journal to find one node's
    # versions. These are what ANALYZE would find in a large instance; they have to be there before the first row.
    "ANALYZE",
    "DELETE FROM sqlite_stat1",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('version', 'version', '10000000 1000000 20 1')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('version', 'version_by_node', '10000000 1000000 4 2')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('version', 'version_by_content', '10000000 1000000 2')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('name', 'name', '10000000 1000000 20 15 1')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('node', 'node', '10000000 1000000 1')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('manifest', 'manifest', '10000000 1000000 1')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('journal', 'journal', '1000000 100000 1')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('journal', 'journal_by_time', '1000000 100000 1')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('conflict', 'conflict', '10000 1000 2 1')",
    "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('moment', 'moment', '10000000 1000000 100 1')",
)
"""Run once, after TABLES, outside of a transaction."""

UPGRADES: dict[int, tuple[str, ...]] = {
    3: (
        "ALTER TABLE device ADD COLUMN seen_ns BIGINT NOT NULL DEFAULT 0",
        _REMOVED,
        _KEPT,
        _RETENTION,
        _VERSION_BY_CONTENT,
        "INSERT INTO removed (space_id, rev, node_id) SELECT space_id, rev, node_id FROM node WHERE state IS NULL",
        *LINK_TABLES,
        "ALTER TABLE chunk_reference ADD COLUMN doubted_ns BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE chunk ADD COLUMN doubted SMALLINT NOT NULL DEFAULT 0",
        _LIFE,
        _LOST_CHUNK,
        _DOOMED,
        _HOLDING,
    ),
    4: (
        "ALTER TABLE space ADD COLUMN payer BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE space ADD COLUMN shared_used BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE space ADD COLUMN counts_past SMALLINT NOT NULL DEFAULT 0",
        "ALTER TABLE version ADD COLUMN past_bytes BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE account ADD COLUMN spaces_serial BIGINT NOT NULL DEFAULT 1",
        "ALTER TABLE mount ADD COLUMN node_id BIGINT NOT NULL DEFAULT 0",
        _PAID,
        _PERMIT,
        _INVITATION,
        *_GROUP_TABLES,
        *JOB_TABLES,
        *UPLOAD_TABLES,
        *EVENT_TABLES,
        *ACCOUNT_TABLES,
        "ALTER TABLE account ADD COLUMN is_disabled SMALLINT NOT NULL DEFAULT 0",
        "ALTER TABLE account ADD COLUMN email TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE device ADD COLUMN scopes TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE device ADD COLUMN expires_ns BIGINT NOT NULL DEFAULT 0",
    ),
}
"""format -> the statements that make its tables those of the next one; run once, together, when a server opens them."""

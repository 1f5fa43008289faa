-- The tables of format 4, as its servers made them; never to be changed.
CREATE TABLE setting (name TEXT NOT NULL, value BYTEA NOT NULL, PRIMARY KEY (name)) WITHOUT ROWID;
CREATE TABLE space (
        space_id BIGINT NOT NULL, name TEXT NOT NULL, head BIGINT NOT NULL, floor BIGINT NOT NULL,
        quota BIGINT NOT NULL, used BIGINT NOT NULL, last_time_ns BIGINT NOT NULL, wrapped_key BYTEA NOT NULL,
        PRIMARY KEY (space_id)) WITHOUT ROWID;
CREATE TABLE member (
        space_id BIGINT NOT NULL, user_id BIGINT NOT NULL, role TEXT NOT NULL,
        PRIMARY KEY (space_id, user_id)) WITHOUT ROWID;
CREATE TABLE node (
        space_id BIGINT NOT NULL, node_id BIGINT NOT NULL, rev BIGINT NOT NULL, edited_ns BIGINT NOT NULL,
        kind SMALLINT NOT NULL, parent BIGINT NOT NULL, size BIGINT NOT NULL, state BYTEA, content_id BYTEA,
        PRIMARY KEY (space_id, node_id)) WITHOUT ROWID;
CREATE TABLE name (
        space_id BIGINT NOT NULL, parent BIGINT NOT NULL, until_rev BIGINT NOT NULL, name BYTEA NOT NULL,
        node_id BIGINT NOT NULL, from_rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, parent, until_rev, name)) WITHOUT ROWID;
CREATE TABLE journal (
        space_id BIGINT NOT NULL, rev BIGINT NOT NULL, time_ns BIGINT NOT NULL, user_id BIGINT NOT NULL,
        device_id BIGINT NOT NULL, op_id BYTEA NOT NULL,
        PRIMARY KEY (space_id, rev)) WITHOUT ROWID;
CREATE UNIQUE INDEX journal_by_time ON journal (space_id, time_ns);
CREATE TABLE version (
        space_id BIGINT NOT NULL, rev BIGINT NOT NULL, ordinal INTEGER NOT NULL, node_id BIGINT NOT NULL,
        edited_ns BIGINT NOT NULL, state BYTEA, content_id BYTEA, mark SMALLINT NOT NULL, overrides BIGINT NOT NULL,
        PRIMARY KEY (space_id, rev, ordinal)) WITHOUT ROWID;
CREATE INDEX version_by_node ON version (space_id, node_id, rev);
CREATE INDEX version_by_content ON version (space_id, content_id) WHERE content_id IS NOT NULL;
CREATE TABLE conflict (
        space_id BIGINT NOT NULL, node_id BIGINT NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, node_id, rev)) WITHOUT ROWID;
CREATE TABLE removed (
        space_id BIGINT NOT NULL, rev BIGINT NOT NULL, node_id BIGINT NOT NULL,
        PRIMARY KEY (space_id, rev, node_id)) WITHOUT ROWID;
CREATE TABLE kept (
        space_id BIGINT NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, rev)) WITHOUT ROWID;
CREATE TABLE retention (
        space_id BIGINT NOT NULL, all_days INTEGER NOT NULL, hourly_days INTEGER NOT NULL, daily_days INTEGER NOT NULL,
        for_ever SMALLINT NOT NULL,
        PRIMARY KEY (space_id)) WITHOUT ROWID;
CREATE TABLE op_seen (
        space_id BIGINT NOT NULL, op_id BYTEA NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, op_id)) WITHOUT ROWID;
CREATE TABLE manifest (
        space_id BIGINT NOT NULL, content_id BYTEA NOT NULL, body BYTEA NOT NULL,
        PRIMARY KEY (space_id, content_id)) WITHOUT ROWID;
CREATE TABLE moment (
        space_id BIGINT NOT NULL, folder BIGINT NOT NULL, rev BIGINT NOT NULL,
        PRIMARY KEY (space_id, folder, rev)) WITHOUT ROWID;
CREATE TABLE chunk_reference (
        space_id BIGINT NOT NULL, chunk_id BYTEA NOT NULL, doubted_ns BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (space_id, chunk_id)) WITHOUT ROWID;
CREATE TABLE life (
        space_id BIGINT NOT NULL, from_rev BIGINT NOT NULL, life BIGINT NOT NULL,
        PRIMARY KEY (space_id, from_rev)) WITHOUT ROWID;
CREATE TABLE holding (
        space_id BIGINT NOT NULL, device_id BIGINT NOT NULL, lease BIGINT NOT NULL, serial BIGINT NOT NULL,
        until_ns BIGINT NOT NULL,
        PRIMARY KEY (space_id, device_id)) WITHOUT ROWID;
CREATE TABLE account (
        user_id BIGINT NOT NULL, user_name TEXT NOT NULL, password_hash TEXT NOT NULL, home BIGINT NOT NULL,
        created_ns BIGINT NOT NULL,
        PRIMARY KEY (user_id)) WITHOUT ROWID;
CREATE TABLE mount (
        user_id BIGINT NOT NULL, space_id BIGINT NOT NULL,
        PRIMARY KEY (user_id, space_id)) WITHOUT ROWID;
CREATE TABLE device (
        user_id BIGINT NOT NULL, device_id BIGINT NOT NULL, device_name TEXT NOT NULL, token_hash BYTEA NOT NULL,
        created_ns BIGINT NOT NULL, is_revoked SMALLINT NOT NULL, seen_ns BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (user_id, device_id)) WITHOUT ROWID;
CREATE TABLE lease (
        user_id BIGINT NOT NULL, range_number BIGINT NOT NULL, device_id BIGINT NOT NULL,
        PRIMARY KEY (user_id, range_number)) WITHOUT ROWID;
CREATE TABLE login (
        login_name TEXT NOT NULL, user_id BIGINT NOT NULL,
        PRIMARY KEY (login_name)) WITHOUT ROWID;
CREATE TABLE token (
        token_hash BYTEA NOT NULL, user_id BIGINT NOT NULL, device_id BIGINT NOT NULL,
        PRIMARY KEY (token_hash)) WITHOUT ROWID;
CREATE TABLE node_range (
        range_number BIGINT NOT NULL, user_id BIGINT NOT NULL,
        PRIMARY KEY (range_number)) WITHOUT ROWID;
CREATE TABLE chunk (
        chunk_id BYTEA NOT NULL, size INTEGER NOT NULL, pack BYTEA, pack_offset INTEGER NOT NULL,
        doubted SMALLINT NOT NULL DEFAULT 0,
        PRIMARY KEY (chunk_id)) WITHOUT ROWID;
CREATE TABLE link (
        user_id BIGINT NOT NULL, link_id BIGINT NOT NULL, space_id BIGINT NOT NULL, node_id BIGINT NOT NULL,
        kind TEXT NOT NULL, secret BYTEA NOT NULL, password_hash TEXT NOT NULL, created_ns BIGINT NOT NULL,
        expires_ns BIGINT NOT NULL, downloads_max BIGINT NOT NULL, downloads BIGINT NOT NULL,
        is_revoked SMALLINT NOT NULL,
        PRIMARY KEY (user_id, link_id)) WITHOUT ROWID;
CREATE TABLE link_secret (
        secret_hash BYTEA NOT NULL, user_id BIGINT NOT NULL, link_id BIGINT NOT NULL,
        PRIMARY KEY (secret_hash)) WITHOUT ROWID;
CREATE TABLE lost_chunk (
        chunk_id BYTEA NOT NULL, size INTEGER NOT NULL, found_ns BIGINT NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (chunk_id)) WITHOUT ROWID;
CREATE TABLE doomed (
        object_id BYTEA NOT NULL, is_pack SMALLINT NOT NULL,
        PRIMARY KEY (object_id)) WITHOUT ROWID;

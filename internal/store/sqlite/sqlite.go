// Package sqlite is the engine of the coordinator's keys on one machine: SQLite in pure Go.
//
//	s, err := sqlite.Open("/var/lib/consilium/state.db")
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//	value, rev, err := s.Load(ctx, "round/7")
//	…
//	revs, err := s.SwapAll(ctx, store.Change{Key: "round/7", Rev: rev, Value: value}) // store.ErrStale: somebody else was first
//
// A write is durable when its function returns nil: write-ahead log, synchronous=FULL (SQLite, "PRAGMA
// synchronous"), one transaction each. One process holds the file, and writes through one connection.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver named "sqlite"

	"github.com/consilium-fl/consilium/internal/store"
)

// The application id ("Cons") and the version of the schema, in the file's header.
const (
	applicationID = 0x436f6e73
	version       = 1
)

// A revision is taken from one counter for all keys and never given out twice (AUTOINCREMENT keeps
// the highest it ever gave), so that a key deleted and made again does not match an old revision.
const schema = `CREATE TABLE entry (
	rev   INTEGER PRIMARY KEY AUTOINCREMENT,
	key   TEXT NOT NULL UNIQUE,
	value BLOB NOT NULL
) STRICT`

// Store is one open database. Its methods may be called from many goroutines.
type Store struct {
	lock  io.Closer
	write *sql.DB // one connection: SQLite has one writer, and waiting here is fairer than its busy loop
	read  *sql.DB

	load, list, remove, insert *sql.Stmt
}

// Open opens or makes the database at path, mode 0600. store.ErrLocked says that another process
// has it; a file that something else made, or a later version of this package, is refused.
func Open(path string) (*Store, error) {
	s := &Store{}
	if err := s.open(path); err != nil {
		return nil, fmt.Errorf("opening store %q: %w", path, errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *Store) open(path string) (err error) {
	if s.lock, err = store.Lock(path + ".lock"); err != nil {
		return err
	}
	// SQLite gives its -wal and -shm files the mode of the database, which it would make 0644.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if s.write, err = sql.Open("sqlite", dsn(path, "rw")); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(); err != nil {
		return err
	}
	if s.read, err = sql.Open("sqlite", dsn(path, "ro")); err != nil {
		return err
	}
	s.read.SetMaxIdleConns(4)
	if err := s.prepare(); err != nil {
		return err
	}
	return store.SyncDir(filepath.Dir(path))
}

// dsn gives each connection its pragmas; fullfsync asks the drive itself where fsync does not (macOS).
func dsn(path, mode string) string {
	q := url.Values{"mode": {mode}, "_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(10000)", "synchronous(FULL)", "fullfsync(1)", "checkpoint_fullfsync(1)",
	}}
	if mode == "rw" {
		q["_pragma"] = append(q["_pragma"], "journal_mode(WAL)")
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// migrate checks that the file is ours and the pragmas took, and makes the table in an empty one.
func (s *Store) migrate() error {
	for _, p := range []struct{ name, want string }{{"journal_mode", "wal"}, {"synchronous", "2"}} {
		var got string
		if err := s.write.QueryRow("PRAGMA " + p.name).Scan(&got); err != nil {
			return err
		}
		if got != p.want {
			return fmt.Errorf("%s is %q, want %q: this file system cannot keep it", p.name, got, p.want)
		}
	}
	var app, ver, tables int
	if err := s.write.QueryRow("SELECT a.application_id, v.user_version, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id a, pragma_user_version v").Scan(&app, &ver, &tables); err != nil {
		return err
	}
	switch {
	case app == applicationID && ver == version:
		return nil
	case app == 0 && ver == 0 && tables == 0:
		return s.create()
	default:
		return fmt.Errorf("application id %#x and version %d with %d tables, want %#x and %d", app, ver, tables, applicationID, version)
	}
}

func (s *Store) create() error {
	tx, err := s.write.Begin()
	if err != nil {
		return err
	}
	for _, q := range []string{schema, fmt.Sprintf("PRAGMA application_id = %d", applicationID), fmt.Sprintf("PRAGMA user_version = %d", version)} {
		if _, err := tx.Exec(q); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

func (s *Store) prepare() error {
	for _, p := range []struct {
		db   *sql.DB
		to   **sql.Stmt
		text string
	}{
		{s.read, &s.load, "SELECT value, rev FROM entry WHERE key = ?"},
		{s.read, &s.list, "SELECT key, value, rev FROM entry WHERE key >= ? AND key < ? ORDER BY key"},
		{s.write, &s.remove, "DELETE FROM entry WHERE key = ? AND rev = ?"},
		{s.write, &s.insert, "INSERT INTO entry (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"},
	} {
		st, err := p.db.Prepare(p.text)
		if err != nil {
			return err
		}
		*p.to = st
	}
	return nil
}

// Load returns a key's value and revision, or store.ErrNotFound. It sees every Swap and Delete that
// has returned.
func (s *Store) Load(ctx context.Context, key string) (value []byte, rev int64, err error) {
	err = s.load.QueryRowContext(ctx, key).Scan(&value, &rev)
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, 0, fmt.Errorf("loading %q: %w", key, err)
	}
	return value, rev, nil
}

// SwapAll replaces the value of each key whose revision is still the one given, or makes the key where that is 0, and
// returns the new revisions; all of it has happened, or nothing has and the error is store.ErrStale, never store.ErrNotFound.
// After any other error the swap may or may not have happened: Load tells. A ctx that ends in the middle is not
// obeyed, so that it cannot make that doubt.
func (s *Store) SwapAll(ctx context.Context, changes ...store.Change) (revs []int64, err error) {
	for _, c := range changes {
		if err := errors.Join(ctx.Err(), store.CheckKey(c.Key), store.CheckValue(c.Value)); err != nil {
			return nil, fmt.Errorf("swapping %q: %w", c.Key, err)
		}
	}
	ctx = context.WithoutCancel(ctx)
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("swapping: %w", err)
	}
	for _, c := range changes {
		rev, err := s.swap(ctx, tx, c)
		if err != nil {
			_ = tx.Rollback() // the error at hand is the one to tell
			return nil, fmt.Errorf("swapping %q at revision %d: %w", c.Key, c.Rev, err)
		}
		revs = append(revs, rev)
	}
	// A crash before the commit leaves the old values, one after it the new ones.
	if err := tx.Commit(); err != nil {
		return nil, fmt.Errorf("swapping: %w", err)
	}
	return revs, nil
}

func (s *Store) swap(ctx context.Context, tx *sql.Tx, c store.Change) (newRev int64, err error) {
	if c.Value == nil {
		c.Value = []byte{} // nil would be NULL
	}
	if c.Rev != 0 {
		if err := exactlyOne(tx.StmtContext(ctx, s.remove).ExecContext(ctx, c.Key, c.Rev)); err != nil {
			return 0, err
		}
	}
	r, err := tx.StmtContext(ctx, s.insert).ExecContext(ctx, c.Key, c.Value)
	if err := exactlyOne(r, err); err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

// exactlyOne is ErrStale where a statement touched no row.
func exactlyOne(r sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := r.RowsAffected()
	if err != nil {
		return err
	}
	if n != 1 {
		return store.ErrStale
	}
	return nil
}

// Delete removes a key at whatever revision. That it was not there is no error.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := ctx.Err()
	if err == nil {
		_, err = s.write.ExecContext(context.WithoutCancel(ctx), "DELETE FROM entry WHERE key = ?", key)
	}
	if err != nil {
		return fmt.Errorf("deleting %q: %w", key, err)
	}
	return nil
}

// List calls f for each key with the prefix, in byte order, as of one moment; f may call the store. An error of f ends it
// and is returned as it is. The value is f's own.
func (s *Store) List(ctx context.Context, prefix string, f func(key string, value []byte, rev int64) error) (err error) {
	// No UTF-8 holds a byte 0xff, so prefix + 0xff is behind every key that has the prefix.
	rows, err := s.list.QueryContext(ctx, prefix, prefix+"\xff")
	if err != nil {
		return fmt.Errorf("listing %q: %w", prefix, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var (
			key   string
			value []byte
			rev   int64
		)
		if err := rows.Scan(&key, &value, &rev); err != nil {
			return fmt.Errorf("listing %q: %w", prefix, err)
		}
		if err := f(key, value, rev); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("listing %q: %w", prefix, err)
	}
	return nil
}

// Close ends every connection, then lets another process in. Calls still under way fail.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

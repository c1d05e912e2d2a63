package refresh

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse/internal/durable"
	"github.com/consilium-fl/consilium/internal/signed"
)

// Bounds of the cache.
const (
	maxRecords = 2048    // files
	maxRecord  = 1 << 20 // bytes of one
	maxCache   = 8 << 20 // and of all
	maxMarks   = 1 << 20 // bytes of the memory of what is newest
)

const (
	recordSuffix = ".record"
	marksName    = "newest"
)

// record is what a source gave, as the cache keeps it: one file, so that a document and the chain of who signed it are
// replaced together.
type record struct {
	Source  string   `cbor:"1,keyasint"`
	Fetched int64    `cbor:"2,keyasint"` // Unix
	Parts   [][]byte `cbor:"3,keyasint"`
}

func (r record) size() int {
	n := 0
	for _, p := range r.Parts {
		n += len(p)
	}
	return n
}

func (r record) fetched() time.Time { return time.Unix(r.Fetched, 0) }

// cache is the folder. It trusts nothing that it reads: the Refresher checks a record from here as it checks an answer.
type cache struct {
	dir    string
	folder *durable.Folder
}

func openCache(dir string) (*cache, error) {
	f, err := durable.Open(dir)
	if err != nil {
		return nil, err
	}
	return &cache{dir, f}, nil
}

// load returns the records that are there and the memory. What cannot be read is left out, and named in broken.
func (c *cache) load() (records []record, m marks, broken map[string]error, err error) {
	if m, err = c.marks(); err != nil {
		return nil, nil, nil, err
	}
	names, err := durable.Names(c.dir)
	if err != nil {
		return nil, nil, nil, err
	}
	broken = map[string]error{}
	total := 0
	for _, n := range names {
		source, ok := strings.CutSuffix(n, recordSuffix)
		if !ok {
			continue
		}
		r, err := c.record(n, source)
		if err == nil && (len(records) == maxRecords || total+r.size() > maxCache) {
			err = fmt.Errorf("record %q: more than %d records or %d bytes", n, maxRecords, maxCache)
		}
		if err != nil {
			broken[source] = err
			continue
		}
		records = append(records, r)
		total += r.size()
	}
	return records, m, broken, nil
}

func (c *cache) record(file, source string) (record, error) {
	b, err := durable.Read(filepath.Join(c.dir, file), maxRecord)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := signed.Decode(b, &r); err != nil {
		return record{}, fmt.Errorf("record %q: %w", file, err)
	}
	if r.Source != source || checkName(source) != nil {
		return record{}, fmt.Errorf("record %q: it is of source %q", file, r.Source)
	}
	return r, nil
}

// marks returns what was newest. A memory that cannot be read is an error: without it an older list could come back.
func (c *cache) marks() (marks, error) {
	b, err := durable.Read(filepath.Join(c.dir, marksName), maxMarks)
	if errors.Is(err, fs.ErrNotExist) {
		return marks{}, nil
	}
	if err != nil {
		return nil, err
	}
	m := marks{}
	if err := signed.Decode(b, &m); err != nil {
		return nil, fmt.Errorf("reading %q, without which something older could come back: %w", filepath.Join(c.dir, marksName), err)
	}
	return m, nil
}

func (c *cache) store(r record) error {
	b, err := signed.Encode(r)
	if err != nil {
		return err
	}
	if len(b) > maxRecord {
		return fmt.Errorf("a record of %d bytes, want at most %d", len(b), maxRecord)
	}
	return c.folder.Write(r.Source+recordSuffix, b)
}

func (c *cache) remember(m marks) error {
	b, err := signed.Encode(m)
	if err != nil {
		return err
	}
	if len(b) > maxMarks {
		return fmt.Errorf("a memory of %d bytes, want at most %d", len(b), maxMarks)
	}
	return c.folder.Write(marksName, b)
}

func (c *cache) remove(source string) error { return c.folder.Remove(source + recordSuffix) }

func (c *cache) close() error { return c.folder.Close() }

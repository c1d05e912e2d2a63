package refresh

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
)

// prefix is what the names of a Refresher's own files in its snapshots begin with.
const prefix = "fetched-"

// rebase takes the steward's part, and holds what the cache has against its anchors: a record was fetched under some,
// and one under an anchor that is gone is not trusted any more. It holds the lock.
func (r *Refresher) rebase(base *endorse.Snapshot) error {
	now := r.config.Now()
	r.base, r.authority = base, newAuthority(base, now)
	m := maps.Clone(r.newest)
	m.raiseAll(r.authority.marks)
	r.readmit(now)
	for _, e := range r.entries {
		switch {
		case e.record.Source == "":
		case e.err == nil:
			m.raiseAll(e.item.marks)
			e.due = r.again(e, e.record.fetched())
		case e.source != nil:
			e.due = now
		}
	}
	var err error
	if !maps.Equal(m, r.newest) {
		r.newest = m
		err = r.cache.remember(m)
	}
	r.rebuild()
	return err
}

// readmit checks all records. Those that fail are checked again, since a certificate may have come before its issuer's.
func (r *Refresher) readmit(now time.Time) {
	for _, e := range r.entries {
		e.item = nil
	}
	for range 2 {
		for _, e := range r.entries {
			if e.record.Source == "" || e.item != nil {
				continue
			}
			if e.item, e.err = r.judge(e, now); e.err == nil {
				r.authority.learn(e.item)
			}
		}
	}
}

// judge checks a record as of the time at which it was fetched: how old it is the policy judges.
func (r *Refresher) judge(e *entry, now time.Time) (*admitted, error) {
	at := e.record.fetched()
	if at.After(now) {
		return nil, fmt.Errorf("it was fetched at %s, and now is %s", at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	item, err := r.authority.admit(e.name, e.record.Parts, anchorOf(e.source), at)
	if err != nil {
		return nil, err
	}
	if err := r.newest.refuse(item.marks); err != nil {
		return nil, err
	}
	return item, nil
}

// rebuild makes a snapshot, and tells of it where it differs. It holds the lock.
func (r *Refresher) rebuild() {
	r.offered = time.Time{}
	files := r.steward()
	var chips, others []*x509.Certificate
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		e := r.entries[name]
		if e.item == nil {
			continue
		}
		chips, others = append(chips, e.item.chips...), append(others, e.item.others...)
		for i, p := range e.item.files() {
			add(files, fmt.Sprintf("%s%s-%d", prefix, name, i), p)
		}
	}
	add(files, prefix+"certificates.der", concatenate(others))
	material := digestOf(files)
	add(files, prefix+"chips.der", concatenate(chips))
	s, err := endorse.New(files)
	if r.buildErr = err; err != nil { // more than a snapshot holds; the steward's part alone is not
		s, material = r.base, r.base.Digest()
	}
	if old := r.snapshot.Load(); old == nil || old.Digest() != s.Digest() {
		r.snapshot.Store(s)
	}
	if material != r.material {
		r.material = material
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// steward is the steward's part, without documents of which something newer was seen that is not here: the memory
// holds for what was installed by hand too. Where the newer one is here, a verifier takes that.
func (r *Refresher) steward() map[string][]byte {
	here := maps.Clone(r.authority.marks)
	for _, e := range r.entries {
		if e.item != nil {
			here.raiseAll(e.item.marks)
		}
	}
	files := map[string][]byte{}
	for name, b := range r.base.Files() {
		if !slices.ContainsFunc(r.authority.documents[name], func(d string) bool { return r.newest.refuse(marks{d: here[d]}) != nil }) {
			files[name] = b
		}
	}
	return files
}

// add gives a file a name that the steward has not given to another.
func add(files map[string][]byte, name string, b []byte) {
	if len(b) == 0 {
		return
	}
	for files[name] != nil {
		name += "-"
	}
	files[name] = b
}

// concatenate makes one file of certificates, each once.
func concatenate(cs []*x509.Certificate) []byte {
	var ders [][]byte
	for _, c := range cs {
		ders = append(ders, c.Raw)
	}
	slices.SortFunc(ders, bytes.Compare)
	return slices.Concat(slices.CompactFunc(ders, bytes.Equal)...)
}

func digestOf(files map[string][]byte) [32]byte {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		d := sha256.Sum256(files[name])
		fmt.Fprintf(h, "%q%x", name, d)
	}
	return [32]byte(h.Sum(nil))
}

package audit

import (
	"bytes"
	"context"
	"testing"
)

func FuzzParseLeaf(f *testing.F) {
	f.Add([]byte(goodLeaf))
	f.Add(testLeaf(1).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ParseLeaf(b); err == nil && !bytes.Equal(l.Encode(), b) {
			t.Errorf("%q is taken and encodes as %q", b, l.Encode())
		}
	})
}

func FuzzParsePromised(f *testing.F) {
	good := newFakeLog(3).add(testLeaf(3).Encode()).Encode()
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		// The log key signed one promise: nothing else may be taken.
		if _, _, err := ParsePromised(b, testOrigin, logPublic()); err == nil && !bytes.Equal(b, good) {
			t.Errorf("%x is taken", b)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	l := newFakeLog(3)
	f.Add(l.checkpoint(3))
	f.Add(l.counted(3, hospitals...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(b, testOrigin, logPublic(), testWitnesses())
		if err == nil && (c.Size != 3 || c.Root != l.at(3).Root || len(c.Cosigned) > len(hospitals)) {
			t.Errorf("%q is taken as %+v", b, c)
		}
	})
}

func FuzzMergeCosignatures(f *testing.F) {
	l := newFakeLog(3)
	line, err := cosign(l.at(3), "va", noon, testKey("va"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add(append(line, line...))
	f.Fuzz(func(t *testing.T, b []byte) {
		merged, c, err := MergeCosignatures(l.checkpoint(3), [][]byte{b}, testOrigin, logPublic(), testWitnesses())
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseCheckpoint(merged, testOrigin, logPublic(), testWitnesses())
		if err != nil || len(again.Cosigned) != len(c.Cosigned) {
			t.Errorf("%q merges to a note that reads %+v, %v", b, again, err)
		}
	})
}

func FuzzParseReceipt(f *testing.F) {
	good, err := MakeReceipt(testReceipt(), receiptKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseReceipt(b, knownKey); err == nil && !bytes.Equal(b, good) {
			t.Errorf("%q is taken", b)
		}
	})
}

func FuzzResource(f *testing.F) {
	f.Add("tile/0/000.p/3")
	f.Add("tile/entries/x001/234")
	f.Fuzz(func(t *testing.T, s string) {
		if tile, err := parseResource(s); err == nil && resource(tile) != s {
			t.Errorf("%q is taken as %q", s, resource(tile))
		}
	})
}

// FuzzTiles gives the reader one tile and one bundle of its own making.
func FuzzTiles(f *testing.F) {
	l := newFakeLog(3)
	read := func(name string) []byte {
		b, err := l.Read(context.Background(), name)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	tile, bundle := read("tile/0/000.p/3"), read("tile/entries/000.p/3")
	f.Add(tile, bundle)
	f.Fuzz(func(t *testing.T, tile2, bundle2 []byte) {
		r := mapReader(map[string][]byte{"tile/0/000.p/3": tile2, "tile/entries/000.p/3": bundle2})
		same := bytes.Equal(tile, tile2) && bytes.Equal(bundle, bundle2)
		if _, err := VerifyLog(t.Context(), r, l.at(3)); (err == nil) != same {
			t.Errorf("tile %x, bundle %x: %v", tile2, bundle2, err)
		}
		err := CheckInclusion(t.Context(), r, l.at(3), 1, LeafHash(l.entries[1]))
		if (err == nil) != bytes.Equal(tile, tile2) {
			t.Errorf("tile %x: %v", tile2, err)
		}
		_ = readLeaves(t.Context(), r, l.at(3), 0, 3, func(i uint64, got Leaf) error {
			if got != testLeaf(int(i)) {
				t.Errorf("leaf %d is %+v", i, got)
			}
			return nil
		})
	})
}

func FuzzMemory(f *testing.F) {
	l := newFakeLog(3)
	m := &fakeMemory{}
	c := AuditorConfig{Origin: testOrigin, Log: logPublic(), Witnesses: testWitnesses(), Memory: m}
	a, err := NewAuditor(c)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := a.Advance(context.Background(), l); err != nil {
		f.Fatal(err)
	}
	if err := a.Expect(l.add(testLeaf(3).Encode())); err != nil {
		f.Fatal(err)
	}
	f.Add(m.b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		c.Memory = &fakeMemory{b: b}
		_, _ = NewAuditor(c)
	})
}

package aggregate

import (
	"crypto/subtle"
	"fmt"

	"github.com/consilium-fl/consilium/internal/signed"
)

// releaseText is what a Release seals: one entry for each dealer of the roster, in its order.
type releaseText struct {
	Shares []releasedShare `cbor:"1,keyasint"`
	Random [32]byte        `cbor:"2,keyasint"`
}

// releasedShare is the share of a seed for a dealer that uploaded, of a mask key for one that did
// not: never both. It is empty where the holder got no good share.
type releasedShare struct {
	Value   []byte `cbor:"1,keyasint"`
	Opening []byte `cbor:"2,keyasint"`
}

// writeRelease takes what a holder holds, by dealer. Which of the two shares goes out follows from the
// signed set alone: U is the set, D is the rest of the roster.
func (f *facts) writeRelease(held map[MemberID]*pieces, random [32]byte) []byte {
	text := releaseText{Random: random}
	for _, d := range f.roster.dealers {
		var s releasedShare
		if p, ok := held[d.id]; ok {
			if _, uploaded := f.survivors.find(d.id); uploaded {
				s.Value, s.Opening = p.seed()
			} else {
				s.Value, s.Opening = p.key()
			}
		}
		text.Shares = append(text.Shares, s)
	}
	return encode(text)
}

// readRelease checks what holder released against the commitments of the deals.
func (f *facts) readRelease(plain []byte, holder MemberID) (*releasedBy, error) {
	var text releaseText
	if err := signed.Decode(plain, &text); err != nil {
		return nil, err
	}
	if len(text.Shares) != len(f.roster.dealers) {
		return nil, fmt.Errorf("%d shares, want %d", len(text.Shares), len(f.roster.dealers))
	}
	out := &releasedBy{seeds: map[MemberID][2]share{}, keys: map[MemberID]share{}, random: text.Random}
	for i := range f.roster.dealers {
		if err := f.readShare(out, &f.roster.dealers[i], text.Shares[i], holder); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f *facts) readShare(out *releasedBy, d *dealt, s releasedShare, holder MemberID) error {
	if f.complained(holder, d.id) {
		return nil // never asked for this one, whatever it sent
	}
	if len(s.Value) == 0 {
		if _, uploaded := f.survivors.find(holder); uploaded {
			return fmt.Errorf("no share of %q, about whom it did not complain", d.id)
		}
		return nil
	}
	at, _ := f.committee.find(holder)
	committed := d.deal.Shares[at]
	if _, uploaded := f.survivors.find(d.id); uploaded {
		seed, opening, err := parseSeedPiece(s.Value)
		if err != nil {
			return fmt.Errorf("share of %q: %w", d.id, err)
		}
		out.seeds[d.id] = [2]share{seed, opening}
		return f.matches("seed share", d.id, holder, s, committed.SeedCommit)
	}
	key, err := parseShare(s.Value)
	if err != nil {
		return fmt.Errorf("share of %q: %w", d.id, err)
	}
	out.keys[d.id] = key
	return f.matches("key share", d.id, holder, s, committed.KeyCommit)
}

func (f *facts) matches(what string, dealer, holder MemberID, s releasedShare, want [32]byte) error {
	got := commit(what, f.committee.digest, dealer, holder, s.Value, s.Opening)
	if subtle.ConstantTimeCompare(got[:], want[:]) == 0 {
		return fmt.Errorf("share of %q does not match its commitment", dealer)
	}
	return nil
}

// complained says whether a holder named a dealer in its Upload.
func (f *facts) complained(holder, dealer MemberID) bool {
	c, ok := f.survivors.find(holder)
	if !ok {
		return false
	}
	for _, d := range c.upload.Complaints {
		if d == dealer {
			return true
		}
	}
	return false
}

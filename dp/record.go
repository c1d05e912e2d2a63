package dp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/consilium-fl/consilium/internal/signed"
)

// What an entry of a ledger does.
const (
	actCharge  = 1
	actClose   = 2
	actForfeit = 3
)

// record is one entry as the journal holds it: its digest, then its deterministic CBOR. The digest
// is the head of the chain; Prev, the head before it, is part of what is hashed.
type record struct {
	Act      uint8    `cbor:"1,keyasint"`
	Index    uint64   `cbor:"2,keyasint"`
	Prev     [32]byte `cbor:"3,keyasint"`
	Study    [32]byte `cbor:"4,keyasint"`
	Registry string   `cbor:"5,keyasint"`
	Epsilon  float64  `cbor:"6,keyasint"`
	Delta    float64  `cbor:"7,keyasint"`
	Limit    uint64   `cbor:"8,keyasint"`
	Number   uint64   `cbor:"9,keyasint"`
	Plan     [32]byte `cbor:"10,keyasint"`
	Roster   [32]byte `cbor:"11,keyasint"`
}

const (
	maxRecord   = 1024
	maxRegistry = 256
)

func (r record) charge() Charge {
	return Charge{
		Registry: r.Registry, Study: r.Study, Number: r.Number, Plan: r.Plan, Roster: r.Roster,
		Reserve: Budget{r.Epsilon, r.Delta}, Limit: r.Limit,
	}
}

// check refuses what no study can ask for.
func (c Charge) check() error {
	switch {
	case c.Registry == "" || len(c.Registry) > maxRegistry:
		return fmt.Errorf("registry name of %d bytes, want 1 to %d", len(c.Registry), maxRegistry)
	case strings.ToValidUTF8(c.Registry, "") != c.Registry:
		return fmt.Errorf("registry %q is not UTF-8", c.Registry)
	case c.Study == [32]byte{}:
		return errors.New("no study")
	case c.Limit == 0:
		return errors.New("limit 0, want at least one charge")
	}
	if err := c.Reserve.check(); err != nil {
		return fmt.Errorf("reserve: %w", err)
	}
	return nil
}

func (r record) encode() (b []byte, head [32]byte) {
	payload, err := signed.Encode(r)
	if err != nil {
		panic("dp: a checked charge always encodes: " + err.Error())
	}
	head = recordHead(payload)
	return append(head[:], payload...), head
}

func recordHead(payload []byte) [32]byte {
	return sha256.Sum256(append([]byte("consilium/v1/ledger\x00"), payload...))
}

// parseRecord reads what encode wrote, and nothing else.
func parseRecord(b []byte) (r record, head [32]byte, err error) {
	if len(b) < len(head) || len(b) > maxRecord {
		return record{}, head, fmt.Errorf("%d bytes, want %d to %d", len(b), len(head), maxRecord)
	}
	payload := b[len(head):]
	head = recordHead(payload)
	if !bytes.Equal(head[:], b[:len(head)]) {
		return record{}, head, fmt.Errorf("digest %x, want %x", b[:4], head[:4])
	}
	if err := signed.Decode(payload, &r); err != nil {
		return record{}, head, err
	}
	if err := r.check(); err != nil {
		return record{}, head, err
	}
	if again, _ := r.encode(); !bytes.Equal(again, b) {
		return record{}, head, errors.New("another encoding than the deterministic one")
	}
	return r, head, nil
}

func (r record) check() error {
	switch bare := (record{Act: r.Act, Index: r.Index, Prev: r.Prev, Study: r.Study}); {
	case r.Act == actCharge:
		return r.charge().check()
	case r.Act == actForfeit:
		if r.Number != 0 || r.Plan != [32]byte{} || r.Roster != [32]byte{} || r.Limit != 1 {
			return errors.New("a forfeited study with a round")
		}
		return r.charge().check()
	case r.Act != actClose:
		return fmt.Errorf("act %d, want %d to %d", r.Act, actCharge, actForfeit)
	case r != bare || r.Study == [32]byte{}:
		return errors.New("a closing entry with more or less than a study")
	}
	return nil
}

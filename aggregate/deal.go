package aggregate

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/subtle"
	"fmt"
	"io"
)

// pieces are what a dealer gives one member of the committee, as the box holds them:
// the share of the seed and of the seed's opening, their opening, the share of the mask key, its opening.
type pieces [piecesBytes]byte

const (
	seedPieceBytes = 2 * shareBytes
	keyPieceBytes  = shareBytes
	piecesBytes    = seedPieceBytes + 32 + keyPieceBytes + 32
	boxBytes       = piecesBytes + 16 // AES-GCM's tag
)

func (p *pieces) seed() (value, opening []byte) {
	return p[:seedPieceBytes], p[seedPieceBytes:][:32]
}

func (p *pieces) key() (value, opening []byte) {
	const start = seedPieceBytes + 32
	return p[start:][:keyPieceBytes], p[start+keyPieceBytes:][:32]
}

// commitments to both values, for the holder that gets them.
func (p *pieces) commitments(committee [32]byte, dealer, to MemberID) (seed, key [32]byte) {
	value, opening := p.seed()
	seed = commit("seed share", committee, dealer, to, value, opening)
	value, opening = p.key()
	key = commit("key share", committee, dealer, to, value, opening)
	return seed, key
}

// seedCommitment is what Deal.Seed holds.
func seedCommitment(committee [32]byte, dealer MemberID, seed, opening [32]byte) [32]byte {
	return commit("seed", committee, dealer, "", seed[:], opening[:])
}

// dealing is a dealer's side: its secrets and what it agreed on with each holder.
type dealing struct {
	self      MemberID
	committee *committee
	seed      [32]byte
	mask      *ecdh.PrivateKey
	agreed    map[MemberID][]byte // X25519 of the seal keys
	entropy   io.Reader
}

// deal shares the seed and the mask key to the committee and returns the dealer's own pieces, which
// stay in memory: sent to nobody, they are only committed to.
func (d dealing) deal() (Deal, pieces, error) {
	var opening [32]byte
	defer clear(opening[:])
	if _, err := io.ReadFull(d.entropy, opening[:]); err != nil {
		return Deal{}, pieces{}, fmt.Errorf("dealing: %w", err)
	}
	all, err := d.split(opening)
	if err != nil {
		return Deal{}, pieces{}, fmt.Errorf("dealing: %w", err)
	}
	defer clear(all)
	m := Deal{Committee: d.committee.digest, Seed: seedCommitment(d.committee.digest, d.self, d.seed, opening)}
	var own pieces
	for i, to := range d.committee.parties {
		s := Share{To: to.id}
		s.SeedCommit, s.KeyCommit = all[i].commitments(d.committee.digest, d.self, to.id)
		if to.id == d.self {
			own = all[i]
		} else {
			s.Box = sealBox(boxKey(d.agreed[to.id], d.committee.digest, d.self, to.id), &all[i])
		}
		m.Shares = append(m.Shares, s)
	}
	return m, own, nil
}

func (d dealing) split(opening [32]byte) ([]pieces, error) {
	n, t := len(d.committee.parties), d.committee.threshold
	key := [32]byte(d.mask.Bytes())
	defer clear(key[:])
	var parts [3][]share
	for i, secret := range [...]*[32]byte{&d.seed, &opening, &key} {
		var err error
		if parts[i], err = split(*secret, t, n, d.entropy); err != nil {
			return nil, err
		}
		defer clear(parts[i])
	}
	all := make([]pieces, n)
	for i := range all {
		p := &all[i]
		value, open := p.seed()
		parts[1][i].append(parts[0][i].append(value[:0]))
		if _, err := io.ReadFull(d.entropy, open); err != nil {
			return nil, err
		}
		value, open = p.key()
		parts[2][i].append(value[:0])
		if _, err := io.ReadFull(d.entropy, open); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// openShare is a holder's side: the pieces that dealer sealed to it, checked against the dealer's
// commitments. An error is a reason to complain.
func openShare(shared []byte, c *committee, dealer, self MemberID, s Share) (pieces, error) {
	p, err := openBox(boxKey(shared, c.digest, dealer, self), s.Box)
	if err != nil {
		return pieces{}, err
	}
	seed, key := p.commitments(c.digest, dealer, self)
	if subtle.ConstantTimeCompare(seed[:], s.SeedCommit[:])&subtle.ConstantTimeCompare(key[:], s.KeyCommit[:]) == 0 {
		return pieces{}, fmt.Errorf("share does not match its commitment")
	}
	value, _ := p.seed()
	if _, _, err := parseSeedPiece(value); err != nil {
		return pieces{}, err
	}
	value, _ = p.key()
	if _, err := parseShare(value); err != nil {
		return pieces{}, err
	}
	return p, nil
}

func parseSeedPiece(b []byte) (seed, opening share, err error) {
	if len(b) != seedPieceBytes {
		return seed, opening, fmt.Errorf("seed share of %d bytes, want %d", len(b), seedPieceBytes)
	}
	if seed, err = parseShare(b[:shareBytes]); err != nil {
		return seed, opening, err
	}
	opening, err = parseShare(b[shareBytes:])
	return seed, opening, err
}

// The key of a box seals once, so its nonce is zero.
func sealBox(key [32]byte, p *pieces) []byte {
	return boxCipher(key).Seal(nil, make([]byte, 12), p[:], nil)
}

func openBox(key [32]byte, box []byte) (pieces, error) {
	if len(box) != boxBytes {
		return pieces{}, fmt.Errorf("box of %d bytes, want %d", len(box), boxBytes)
	}
	plain, err := boxCipher(key).Open(nil, make([]byte, 12), box, nil)
	if err != nil {
		return pieces{}, fmt.Errorf("box does not open")
	}
	defer clear(plain)
	return pieces(plain), nil
}

func boxCipher(key [32]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("aggregate: AES takes 32 bytes: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("aggregate: GCM takes AES: " + err.Error())
	}
	return aead
}

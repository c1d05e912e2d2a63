package audit

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxCheckpoint bounds a checkpoint with its co-signatures, in bytes.
const MaxCheckpoint = 32 << 10

// maxCosignatures leaves room for the log's own line: x/mod's note.Open takes at most 100.
const maxCosignatures = 99

// maxSize bounds the size of a tree, in leaves, far from where index arithmetic could overflow.
const maxSize = 1 << 48

// Signature types of C2SP signed-note.
const (
	algEd25519     = 0x01
	algCosignature = 0x04
)

// A Checkpoint commits to the first Size leaves of a log (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin   string
	Size     uint64
	Root     [32]byte // RFC 6962
	Cosigned []string // hospitals whose co-signature verified, each once, sorted
	Ignored  int      // signature lines of keys that are no witness of this log: never counted
}

// Witnesses are the co-signers of a log: hospital → witness key.
type Witnesses struct {
	Keys map[string]ed25519.PublicKey
	Need int // Quorum(members, colluding)
}

// Quorum is ⌊(members+colluding)/2⌋+1: any two sets of so many members share more than `colluding`,
// one honest member at least, and that one co-signs a single history.
func Quorum(members, colluding int) int { return (members+colluding)/2 + 1 }

// Counts reports whether enough witnesses co-signed c, which was parsed with the same witnesses.
func (w Witnesses) Counts(c Checkpoint) bool { return w.Need >= 1 && len(c.Cosigned) >= w.Need }

// WitnessName is the name that a hospital's co-signatures carry: "heart.example/hospital/cleveland".
// It holds the consortium's name and no study: C2SP tlog-cosignature signs the origin with the tree.
func WitnessName(origin, hospital string) (string, error) {
	consortium, _, err := parseOrigin(origin)
	if err != nil {
		return "", err
	}
	if hospital == "" || len(hospital) > 64 || strings.ContainsFunc(hospital, notInName) || strings.ContainsAny(hospital, "+/") {
		return "", fmt.Errorf("hospital %q, want 1 to 64 letters, digits and ._:@-", hospital)
	}
	return consortium + "/hospital/" + hospital, nil
}

// verifiers are what can sign a checkpoint of this log: one key under two names would count twice,
// and the log's own key would count as a hospital, so both are errors.
func (w Witnesses) verifiers(origin string, log ed25519.PublicKey) (map[string]verifier, error) {
	if len(log) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("log key has %d bytes, want %d", len(log), ed25519.PublicKeySize)
	}
	vs := make(map[string]verifier, 1+len(w.Keys))
	owner := map[string]string{string(log): "the log"}
	for h, k := range w.Keys {
		name, err := WitnessName(origin, h)
		if err != nil {
			return nil, err
		}
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("witness key of %q has %d bytes, want %d", h, len(k), ed25519.PublicKeySize)
		}
		if o, ok := owner[string(k)]; ok {
			return nil, fmt.Errorf("%q and %q have the same key", h, o)
		}
		owner[string(k)] = h
		vs[name] = verifier{name: name, hospital: h, alg: algCosignature, key: k}
	}
	vs[origin] = verifier{name: origin, alg: algEd25519, key: log}
	return vs, nil
}

// verifier is a note.Verifier for one of the two algorithms of a checkpoint.
type verifier struct {
	name, hospital string
	alg            byte
	key            ed25519.PublicKey
	once           *once
}

// once remembers signatures that were good, by digest of key, signature and message: a checkpoint comes to
// an Auditor when it is published, in answer to a co-signature, and when it counts. A nil one remembers none.
type once struct {
	mu   sync.Mutex
	good map[[32]byte]struct{}
}

// maxOnce bounds it: the signatures of some checkpoints.
const maxOnce = 512

func (o *once) verify(key ed25519.PublicKey, msg, sig []byte) bool {
	if o == nil {
		return ed25519.Verify(key, msg, sig)
	}
	id := sha256.Sum256(slices.Concat(key, sig, msg)) // keys and signatures have one length each
	o.mu.Lock()
	_, ok := o.good[id]
	o.mu.Unlock()
	if ok {
		return true
	}
	if !ed25519.Verify(key, msg, sig) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.good == nil || len(o.good) == maxOnce {
		o.good = map[[32]byte]struct{}{}
	}
	o.good[id] = struct{}{}
	return true
}

func (v verifier) Name() string    { return v.name }
func (v verifier) KeyHash() uint32 { return keyHash(v.name, v.alg, v.key) }

func (v verifier) Verify(msg, sig []byte) bool {
	if v.alg == algEd25519 {
		return len(sig) == ed25519.SignatureSize && v.once.verify(v.key, msg, sig)
	}
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	return v.once.verify(v.key, cosignedBytes(binary.BigEndian.Uint64(sig), msg), sig[8:])
}

// keyHash is the key ID of C2SP signed-note: SHA-256 of name, newline, algorithm and key, cut to
// four bytes.
func keyHash(name string, alg byte, key ed25519.PublicKey) uint32 {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{'\n', alg})
	h.Write(key)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// LogKeyHash is the key ID under which the log of that origin signs its checkpoints.
func LogKeyHash(origin string, log ed25519.PublicKey) uint32 {
	return keyHash(origin, algEd25519, log)
}

// cosignedBytes is what a witness signs (C2SP tlog-cosignature): a header, the time in Unix seconds,
// and the text of the checkpoint.
func cosignedBytes(t uint64, text []byte) []byte {
	b := strconv.AppendUint([]byte("cosignature/v1\ntime "), t, 10)
	return append(append(b, '\n'), text...)
}

type known map[string]verifier

func (k known) Verifier(name string, hash uint32) (note.Verifier, error) {
	if v, ok := k[name]; ok && v.KeyHash() == hash {
		return v, nil
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
}

// ParseCheckpoint reads a checkpoint of the log of that origin: a signed note, signed by the log,
// in canonical form and without extension lines. A witness's bad co-signature is an error, one of
// an unknown key is ignored, and a witness counts once however often it signed.
func ParseCheckpoint(b []byte, origin string, log ed25519.PublicKey, w Witnesses) (Checkpoint, error) {
	return parseCheckpoint(b, origin, log, w, nil)
}

func parseCheckpoint(b []byte, origin string, log ed25519.PublicKey, w Witnesses, o *once) (Checkpoint, error) {
	c, _, err := openCheckpoint(b, origin, log, w, o)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("parsing checkpoint of %q: %w", origin, err)
	}
	return c, nil
}

func openCheckpoint(b []byte, origin string, log ed25519.PublicKey, w Witnesses, o *once) (Checkpoint, *note.Note, error) {
	if len(b) > MaxCheckpoint {
		return Checkpoint{}, nil, fmt.Errorf("%d bytes, want at most %d", len(b), MaxCheckpoint)
	}
	vs, err := w.verifiers(origin, log)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	for name, v := range vs {
		v.once = o
		vs[name] = v
	}
	n, err := note.Open(b, known(vs))
	if err != nil {
		return Checkpoint{}, nil, err
	}
	c, err := parseText(n.Text, origin)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	byLog := false
	for _, s := range n.Sigs {
		if s.Name == origin {
			byLog = true
		} else {
			c.Cosigned = append(c.Cosigned, vs[s.Name].hospital)
		}
	}
	if !byLog {
		return Checkpoint{}, nil, fmt.Errorf("not signed by the log")
	}
	slices.Sort(c.Cosigned)
	c.Ignored = len(n.UnverifiedSigs)
	for _, s := range slices.Concat(n.Sigs, n.UnverifiedSigs) {
		// A lenient base64 reader lets flipped padding bits pass.
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return Checkpoint{}, nil, fmt.Errorf("signature of %q: %w", s.Name, err)
		}
	}
	return c, n, nil
}

// parseText reads the three lines of a checkpoint: origin, size, root.
func parseText(text, origin string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("%d lines, want origin, size and root", len(lines)-1)
	}
	if lines[0] != origin {
		return Checkpoint{}, fmt.Errorf("origin %q, want %q", lines[0], origin)
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || size > maxSize {
		return Checkpoint{}, fmt.Errorf("size %q, want a number up to %d", lines[1], uint64(maxSize))
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != 32 {
		return Checkpoint{}, fmt.Errorf("root %q, want 32 bytes in base64", lines[2])
	}
	c := Checkpoint{Origin: origin, Size: size, Root: [32]byte(root)}
	if c.text() != text {
		return Checkpoint{}, fmt.Errorf("size %q or root %q not in canonical form", lines[1], lines[2])
	}
	if size == 0 && c.Root != sha256.Sum256(nil) {
		return Checkpoint{}, fmt.Errorf("root of the empty log is %x, want %x", c.Root, sha256.Sum256(nil))
	}
	return c, nil
}

func (c Checkpoint) text() string {
	return c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

func (c Checkpoint) tree() tlog.Tree { return tlog.Tree{N: int64(c.Size), Hash: c.Root} }

// signatureLine is one line of a signed note.
func signatureLine(name string, hash uint32, sig []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, hash)
	return []byte("\u2014 " + name + " " + base64.StdEncoding.EncodeToString(append(b, sig...)) + "\n")
}

// SignCheckpoint makes the signed note of a checkpoint: the log's part of it.
func SignCheckpoint(c Checkpoint, log crypto.Signer) ([]byte, error) {
	pub, ok := log.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("signing checkpoint of %q: key is %T, want Ed25519", c.Origin, log.Public())
	}
	text := []byte(c.text())
	sig, err := log.Sign(nil, text, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint of %q: %w", c.Origin, err)
	}
	return slices.Concat(text, []byte("\n"), signatureLine(c.Origin, keyHash(c.Origin, algEd25519, pub), sig)), nil
}

// cosign makes the line by which a witness adds its co-signature to c.
func cosign(c Checkpoint, hospital string, at time.Time, witness crypto.Signer) ([]byte, error) {
	name, err := WitnessName(c.Origin, hospital)
	if err != nil {
		return nil, err
	}
	pub, ok := witness.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("witness key is %T, want Ed25519", witness.Public())
	}
	t := uint64(max(at.Unix(), 0))
	sig, err := witness.Sign(nil, cosignedBytes(t, []byte(c.text())), crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	return signatureLine(name, keyHash(name, algCosignature, pub), append(binary.BigEndian.AppendUint64(nil, t), sig...)), nil
}

// MergeCosignatures adds the lines that are good co-signatures of this checkpoint by witnesses that
// have none on it yet, and drops every other. The result lists co-signatures by hospital; of more
// than 99 the first 99 are kept, since a note holds 100.
func MergeCosignatures(checkpoint []byte, lines [][]byte, origin string, log ed25519.PublicKey, w Witnesses) ([]byte, Checkpoint, error) {
	c, n, err := openCheckpoint(checkpoint, origin, log, w, nil)
	if err != nil {
		return nil, Checkpoint{}, fmt.Errorf("merging co-signatures into checkpoint of %q: %w", origin, err)
	}
	var own []byte
	byHospital := map[string][]byte{}
	vs, err := w.verifiers(origin, log)
	if err != nil {
		return nil, Checkpoint{}, fmt.Errorf("merging co-signatures into checkpoint of %q: %w", origin, err)
	}
	for _, s := range n.Sigs {
		line := []byte("\u2014 " + s.Name + " " + s.Base64 + "\n")
		if s.Name == origin {
			own = line
		} else {
			byHospital[vs[s.Name].hospital] = line
		}
	}
	for _, l := range lines {
		for line := range bytes.Lines(l) {
			if h, ok := goodCosignature(line, n.Text, vs); ok && byHospital[h] == nil {
				byHospital[h] = line
			}
		}
	}
	c.Cosigned, c.Ignored = nil, 0
	out := append([]byte(n.Text+"\n"), own...)
	for h := range w.Keys {
		if byHospital[h] != nil {
			c.Cosigned = append(c.Cosigned, h)
		}
	}
	slices.Sort(c.Cosigned)
	c.Cosigned = c.Cosigned[:min(len(c.Cosigned), maxCosignatures)]
	for _, h := range c.Cosigned {
		out = append(out, byHospital[h]...)
	}
	return out, c, nil
}

func goodCosignature(line []byte, text string, vs map[string]verifier) (hospital string, ok bool) {
	if len(line) > 512 {
		return "", false
	}
	rest, ok := strings.CutPrefix(string(line), "\u2014 ")
	name, b64, _ := strings.Cut(rest, " ")
	v, found := vs[name]
	if !ok || !found || v.alg != algCosignature {
		return "", false
	}
	b64, ok = strings.CutSuffix(b64, "\n")
	sig, err := base64.StdEncoding.Strict().DecodeString(b64)
	if !ok || err != nil || len(sig) < 4 || strings.ContainsAny(b64, "\r\n") || binary.BigEndian.Uint32(sig) != v.KeyHash() {
		return "", false
	}
	return v.hospital, v.Verify([]byte(text), sig[4:])
}

package study

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

const (
	enrolmentType    = "application/vnd.consilium.enrolment+json"
	enrolmentVersion = "consilium.enrolment/v1"
	stopKind         = "stop"
)

// Enrolment is governance's statement about a node. One node a hospital lives: the highest serial wins, which is
// for those who keep the serials they have seen.
type Enrolment struct {
	Consortium  string // name, not digest: a later serial of the file changes no enrolment
	Hospital    string
	Node        string
	NodeKey     ed25519.PublicKey
	WitnessKey  ed25519.PublicKey
	Serial      uint64 // from 1
	Predecessor *Stop  // nil for the first, or after a lost machine: then charged studies are closed for this hospital
	Until       time.Time
}

// Stop is the predecessor's signed stop and final ledger head.
type Stop struct {
	Node      string
	Serial    uint64
	Head      [32]byte
	Key       ed25519.PublicKey // the predecessor's node key; whoever knows its enrolment compares it with that
	Signature []byte            // by Key, kind "stop"
}

type stopPayload struct {
	Consortium string `cbor:"1,keyasint"`
	Hospital   string `cbor:"2,keyasint"`
	Node       string `cbor:"3,keyasint"`
	Serial     uint64 `cbor:"4,keyasint"`
	Head       []byte `cbor:"5,keyasint"`
}

// NewStop is the last word of a node: it will charge no more, and its ledger ends at head.
func NewStop(consortium, hospital, node string, serial uint64, head [32]byte, key ed25519.PrivateKey) (Stop, error) {
	payload, err := signed.Encode(stopPayload{consortium, hospital, node, serial, head[:]})
	if err != nil {
		return Stop{}, err
	}
	sig, err := signed.Sign(key, stopKind, payload)
	if err != nil {
		return Stop{}, err
	}
	return Stop{Node: node, Serial: serial, Head: head, Key: key.Public().(ed25519.PublicKey), Signature: sig}, nil
}

func (s Stop) verify(consortium, hospital string) error {
	payload, err := signed.Encode(stopPayload{consortium, hospital, s.Node, s.Serial, s.Head[:]})
	if err != nil {
		return err
	}
	return signed.Verify(s.Key, stopKind, payload, s.Signature)
}

type stopJSON struct {
	Node      string `json:"node"`
	Serial    uint64 `json:"serial"`
	Head      string `json:"head"`
	Key       string `json:"key"`
	Signature string `json:"signature"`
}

// Encode writes the stop as the file that the steward hands to whoever enrols the next node.
func (s Stop) Encode() []byte { return append(encodeStatement(s.json()), '\n') }

func (s Stop) json() *stopJSON {
	return &stopJSON{s.Node, s.Serial, hex.EncodeToString(s.Head[:]), signed.KeyText(s.Key), base64.StdEncoding.EncodeToString(s.Signature)}
}

// ParseStop reads what Encode wrote; Enrolment.Sign checks the signature.
func ParseStop(file []byte) (Stop, error) {
	var j stopJSON
	if n := len(file); n == 0 || file[n-1] != '\n' {
		return Stop{}, errors.New("parsing stop: no newline at the end")
	}
	if err := decodeStatement(file[:len(file)-1], &j); err != nil {
		return Stop{}, fmt.Errorf("parsing stop: %w", err)
	}
	s, err := j.stop()
	if err != nil {
		return Stop{}, fmt.Errorf("parsing stop: %w", err)
	}
	return s, nil
}

func (j *stopJSON) stop() (Stop, error) {
	s := Stop{Node: j.Node, Serial: j.Serial}
	head, err := signed.ParseDigest("sha256:" + j.Head)
	if err != nil {
		return Stop{}, fmt.Errorf("ledger head: %w", err)
	}
	s.Head = head
	if s.Key, err = signed.ParseKey(j.Key); err != nil {
		return Stop{}, err
	}
	if s.Signature, err = base64.StdEncoding.Strict().DecodeString(j.Signature); err != nil {
		return Stop{}, fmt.Errorf("stop signature: %w", err)
	}
	return s, nil
}

type enrolmentJSON struct {
	Version     string    `json:"version"`
	Consortium  string    `json:"consortium"`
	Hospital    string    `json:"hospital"`
	Node        string    `json:"node"`
	NodeKey     string    `json:"node_key"`
	WitnessKey  string    `json:"witness_key"`
	Serial      uint64    `json:"serial"`
	Predecessor *stopJSON `json:"predecessor"`
	Until       string    `json:"until"`
}

// Sign returns the DSSE file of the enrolment, signed by the hospital's governance key.
func (e Enrolment) Sign(governance ed25519.PrivateKey) ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("signing enrolment: %w", err)
	}
	j := enrolmentJSON{
		Version: enrolmentVersion, Consortium: e.Consortium, Hospital: e.Hospital, Node: e.Node,
		NodeKey: signed.KeyText(e.NodeKey), WitnessKey: signed.KeyText(e.WitnessKey), Serial: e.Serial, Until: stamp(e.Until),
	}
	if e.Predecessor != nil {
		j.Predecessor = e.Predecessor.json()
	}
	return signStatement(enrolmentType, j, governance)
}

func (e Enrolment) validate() error {
	switch {
	case !dottedForm.MatchString(e.Consortium) || !labelForm.MatchString(e.Hospital) || !labelForm.MatchString(e.Node):
		return fmt.Errorf("consortium %s, hospital %s, node %s: want lower-case names", quote(e.Consortium), quote(e.Hospital), quote(e.Node))
	case len(e.NodeKey) != ed25519.PublicKeySize || len(e.WitnessKey) != ed25519.PublicKeySize:
		return errors.New("node and witness keys have to be Ed25519 public keys")
	case isLowOrder(e.NodeKey) || isLowOrder(e.WitnessKey):
		return errors.New("a key of low order, for which anyone can sign")
	case e.NodeKey.Equal(e.WitnessKey):
		return errors.New("one key for node and witness, want two")
	case e.Serial < 1:
		return errors.New("serial 0, want at least 1")
	case e.Predecessor == nil:
		return nil
	case e.Predecessor.Serial < 1 || e.Predecessor.Serial >= e.Serial:
		return fmt.Errorf("predecessor has serial %d, want from 1 and below %d", e.Predecessor.Serial, e.Serial)
	case e.Predecessor.Key.Equal(e.NodeKey) || isLowOrder(e.Predecessor.Key):
		return errors.New("the predecessor's key is this node's or of low order")
	}
	if err := e.Predecessor.verify(e.Consortium, e.Hospital); err != nil {
		return fmt.Errorf("stop of the predecessor: %w", err)
	}
	return nil
}

// ParseEnrolment reads an enrolment and checks that the governance key of the hospital it names has signed it, that it
// is of this consortium and has not ended. Every signature inside verifies; that the predecessor is the node
// known before, and that the serial is the highest, is for the caller, who remembers them.
func (c *Consortium) ParseEnrolment(file []byte, at time.Time) (Enrolment, error) {
	e, err := c.parseEnrolment(file)
	if err == nil && !at.Before(e.Until) {
		err = fmt.Errorf("of node %q of %q ended at %s", e.Node, e.Hospital, stamp(e.Until))
	}
	if err != nil {
		return Enrolment{}, fmt.Errorf("parsing enrolment: %w", err)
	}
	return e, nil
}

func (c *Consortium) parseEnrolment(file []byte) (Enrolment, error) {
	env, err := signed.ParseEnvelope(file, enrolmentType)
	if err != nil {
		return Enrolment{}, err
	}
	var j enrolmentJSON
	if err := decodeStatement(env.Payload, &j); err != nil {
		return Enrolment{}, err
	}
	if j.Version != enrolmentVersion {
		return Enrolment{}, fmt.Errorf("version %s, want %q", quote(j.Version), enrolmentVersion)
	}
	h, known := c.Hospitals[j.Hospital]
	if !known || j.Consortium != c.Name {
		return Enrolment{}, fmt.Errorf("of hospital %s of %s, want one of %s", quote(j.Hospital), quote(j.Consortium), c.Name)
	}
	if err := onlySignedBy(env, h.Governance); err != nil {
		return Enrolment{}, fmt.Errorf("of hospital %q: %w", j.Hospital, err)
	}
	e, err := j.enrolment()
	if err != nil {
		return Enrolment{}, err
	}
	return e, e.validate()
}

func (j *enrolmentJSON) enrolment() (e Enrolment, err error) {
	e = Enrolment{Consortium: j.Consortium, Hospital: j.Hospital, Node: j.Node, Serial: j.Serial}
	if e.NodeKey, err = signed.ParseKey(j.NodeKey); err != nil {
		return e, err
	}
	if e.WitnessKey, err = signed.ParseKey(j.WitnessKey); err != nil {
		return e, err
	}
	if e.Until, err = parseStamp(j.Until); err != nil {
		return e, err
	}
	if j.Predecessor != nil {
		s, err := j.Predecessor.stop()
		if err != nil {
			return e, err
		}
		e.Predecessor = &s
	}
	return e, nil
}

// Enrolled is the part of ParseEnrolment that a keyring needs.
func (c *Consortium) Enrolled(file []byte, at time.Time) (hospital string, nodeKey ed25519.PublicKey, err error) {
	e, err := c.ParseEnrolment(file, at)
	return e.Hospital, e.NodeKey, err
}

package intake

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/attest/azure"
)

// Bounds of a search: how deep what is found nests, and how many pieces there may be.
const (
	maxDepth  = 16
	maxPieces = 64
)

// search collects pieces. What a value is shows in its bytes, so no list of keys of tools is needed.
type search struct {
	pieces []piece
	room   int // bytes that may still come out of compressed ones
	err    error
}

func (s *search) add(ps ...piece) bool {
	s.pieces = append(s.pieces, ps...)
	return len(ps) > 0
}

// bytes recognises decoded bytes: a statement or what comes along with one, or what holds them. PEM and JSON in base64
// are usual.
func (s *search) bytes(b []byte, depth int) bool {
	if len(b) == 0 || depth > maxDepth || len(s.pieces) > maxPieces {
		return false
	}
	if s.add(raw(b)...) || s.add(certificates(b)...) || s.json(b, depth) {
		return true
	}
	if isEventLog(b) {
		return s.add(piece{kind: eventLog, b: b})
	}
	return s.bytes(s.inflate(b), depth+1)
}

// inflate undoes gzip, nil where it is none or has no end within the bound.
func (s *search) inflate(b []byte) []byte {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(io.LimitReader(z, int64(s.room)+1))
	s.room -= len(out)
	if err != nil || s.room < 0 {
		s.room = max(s.room, 0)
		return nil
	}
	return out
}

// json walks over an object, a list or a quoted text, and says whether b is one.
func (s *search) json(b []byte, depth int) bool {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || !strings.ContainsRune(`{["`, rune(b[0])) {
		return false
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if d.Decode(&v) != nil || len(bytes.TrimSpace(b[d.InputOffset():])) != 0 {
		return false
	}
	s.walk(v, depth)
	return true
}

// walk looks at v and what is under it, keys in order.
func (s *search) walk(v any, depth int) {
	if depth > maxDepth || len(s.pieces) > maxPieces || s.err != nil {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if s.object(v) {
			return
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			s.walk(v[key], depth+1)
		}
	case []any:
		if b := numbers(v); b != nil {
			s.bytes(b, depth+1)
			return
		}
		for _, x := range v {
			s.walk(x, depth+1)
		}
	case string:
		if !s.bytes([]byte(v), depth+1) {
			s.bytes(text([]byte(v)), depth+1)
		}
	}
}

// object takes an object that is one piece as a whole.
func (s *search) object(o map[string]any) bool {
	if r := fields(o); r != nil {
		return s.add(piece{kind: snpReport, b: r})
	}
	if s.add(jsonMessage(o)...) {
		return true
	}
	_, pcrs := o["quote"].(map[string]any) // of the first form
	switch {
	case o["hcl_report"] != nil, pcrs && o["report"] != nil && o["vcek"] != nil:
		e, err := azure.FromTrustee(written(o))
		s.err = err
		return s.add(piece{kind: evidence, whole: e})
	case o["tcb_info"] != nil && o["qe_identity"] != nil:
		return s.add(piece{kind: collateral, b: written(o)})
	}
	return false
}

// written is an object that was read, in JSON again.
func written(o map[string]any) []byte {
	b, err := json.Marshal(o)
	if err != nil {
		return nil // of what a decoder made, there is none
	}
	return b
}

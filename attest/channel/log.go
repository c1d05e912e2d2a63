package channel

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/consilium-fl/consilium/attest"
)

const (
	// logChunk is what one Log carries, but for the last of a log.
	logChunk = MaxFrame - 1<<10
	// logPlaces bounds the event logs that a server reads and judges at once, each of attest.MaxEventLog at most: whoever
	// knocks can fill these places, and no more. What fits into a Proof needs none.
	logPlaces = 8
)

// split takes the event logs out of a record. The record that is left shares the rest.
func split(r attest.Record) (attest.Record, map[string][]byte) {
	logs := map[string][]byte{}
	rest := maps.Clone(r.Evidence.Endorsements)
	for _, name := range []string{attest.EventLog, attest.CCEL} {
		if b := rest[name]; len(b) > 0 {
			logs[name] = b
			delete(rest, name)
		}
	}
	r.Evidence.Endorsements = rest
	return r, logs
}

// writeProof sends a record, and returns it encoded. Its event logs follow in frames of their own where not all of it
// fits into one.
func writeProof(w io.Writer, r attest.Record, nonce [32]byte) (encoded []byte, err error) {
	rest, logs := split(r)
	p := Proof{Nonce: nonce, Logs: map[string]uint64{}}
	for name, b := range logs {
		p.Logs[name] = uint64(len(b))
	}
	if rs := refusedLogs(p.Logs); len(rs) > 0 {
		return nil, rs[0]
	}
	if encoded, err = r.Encode(); err != nil {
		return nil, err
	}
	if len(encoded) <= logChunk {
		return encoded, writeFrame(w, frame{Proof: &Proof{Record: encoded, Nonce: nonce}})
	}
	if p.Record, err = rest.Encode(); err != nil {
		return nil, err
	}
	return encoded, writeParts(w, p, logs)
}

func writeParts(w io.Writer, p Proof, logs map[string][]byte) error {
	if err := writeFrame(w, frame{Proof: &p}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		for part := range slices.Chunk(logs[name], logChunk) {
			if err := writeFrame(w, frame{Log: &Log{Part: part}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// refusedLogs says what is wrong with the logs that a proof announces, before a byte of them is read.
func refusedLogs(announced map[string]uint64) []attest.Reason {
	var total uint64
	for _, name := range slices.Sorted(maps.Keys(announced)) {
		n := announced[name]
		if name != attest.EventLog && name != attest.CCEL || n == 0 {
			return []attest.Reason{{Code: CodeProof, Path: "logs", Got: fmt.Sprintf("%.32q of %d bytes", name, n), Want: attest.EventLog + " or " + attest.CCEL}}
		}
		if n > attest.MaxEventLog || total+n > attest.MaxEventLog {
			return []attest.Reason{{Code: attest.CodeParseLength, Path: "evidence.endorsements." + name, Got: strconv.FormatUint(total+n, 10), Want: "at most " + strconv.Itoa(attest.MaxEventLog)}}
		}
		total += n
	}
	return nil
}

// readLogs reads what a proof announced. Its memory grows with what arrives.
func readLogs(r io.Reader, announced map[string]uint64) (map[string][]byte, error) {
	logs := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(announced)) {
		for n := announced[name]; uint64(len(logs[name])) < n; {
			f, err := readFrame(r, MaxFrame)
			if err != nil {
				return nil, fmt.Errorf("waiting for the event log: %w", err)
			}
			want := min(n-uint64(len(logs[name])), logChunk)
			if f.Log == nil || uint64(len(f.Log.Part)) != want {
				return nil, fmt.Errorf("waiting for the event log: got another frame, want %d bytes of it", want)
			}
			logs[name] = append(logs[name], f.Log.Part...)
		}
	}
	return logs, nil
}

// take reads a peer's record, and its event logs where they come apart.
func take(r io.Reader, p Proof) (attest.Record, []attest.Reason, error) {
	if rs := refusedLogs(p.Logs); len(rs) > 0 {
		return attest.Record{}, rs, nil
	}
	record, err := attest.ParseRecord(p.Record)
	if err != nil {
		return attest.Record{}, []attest.Reason{{Code: CodeProof, Path: "record", Got: err.Error()}}, nil
	}
	if len(p.Logs) == 0 {
		return record, nil, nil
	}
	if _, inside := split(record); len(inside) > 0 {
		return attest.Record{}, []attest.Reason{{Code: CodeProof, Path: "logs", Got: "an event log inside the record too", Want: "one place"}}, nil
	}
	logs, err := readLogs(r, p.Logs)
	if err != nil {
		return attest.Record{}, nil, err
	}
	if record.Evidence.Endorsements == nil {
		record.Evidence.Endorsements = map[string][]byte{}
	}
	maps.Copy(record.Evidence.Endorsements, logs)
	return record, nil, nil
}

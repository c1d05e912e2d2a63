package intel

import (
	"crypto/sha512"
	"encoding/binary"
)

// EventLog is a CC event log as firmware writes it, with the registers that it measured into.
type EventLog struct {
	Bytes []byte
	RTMR  [4][48]byte
}

// NewEventLog is one without events: the Specification ID event alone, with SHA-384.
func NewEventLog() *EventLog {
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0)
	b := binary.LittleEndian.AppendUint32(nil, 1)
	b = binary.LittleEndian.AppendUint32(b, 3)
	b = append(b, make([]byte, 20)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(spec)))
	return &EventLog{Bytes: append(b, spec...)}
}

// Measure extends a register with a digest and writes an event about it.
func (l *EventLog) Measure(rtmr int, kind uint32, digest [48]byte, data []byte) {
	l.Write(rtmr, kind, digest, data)
	l.RTMR[rtmr] = sha512.Sum384(append(l.RTMR[rtmr][:], digest[:]...))
}

// Write writes an event and measures nothing.
func (l *EventLog) Write(rtmr int, kind uint32, digest [48]byte, data []byte) {
	for _, n := range []uint32{uint32(rtmr + 1), kind, 1} {
		l.Bytes = binary.LittleEndian.AppendUint32(l.Bytes, n)
	}
	l.Bytes = append(l.Bytes, 0x0c, 0)
	l.Bytes = append(l.Bytes, digest[:]...)
	l.Bytes = binary.LittleEndian.AppendUint32(l.Bytes, uint32(len(data)))
	l.Bytes = append(l.Bytes, data...)
}

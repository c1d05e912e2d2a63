package intel

// DER tags (ITU-T X.690) that the PCK extension uses.
const (
	tagInteger  = 0x02
	tagOctets   = 0x04
	tagOID      = 0x06
	tagSequence = 0x30
)

// der reads a concatenation of DER elements. What is not DER makes it bad, for good.
type der struct {
	rest []byte
	bad  bool
}

func (d *der) more() bool { return !d.bad && len(d.rest) > 0 }

// any returns the next element's tag and content.
func (d *der) any() (tag byte, content []byte) {
	if d.bad || len(d.rest) < 2 {
		d.bad = true
		return 0, nil
	}
	tag = d.rest[0]
	n, head := int(d.rest[1]), 2
	switch {
	case n < 0x80:
	case n == 0x81 && len(d.rest) > 2 && d.rest[2] >= 0x80:
		n, head = int(d.rest[2]), 3
	case n == 0x82 && len(d.rest) > 3 && d.rest[2] != 0:
		n, head = int(d.rest[2])<<8|int(d.rest[3]), 4
	default: // longer than an extension is, or not the shortest form
		d.bad = true
		return 0, nil
	}
	if n > len(d.rest)-head {
		d.bad = true
		return 0, nil
	}
	content, d.rest = d.rest[head:head+n], d.rest[head+n:]
	return tag, content
}

func (d *der) take(tag byte) []byte {
	got, content := d.any()
	if got != tag {
		d.bad = true
	}
	if d.bad {
		return nil
	}
	return content
}

func (d *der) sequence() der {
	content := d.take(tagSequence)
	return der{rest: content, bad: d.bad}
}

// octets is an OCTET STRING of n bytes.
func (d *der) octets(n int) []byte {
	b := d.take(tagOctets)
	if len(b) != n {
		d.bad = true
		return nil
	}
	return b
}

// number is an INTEGER from 0 to most, which is below 2^23.
func (d *der) number(most int) int {
	b := d.take(tagInteger)
	if len(b) == 0 || len(b) > 3 || b[0] >= 0x80 || len(b) > 1 && b[0] == 0 && b[1] < 0x80 {
		d.bad = true
		return 0
	}
	n := 0
	for _, x := range b {
		n = n<<8 | int(x)
	}
	if n > most {
		d.bad = true
	}
	return n
}

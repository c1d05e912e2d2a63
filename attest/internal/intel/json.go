package intel

import "bytes"

// document reads the JSON that Intel's service writes: objects, lists, texts without escapes and whole numbers.
// Whatever else it meets makes it bad, for good. It copies nothing, and a thousand levels of a
// document cost no allocation.
type document struct {
	rest []byte
	bad  bool
}

// Bounds of one document: nesting, and names in one object.
const (
	maxDepth = 8
	maxNames = 24
)

func (d *document) fail() byte {
	d.bad, d.rest = true, nil
	return 0
}

// peek returns the next byte that is not white space, 0 at the end.
func (d *document) peek() byte {
	d.rest = bytes.TrimLeft(d.rest, " \t\r\n")
	if len(d.rest) == 0 {
		return 0
	}
	return d.rest[0]
}

// eat takes c, which has to come next.
func (d *document) eat(c byte) {
	if d.peek() != c || c == 0 {
		d.fail()
		return
	}
	d.rest = d.rest[1:]
}

// list reads items between open and its end; item has to take one each time.
func (d *document) list(open, end byte, item func()) {
	d.eat(open)
	if d.peek() == end {
		d.eat(end)
		return
	}
	for !d.bad {
		item()
		if d.peek() == end {
			d.eat(end)
			return
		}
		d.eat(',')
	}
}

func (d *document) array(item func()) { d.list('[', ']', item) }

// object calls field with each name, once; field has to read the value, or skip it.
func (d *document) object(field func(name []byte)) {
	var seen [maxNames][]byte
	n := 0
	d.list('{', '}', func() {
		name := d.text()
		for _, s := range seen[:n] {
			if bytes.Equal(s, name) {
				d.fail() // two readers would take different ones
			}
		}
		if n == maxNames {
			d.fail()
		}
		d.eat(':')
		if d.bad {
			return
		}
		seen[n] = name
		n++
		field(name)
	})
}

func (d *document) text() []byte {
	d.eat('"')
	for i, c := range d.rest {
		switch {
		case c == '"':
			out := d.rest[:i]
			d.rest = d.rest[i+1:]
			return out
		case c < ' ' || c > '~' || c == '\\':
			d.fail()
			return nil
		}
	}
	d.fail()
	return nil
}

// number is a whole one from 0 to most.
func (d *document) number(most int) int {
	d.peek()
	n, i := 0, 0
	for ; i < len(d.rest) && '0' <= d.rest[i] && d.rest[i] <= '9'; i++ {
		n = n*10 + int(d.rest[i]-'0')
		if n > most || i > 0 && d.rest[0] == '0' {
			d.fail()
			return 0
		}
	}
	if i == 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[i:]
	return n
}

// skip passes over a value of a name that nobody here reads.
func (d *document) skip(depth int) {
	if depth == maxDepth {
		d.fail()
	}
	switch c := d.peek(); c {
	case '{':
		d.object(func([]byte) { d.skip(depth + 1) })
	case '[':
		d.array(func() { d.skip(depth + 1) })
	case '"':
		d.text()
	default:
		for _, word := range [...]string{"true", "false", "null"} {
			if rest, ok := bytes.CutPrefix(d.rest, []byte(word)); ok {
				d.rest = rest
				return
			}
		}
		d.number(1<<53 - 1)
	}
}

// hex reads a text of exactly len(to) bytes in hex, of either case.
func (d *document) hex(to []byte) {
	digits := d.text()
	if len(digits) != 2*len(to) {
		d.fail()
		return
	}
	for i := range to {
		hi, lo := digit(digits[2*i]), digit(digits[2*i+1])
		if hi|lo > 15 {
			d.fail()
			return
		}
		to[i] = hi<<4 | lo
	}
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

func (d *document) end() bool { return d.peek() == 0 && len(d.rest) == 0 && !d.bad }

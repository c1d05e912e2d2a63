package attest

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"reflect"
	"slices"
)

const policyDomain = "consilium/policy/v2"

// Digest names what the policy admits: lists are sets, so order and repeats do not count.
//
// It is SHA-256 over a text that nothing but an equal policy has: each value with its kind and length, structs by the
// names of their fields. It is computed at every check, so it is not by an encoder that allocates.
func (p Policy) Digest() [32]byte {
	p.Accept, p.DenyGenerations, p.WarnGenerations = setOrder(p.Accept), setOrder(p.DenyGenerations), setOrder(p.WarnGenerations)
	p.MaxAge, p.Simulation = p.maxAge(), false
	d := digester{Hash: sha256.New()}
	d.text(policyDomain)
	d.value(reflect.ValueOf(&p).Elem())
	var out [32]byte
	d.Sum(out[:0])
	return out
}

// setOrder is the list sorted, each value once; a list that is so already is returned as it is.
func setOrder[T ~string](s []T) []T {
	for i := 1; i < len(s); i++ {
		if s[i] <= s[i-1] {
			return sortedSet(s)
		}
	}
	return s
}

type digester struct {
	hash.Hash
	buf []byte
}

func (d *digester) number(kind byte, n uint64) {
	d.buf = binary.BigEndian.AppendUint64(append(d.buf[:0], kind), n)
	_, _ = d.Write(d.buf) // a hash never fails
}

func (d *digester) text(s string) {
	d.number('t', uint64(len(s)))
	d.buf = append(d.buf[:0], s...)
	_, _ = d.Write(d.buf)
}

func (d *digester) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		n := uint64(0)
		if v.Bool() {
			n = 1
		}
		d.number('b', n)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		d.number('i', uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.number('u', v.Uint())
	case reflect.String:
		d.text(v.String())
	case reflect.Pointer:
		if v.IsNil() {
			d.number('n', 0)
			return
		}
		d.number('p', 1)
		d.value(v.Elem())
	case reflect.Slice:
		d.number('l', uint64(v.Len()))
		for i := range v.Len() {
			d.value(v.Index(i))
		}
	case reflect.Map:
		d.mapping(v)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Set]() && v.CanAddr() {
			d.set(v.Addr().Interface().(*Set))
			return
		}
		d.number('s', uint64(v.NumField()))
		for i := range v.NumField() {
			d.text(v.Type().Field(i).Name)
			d.value(v.Field(i))
		}
	default:
		panic("attest: a policy has a field of kind " + v.Kind().String() + ", whose digest nobody has thought of")
	}
}

func (d *digester) set(s *Set) {
	if s.Any {
		d.number('a', 0)
		return
	}
	of := setOrder(s.Of)
	d.number('e', uint64(len(of)))
	for _, x := range of {
		d.text(x)
	}
}

// mapping writes keys, which are texts or numbers, in order.
func (d *digester) mapping(v reflect.Value) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		if a.Kind() == reflect.String {
			return cmp.Compare(a.String(), b.String())
		}
		return cmp.Compare(a.Int(), b.Int())
	})
	d.number('m', uint64(len(keys)))
	for _, k := range keys {
		d.value(k)
		x := reflect.New(v.Type().Elem()).Elem() // so that it can be addressed
		x.Set(v.MapIndex(k))
		d.value(x)
	}
}

package strict

import "testing"

// TestOneForm has encodings that a lenient decoder reads as the value {1: 7, 2: two bytes}.
func TestOneForm(t *testing.T) {
	type value struct {
		N uint64  `cbor:"1,keyasint"`
		B [2]byte `cbor:"2,keyasint"`
	}
	for name, tc := range map[string]struct {
		in string
		ok bool
	}{
		"canonical":      {"\xa2\x01\x07\x02\x42\x01\x02", true},
		"long integer":   {"\xa2\x01\x18\x07\x02\x42\x01\x02", false},
		"long key":       {"\xa2\x18\x01\x07\x02\x42\x01\x02", false},
		"keys swapped":   {"\xa2\x02\x42\x01\x02\x01\x07", false},
		"short bytes":    {"\xa2\x01\x07\x02\x41\x01", false},
		"long bytes":     {"\xa2\x01\x07\x02\x43\x01\x02\x03", false},
		"array for them": {"\xa2\x01\x07\x02\x82\x01\x02", false},
		"missing":        {"\xa1\x01\x07", false},
		"unknown":        {"\xa3\x01\x07\x02\x42\x01\x02\x03\x00", false},
		"twice":          {"\xa3\x01\x07\x01\x07\x02\x42\x01\x02", false},
		"null":           {"\xf6", false},
		"trailing":       {"\xa2\x01\x07\x02\x42\x01\x02\x00", false},
	} {
		var v value
		if err := Decode([]byte(tc.in), 64, &v); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	var v value
	if err := Decode(make([]byte, 65), 64, &v); err == nil {
		t.Error("more than the limit was read")
	}
}

package intake

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
)

// numbers reads an array of byte values, as Rust's serialiser writes byte strings.
func numbers(v []any) []byte {
	if len(v) < 32 {
		return nil
	}
	b := make([]byte, 0, len(v))
	for _, x := range v {
		n, ok := number(x, 0xff)
		if !ok {
			return nil
		}
		b = append(b, byte(n))
	}
	return b
}

func number(v any, most uint64) (uint64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	var x uint64
	return x, json.Unmarshal([]byte(n), &x) == nil && x <= most
}

// fields writes a report back from its fields, as the Rust crate `sev` and what builds on it take it apart. A field
// that is not there is zero; one that came out wrong breaks the signature.
func fields(o map[string]any) []byte {
	for _, key := range []string{"version", "measurement", "report_data", "chip_id", "signature"} {
		if o[key] == nil {
			return nil
		}
	}
	b := make([]byte, reportSize)
	for _, f := range []struct {
		name     string
		at, size int
	}{
		{"version", 0x00, 4},
		{"guest_svn", 0x04, 4},
		{"policy", 0x08, 8},
		{"family_id", 0x10, 16},
		{"image_id", 0x20, 16},
		{"vmpl", 0x30, 4},
		{"sig_algo", 0x34, 4},
		{"current_tcb", 0x38, 8},
		{"plat_info", 0x40, 8},
		{"key_info", 0x48, 4},
		{"_author_key_en", 0x48, 4},
		{"author_key_en", 0x48, 4},
		{"report_data", 0x50, 64},
		{"measurement", 0x90, 48},
		{"host_data", 0xc0, 32},
		{"id_key_digest", 0xe0, 48},
		{"author_key_digest", 0x110, 48},
		{"report_id", 0x140, 32},
		{"report_id_ma", 0x160, 32},
		{"reported_tcb", 0x180, 8},
		{"cpuid_fam_id", 0x188, 1},
		{"cpuid_mod_id", 0x189, 1},
		{"cpuid_step", 0x18a, 1},
		{"chip_id", 0x1a0, 64},
		{"committed_tcb", 0x1e0, 8},
		{"current_build", 0x1e8, 1},
		{"current_minor", 0x1e9, 1},
		{"current_major", 0x1ea, 1},
		{"committed_build", 0x1ec, 1},
		{"committed_minor", 0x1ed, 1},
		{"committed_major", 0x1ee, 1},
		{"launch_tcb", 0x1f0, 8},
		{"launch_mit_vector", 0x1f8, 8},
		{"current_mit_vector", 0x200, 8},
	} {
		if !put(b[f.at:f.at+f.size], o[f.name]) {
			return nil
		}
	}
	for name, at := range map[string]int{"current": 0x1e8, "committed": 0x1ec} {
		v, _ := o[name].(map[string]any)
		for part, offset := range map[string]int{"build": 0, "minor": 1, "major": 2} {
			if !put(b[at+offset:at+offset+1], v[part]) {
				return nil
			}
		}
	}
	sig, ok := o["signature"].(map[string]any)
	if !ok || !put(b[0x2a0:0x2e8], sig["r"]) || !put(b[0x2e8:0x330], sig["s"]) {
		return nil
	}
	return b
}

// put writes a number in little endian, bytes as they are, or a patch level from its parts.
func put(to []byte, v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		if v {
			to[0] = 1
		}
		return true
	case json.Number:
		if len(to) > 8 {
			return false
		}
		n, ok := number(v, ^uint64(0)>>(64-8*len(to)))
		var le [8]byte
		binary.LittleEndian.PutUint64(le[:], n)
		copy(to, le[:])
		return ok
	case []any:
		if len(v) != len(to) {
			return false
		}
		for i, x := range v {
			n, ok := number(x, 0xff)
			if !ok {
				return false
			}
			to[i] = byte(n)
		}
		return true
	case string:
		n, err := hex.Decode(make([]byte, len(v)/2), []byte(v))
		if err != nil || len(v)%2 != 0 || n != len(to) {
			return false
		}
		n, err = hex.Decode(to, []byte(v))
		return err == nil && n == len(to)
	case map[string]any:
		return level(to, v)
	}
	return false
}

// level writes a patch level: where there is an FMC it is Turin's order, else that of the generations before.
func level(to []byte, v map[string]any) bool {
	order := map[string]int{"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
	if v["fmc"] != nil {
		order = map[string]int{"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
	}
	if len(to) != 8 {
		return false
	}
	for name, at := range order {
		if !put(to[at:at+1], v[name]) {
			return false
		}
	}
	return true
}

package tpm

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strings"
)

// HCL is an HCL report before it is encoded. The sizes are those of what it holds, unless Sizes changes them.
type HCL struct {
	Magic                             string
	Version, Request, Status          uint32
	DataVersion, ReportType, HashType uint32
	Hardware                          []byte // SNP report or TDREPORT
	Claims                            []byte
	Padding                           int
	Sizes                             func(whole, data, claims *uint32)
}

// NewHCL is a report over claims. hardware makes the SNP report (2) or TDREPORT (4) that is over the given data.
func NewHCL(kind uint32, claims []byte, hardware func(data [64]byte) []byte) HCL {
	var data [64]byte
	digest := sha256.Sum256(claims)
	copy(data[:], digest[:])
	return HCL{Magic: "HCLA", Version: 2, Request: 2, DataVersion: 1, ReportType: kind, HashType: 1, Hardware: hardware(data), Claims: claims, Padding: 100}
}

// Encode writes it.
func (h HCL) Encode() []byte {
	claims := uint32(len(h.Claims))
	data, whole := claims+20, claims+1236
	if h.Sizes != nil {
		h.Sizes(&whole, &data, &claims)
	}
	b := []byte(h.Magic)
	words := func(vs ...uint32) {
		for _, v := range vs {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
	}
	words(h.Version, whole, h.Request, h.Status, 0, 0, 0)
	b = append(b, h.Hardware...)
	b = append(b, make([]byte, 1184-len(h.Hardware))...)
	words(data, h.DataVersion, h.ReportType, h.HashType, claims)
	return append(append(b, h.Claims...), make([]byte, h.Padding)...)
}

// TDReport is a TDREPORT over data, as far as anybody looks at it.
func TDReport(data [64]byte) []byte {
	b := make([]byte, 1024)
	b[0] = 0x81
	copy(b[128:], data[:])
	return b
}

// Claims are runtime claims; nil user data leave that out, and change, if not nil, alters the rest.
func Claims(ak *rsa.PublicKey, userData []byte, change func(top, vm map[string]any)) []byte {
	key := func(kid, use string) map[string]any {
		return map[string]any{"kid": kid, "key_ops": []string{use}, "kty": "RSA", "e": "AQAB", "n": base64.RawURLEncoding.EncodeToString(ak.N.Bytes())}
	}
	vm := map[string]any{
		"console-enabled": false, "root-cert-thumbprint": "", "secure-boot": true, "tpm-enabled": true, "tpm-persisted": false, "vmUniqueId": "6332533D-5649-4D02-8AA7-8F64B7C3EE21",
	}
	top := map[string]any{"keys": []any{key("HCLAkPub", "sign"), key("HCLEkPub", "encrypt")}, "vm-configuration": vm}
	if userData != nil {
		top["user-data"] = strings.ToUpper(hex.EncodeToString(userData))
	}
	if change != nil {
		change(top, vm)
	}
	b, err := json.Marshal(top)
	check(err)
	return b
}

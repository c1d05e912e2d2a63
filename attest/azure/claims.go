package azure

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

const (
	akName    = "HCLAkPub" // of the TPM's attestation key among the keys
	userData  = 64         // bytes
	maxText   = 128        // of an id or a thumbprint
	maxRSAKey = 512        // bytes of a modulus
)

// parseClaims reads the runtime claims. Names that are not known here are left alone, for Azure adds some from time to
// time; a name that is there twice is refused, and spelling counts.
func parseClaims(b []byte) (*attest.AzureClaims, *rsa.PublicKey, error) {
	top, err := object(b)
	if err != nil {
		return nil, nil, badClaims("", err)
	}
	ak, err := attestationKey(top["keys"])
	if err != nil {
		return nil, nil, badClaims("keys", err)
	}
	c := &attest.AzureClaims{}
	if c.UserData, err = readUserData(top["user-data"]); err != nil {
		return nil, nil, badClaims("user-data", err)
	}
	vm, err := object(top["vm-configuration"])
	if err != nil {
		return nil, nil, badClaims("vm-configuration", err)
	}
	if err := readVM(vm, c); err != nil {
		return nil, nil, badClaims("vm-configuration", err)
	}
	return c, ak, nil
}

func badClaims(path string, err error) error {
	return refuse(attest.CodeHCLClaims, strings.TrimSuffix("claims."+path, "."), err.Error(), "the runtime claims of an HCL report")
}

func readVM(vm map[string]json.RawMessage, c *attest.AzureClaims) error {
	errs := []error{
		value(vm, "secure-boot", &c.SecureBoot), value(vm, "console-enabled", &c.Console), value(vm, "tpm-enabled", &c.TPM), value(vm, "vmUniqueId", &c.VM),
	}
	if vm["tpm-persisted"] != nil {
		c.TPMPersisted = new(bool)
		errs = append(errs, value(vm, "tpm-persisted", c.TPMPersisted))
	}
	if vm["root-cert-thumbprint"] != nil {
		errs = append(errs, value(vm, "root-cert-thumbprint", &c.RootCert))
	}
	if c.VM == "" || len(c.VM) > maxText || len(c.RootCert) > maxText {
		errs = append(errs, fmt.Errorf("vmUniqueId of %d bytes, root-cert-thumbprint of %d, want some of the first and at most %d", len(c.VM), len(c.RootCert), maxText))
	}
	return errors.Join(errs...)
}

// object reads a JSON object whose names are exact and each there once.
func object(b []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("no object")
	}
	out := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if out[name] != nil {
			return nil, fmt.Errorf("%q twice", name)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		out[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more after the object")
	}
	return out, nil
}

// value reads one of an object's; null is none.
func value(o map[string]json.RawMessage, name string, to any) error {
	v := o[name]
	if v == nil || string(v) == "null" {
		return fmt.Errorf("no %s", name)
	}
	if err := json.Unmarshal(v, to); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func readUserData(v json.RawMessage) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	var digits string
	if err := json.Unmarshal(v, &digits); err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return nil, err
	}
	if len(b) != userData {
		return nil, fmt.Errorf("%d bytes, want %d", len(b), userData)
	}
	return b, nil
}

// attestationKey finds the one key of that name. The length is for whoever verifies by it to judge.
func attestationKey(b json.RawMessage) (*rsa.PublicKey, error) {
	var keys []json.RawMessage
	if err := json.Unmarshal(b, &keys); err != nil {
		return nil, err
	}
	var found *rsa.PublicKey
	for _, raw := range keys {
		o, err := object(raw)
		if err != nil {
			return nil, err
		}
		var kid, kty, n, e string
		if value(o, "kid", &kid) != nil || kid != akName {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s twice", akName)
		}
		if err := errors.Join(value(o, "kty", &kty), value(o, "n", &n), value(o, "e", &e)); err != nil {
			return nil, err
		}
		if kty != "RSA" {
			return nil, fmt.Errorf("a key of kind %q, want RSA", kty)
		}
		if found, err = rsaKey(n, e); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no %s", akName)
	}
	return found, nil
}

func rsaKey(n, e string) (*rsa.PublicKey, error) {
	modulus, err := base64.RawURLEncoding.DecodeString(n)
	if err != nil {
		return nil, err
	}
	exponent, err := base64.RawURLEncoding.DecodeString(e)
	if err != nil {
		return nil, err
	}
	if len(modulus) > maxRSAKey || !bytes.Equal(exponent, []byte{1, 0, 1}) {
		return nil, fmt.Errorf("a modulus of %d bytes and exponent %x, want at most %d and 65537", len(modulus), exponent, maxRSAKey)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}, nil
}

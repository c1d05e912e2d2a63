package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/consilium-fl/consilium/internal/signed"
)

func testReceipt() Receipt {
	own, broken := 1.39, 0.949
	d := func(s string) Digest { return signed.Digest([]byte(s)) }
	certificate, model := d("certificate"), d("model")
	return Receipt{
		Subject: []Subject{
			{Name: "study.yaml", Digest: SubjectDigest{HexDigest(d("study"))}},
			{Name: "model.safetensors", Digest: SubjectDigest{HexDigest(model)}},
		},
		Predicate: Predicate{
			Study: testStudy, Consortium: d("consortium"), Simulated: true,
			Coordinator: ReceiptCoordinator{Measurement: "sha256:00", Evidence: d("evidence"), Status: "warning", Policy: d("policy"), Trust: d("trust")},
			Hospitals: []ReceiptHospital{
				{Name: "va", Approval: d("va"), Evidence: d("va evidence"), Status: "warning"},
				{Name: "cleveland", Approval: d("c"), Evidence: d("c evidence"), Status: "warning", Rounds: []uint64{1, 2, 4}},
			},
			HiddenAmong: 2,
			Privacy: ReceiptPrivacy{
				Unit: "patient", Neighbours: "add-or-remove-one", Epsilon: 0.949, EpsilonBudget: 1, EpsilonIfTEEBroken: &broken, EpsilonOwnNoise: &own, Delta: 1e-5,
				Noise: "distributed", HonestShares: 2, Events: []ReceiptEvent{{"gaussian", 21.431, 30}}, Ledger: d("ledger"),
			},
			Rounds: []ReceiptRound{
				{Number: 1, Outcome: "closed", Plan: d("plan"), Set: []string{"cleveland", "va", "hungarian"}, Certificate: &certificate, Model: &model},
				{Number: 2, Outcome: "aborted", Plan: d("plan 2")},
			},
			Log: ReceiptLog{Origin: testOrigin, Size: 412, Root: Root{1}, Cosigned: []string{"cleveland", "hungarian", "va"}, Leaves: map[string]uint64{"release": 411}},
		},
	}
}

var receiptKey = testKey("receipt")

func knownKey(Receipt) (ed25519.PublicKey, error) { return public(receiptKey), nil }

func TestReceipt(t *testing.T) {
	b, err := MakeReceipt(testReceipt(), receiptKey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseReceipt(b, knownKey)
	if err != nil {
		t.Fatal(err)
	}
	again, err := MakeReceipt(r, receiptKey)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("made again it differs: %v", err)
	}
	e, err := signed.ParseEnvelope(b, "application/vnd.in-toto+json")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"model.safetensors","digest":{"sha256":"9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"}},` +
		`{"name":"study.yaml","digest":{"sha256":"0c87ed818fb90f3f88faa6b362cf1e99025f3c1248f8fe513cdb38d03d9dce65"}}],"predicateType":"https://consilium-fl.dev/receipt/v1",` +
		`"predicate":{"study":"sha256:0c87ed818fb90f3f88faa6b362cf1e99025f3c1248f8fe513cdb38d03d9dce65","consortium":`
	if !strings.HasPrefix(string(e.Payload), want) {
		t.Errorf("statement begins\n%s\nwant\n%s", e.Payload[:len(want)], want)
	}
	keys := []string{
		`"study":`, `"consortium":`, `"simulated":true`, `"coordinator":{"measurement":`, `"evidence":`, `"status":"warning"`, `"policy":`, `"trust":`,
		`"hospitals":[{"name":"cleveland"`, `"approval":`, `"evidence":`, `"status":`, `"rounds":[1,2,4]}`, `"rounds":[]}`, `"hidden_among":2`, `"privacy":{"unit":"patient"`, `"neighbours":"add-or-remove-one"`,
		`"epsilon":0.949`, `"epsilon_budget":1,`, `"epsilon_if_tee_broken":0.949`, `"epsilon_own_noise":1.39`, `"delta":0.00001,`, `"noise":"distributed"`, `"honest_shares":2`,
		`"events":[{"kind":"gaussian","multiplier":21.431,"count":30}]`, `"ledger":`, `"rounds":[{"number":1,"outcome":"closed","plan":`, `"set":["cleveland","va","hungarian"]`, `"certificate":"sha256:`, `"model":"sha256:`,
		`"set":[],"certificate":null,"model":null}]`, `"log":{"origin":`, `"size":412`, `"root":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`, `"cosigned":["cleveland"`, `"leaves":{"release":411}}}}`,
	}
	rest := string(e.Payload)[strings.Index(string(e.Payload), `"predicate":`):]
	for _, k := range keys {
		_, after, ok := strings.Cut(rest, k)
		if !ok {
			t.Fatalf("no %s where it should follow in %s", k, rest)
		}
		rest = after
	}
	if rest != "" {
		t.Errorf("%q follows", rest)
	}

	r.Predicate.Privacy.EpsilonIfTEEBroken, r.Predicate.Privacy.EpsilonOwnNoise, r.Predicate.Privacy.Noise = nil, nil, "central"
	b, err = MakeReceipt(r, receiptKey)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseReceipt(b, knownKey)
	if err != nil || cmp.Diff(r, back) != "" {
		t.Errorf("central noise: %v %s", err, cmp.Diff(r, back))
	}
}

// A flipped bit of the file is refused, wherever it is.
func TestAlteredReceipt(t *testing.T) {
	b, err := MakeReceipt(testReceipt(), receiptKey)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for bit := range 8 {
			if i%8 != bit && i < len(b)-200 { // at the end, where base64 leaves bits over, all of them
				continue
			}
			f := bytes.Clone(b)
			f[i] ^= 1 << bit
			if _, err := ParseReceipt(f, knownKey); err == nil {
				t.Fatalf("byte %d, bit %d altered: no error", i, bit)
			}
		}
	}
	e, err := signed.ParseEnvelope(b, ReceiptPayloadType)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Sign(testKey("another")); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseReceipt(e.Encode(), knownKey); err == nil {
		t.Error("a second signature is taken")
	}
	other := func(Receipt) (ed25519.PublicKey, error) { return public(testKey("another")), nil }
	_, err = ParseReceipt(b, other)
	wantErr(t, "another key", err, signed.ErrSignature)
	none := errors.New("no such evidence")
	_, err = ParseReceipt(b, func(Receipt) (ed25519.PublicKey, error) { return nil, none })
	wantErr(t, "no key", err, none)
}

// The receipt key may sign anything; what is not strict JSON is refused all the same.
func TestReceiptIsStrict(t *testing.T) {
	b, err := MakeReceipt(testReceipt(), receiptKey)
	if err != nil {
		t.Fatal(err)
	}
	e, err := signed.ParseEnvelope(b, ReceiptPayloadType)
	if err != nil {
		t.Fatal(err)
	}
	for what, swap := range map[string][2]string{
		"unknown key":         {`"simulated":true`, `"simulated":true,"patients":740`},
		"duplicate key":       {`"simulated":true`, `"simulated":false,"simulated":true`},
		"key in capitals":     {`"simulated"`, `"Simulated"`},
		"key left out":        {`"simulated":true,`, ``},
		"space":               {`"hidden_among":2`, `"hidden_among": 2`},
		"another number form": {`0.949`, `9.49e-1`},
		"null list":           {`"set":[]`, `"set":null`},
		"absent null":         {`"certificate":null,`, ``},
		"bytes after":         {`411}}}}`, `411}}}}{}`},
		"statement type":      {`Statement/v1`, `Statement/v0.1`},
		"predicate type":      {`receipt/v1`, `receipt/v2`},
		"path outside":        {`study.yaml`, `../study.yaml`},
		"subject twice":       {`study.yaml`, `model.safetensors`},
		"subjects unsorted":   {`study.yaml`, `a.yaml`},
		"outcome":             {`"closed"`, `"won"`},
		"closed, no model":    {`"closed"`, `"closed"},{"number":2,"outcome":"closed","plan":"sha256:` + strings.Repeat("0", 64) + `","set":[],"certificate":null,"model":null`},
		"round twice":         {`"number":2`, `"number":1`},
		"leaf beyond the log": {`"release":411`, `"release":412`},
		"negative epsilon":    {`"epsilon":0.949`, `"epsilon":-0.949`},
		"figure missing":      {`"epsilon_own_noise":1.39`, `"epsilon_own_noise":null`},
		"figure under central": {
			`"noise":"distributed"`, `"noise":"central"`,
		},
		"noise":           {`"noise":"distributed"`, `"noise":"none"`},
		"origin":          {`heart.example/log`, `heart.example/tree`},
		"hospital twice":  {`"name":"va"`, `"name":"cleveland"`},
		"digest capitals": {`"digest":{"sha256":"9372c`, `"digest":{"sha256":"9372C`},
		"bare digest":     {`"study":"sha256:`, `"study":"`},
		"root":            {`"root":"AQ`, `"root":"A`},
	} {
		if !bytes.Contains(e.Payload, []byte(swap[0])) {
			t.Fatalf("%s: nothing to swap", what)
		}
		f, err := signed.SignEnvelope(ReceiptPayloadType, bytes.Replace(e.Payload, []byte(swap[0]), []byte(swap[1]), 1), receiptKey)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseReceipt(f.Encode(), knownKey); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	for what, alter := range map[string]func(*Receipt){
		"NaN":        func(r *Receipt) { r.Predicate.Privacy.Epsilon = math.NaN() },
		"infinity":   func(r *Receipt) { r.Predicate.Privacy.Events[0].Multiplier = math.Inf(1) },
		"no subject": func(r *Receipt) { r.Subject = nil },
	} {
		r := testReceipt()
		alter(&r)
		if _, err := MakeReceipt(r, receiptKey); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

package confspace

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/testtee/google"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

const audience = "https://coordinator.example"

// lab is a fake Google, a policy that takes what it signs, and the binding of one conversation.
type lab struct {
	pki     *google.PKI
	in      attest.Inputs
	policy  attest.Policy
	binding attest.Binding
}

func newLab(t testing.TB) lab {
	t.Helper()
	one := func(n byte) (d [32]byte) { d[0] = n; return d }
	l := lab{pki: google.New(nil), binding: attest.Binding{
		Role: attest.RoleCoordinator, Nonce: one(1), Exporter: one(2), OwnKey: one(3), PeerKey: one(4), Study: one(5), KeyList: one(6), Config: one(7),
	}}
	l.in = attest.Inputs{Now: google.Now().Add(time.Minute), ReportData: reportDataOf(t, l.binding), Trust: snapshot(t, withFile(l.pki.Trust(), "jwks.json", l.pki.JWKS()))}
	l.policy = attest.Policy{
		Role: attest.RoleCoordinator, Accept: []attest.Format{attest.FormatCSPKI, attest.FormatCSOIDC},
		Measurements: attest.SetOf(google.Digest), Machines: attest.SetOf("gce:hospital/europe-west4-a/6256007950053693934"),
		Workload: &attest.WorkloadPolicy{
			Issuers: attest.SetOf("https://confidentialcomputing.googleapis.com"), Audiences: attest.SetOf(audience),
			HWModels: attest.SetOf(attest.HWModelTDX), SWNames: attest.SetOf("CONFIDENTIAL_SPACE"), MinSWVersion: 250301,
			SecureBoot: attest.Required, Support: attest.SetOf("STABLE"), MonitoringOff: attest.Required,
			Args: attest.List{Of: []string{"/consilium-coordinator", "serve"}}, Env: attest.SetOf("HOSTNAME=*", "PATH=/"),
			Restart: attest.SetOf("Never"), SignedBy: attest.AnySet(), Accounts: attest.SetOf("coordinator@hospital.iam.gserviceaccount.com"),
			Projects: attest.SetOf("hospital"), Zones: attest.SetOf("europe-west4-a"), Instances: attest.SetOf("6256007950053693934"),
		},
	}
	return l
}

func reportDataOf(t testing.TB, b attest.Binding) *[64]byte {
	t.Helper()
	d, err := b.ReportData(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &d
}

func withFile(files map[string][]byte, name string, b []byte) map[string][]byte {
	files = maps.Clone(files)
	files[name] = b
	return files
}

func snapshot(t testing.TB, files map[string][]byte) *endorse.Snapshot {
	t.Helper()
	s, err := endorse.New(files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// nonce is what the attester asks for.
func (l lab) nonce() string { return hex.EncodeToString(l.in.ReportData[:32]) }

func (l lab) claims(set google.Object) google.Object {
	return google.Merge(google.Claims(audience, l.nonce()), set)
}

func (l lab) check(format attest.Format, token []byte) attest.Result {
	return attest.NewVerifiers(NewVerifier(), NewOIDCVerifier()).Check(attest.Evidence{Format: format, Statement: token}, l.in, l.policy)
}

func codes(r attest.Result) []string {
	out := []string{}
	for _, reason := range r.Reasons {
		out = append(out, reason.Code)
	}
	return out
}

func want(t *testing.T, r attest.Result, codesWanted ...string) {
	t.Helper()
	if got := codes(r); !slices.Equal(got, codesWanted) || r.OK() || r.Status != attest.Contraindicated {
		t.Errorf("%s, refused for %v, want %q", r.Status, r.Reasons, codesWanted)
	}
}

func TestAffirming(t *testing.T) {
	l := newLab(t)
	for format, token := range map[attest.Format][]byte{attest.FormatCSPKI: l.pki.Token(l.claims(nil)), attest.FormatCSOIDC: l.pki.OIDC(l.claims(nil))} {
		r := l.check(format, token)
		if r.Status != attest.Affirming || !r.OK() {
			t.Fatalf("%s: %s for %v", format, r.Status, r.Reasons)
		}
		c := r.Claims
		if c.Generation != "gcp-intel-tdx" || c.Measurement != google.Digest || c.Machine != "gce:hospital/europe-west4-a/6256007950053693934" || c.Debug || !c.HalfBound ||
			!c.NotAfter.Equal(google.Now().Add(time.Hour)) {
			t.Errorf("%s: claims %+v", format, c)
		}
	}
	if got := l.check(attest.FormatCSPKI, l.pki.Token(l.claims(nil))).NotChecked; !slices.Contains(got, "crl:confidential-space-root") {
		t.Errorf("not checked %q, want the revocation list that nobody gave", got)
	}
	if got := l.check(attest.FormatCSOIDC, l.pki.OIDC(l.claims(nil))).NotChecked; !slices.Contains(got, NotCheckedKeySet) {
		t.Errorf("not checked %q, want the age of the key set", got)
	}
}

// TestEveryClaimIsRead: each claim ends up in the block, whether Google wrote one text or a list of one.
func TestEveryClaimIsRead(t *testing.T) {
	l := newLab(t)
	set := google.Object{"submods.container.cmd_override": []string{"serve"}, "submods.container.env_override": google.Object{"A": "1"}}
	lists := l.check(attest.FormatCSPKI, l.pki.Token(l.claims(set))).Claims.Workload
	if v := reflect.ValueOf(*lists); true {
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "MemoryMonitoring" {
				t.Errorf("%s was not read", name)
			}
		}
	}
	for _, inner := range []any{lists.Container, lists.GCE, lists.Container.Signatures[0]} {
		v := reflect.ValueOf(inner)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s of %T was not read", v.Type().Field(i).Name, inner)
			}
		}
	}
	set = google.Object{
		"aud": []string{audience}, "eat_nonce": []string{l.nonce()}, "attester_tcb": "INTEL", "swversion": "251001",
		"google_service_accounts": "coordinator@hospital.iam.gserviceaccount.com", "submods.confidential_space.monitoring_enabled": google.Object{"memory": true},
		"submods.container.cmd_override": "serve", "submods.container.env_override": google.Object{"A": "1"},
	}
	texts := l.check(attest.FormatCSPKI, l.pki.Token(l.claims(set))).Claims.Workload
	lists.MemoryMonitoring = true
	if !reflect.DeepEqual(texts, lists) {
		t.Errorf("got %+v, want %+v", texts, lists)
	}
}

// TestRealToken: what Google has signed of a debug image on SEV. All else is taken, so the chain and the signature
// hold, and the debug image is what is refused.
func TestRealToken(t *testing.T) {
	token := bytes.TrimSuffix(shared.File(t, "confidential-space/debug-image.pki.jwt"), []byte("\n")) // of the file, not of the token
	l := newLab(t)
	l.in = attest.Inputs{
		Now: time.Date(2025, 6, 23, 15, 0, 0, 0, time.UTC), ReportData: new([64]byte),
		Trust: snapshot(t, map[string][]byte{"root.crt": shared.File(t, "confidential-space/root.crt")}),
	}
	copy(l.in.ReportData[:], "a nonce between 10 and 74 characters")
	l.policy.Measurements = attest.SetOf("sha256:313b8a83d3c8bfc9abcffee4f538424473e2705383a7e46f16d159faf0e5ef34")
	l.policy.Machines = attest.SetOf("gce:oak-ci/us-west1-b/6256007950053693934")
	l.policy.Workload = &attest.WorkloadPolicy{
		Issuers: l.policy.Workload.Issuers, Audiences: attest.SetOf("https://echo.oak.dev"), HWModels: attest.SetOf("GCP_AMD_SEV"),
		SWNames: attest.SetOf("CONFIDENTIAL_SPACE"), MinSWVersion: 250301, SecureBoot: attest.Required, Support: attest.AnySet(), MonitoringOff: attest.Required,
		Args: attest.List{Of: []string{"/usr/local/bin/oak_gcp_examples_echo_enclave_app"}},
		Env: attest.SetOf("HOSTNAME=*", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"),
		Restart: attest.SetOf("Never"), SignedBy: attest.AnySet(), Accounts: attest.SetOf("691249393555-compute@developer.gserviceaccount.com"),
		Projects: attest.SetOf("oak-ci"), Zones: attest.SetOf("us-west1-b"), Instances: attest.SetOf("6256007950053693934"),
	}
	r := l.check(attest.FormatCSPKI, token)
	want(t, r, attest.CodeDebug, attest.CodeCSDebug)
	if w := r.Claims.Workload; w == nil || w.HWModel != "GCP_AMD_SEV" || r.Claims.Generation != "gcp-amd-sev" || w.OEM != 11129 || !w.SecureBoot {
		t.Errorf("claims %+v", r.Claims)
	}

	l.policy.Workload.HWModels, l.policy.Workload.Support = attest.SetOf(attest.HWModelTDX), attest.SetOf("STABLE")
	want(t, l.check(attest.FormatCSPKI, token), attest.CodeDebug, attest.CodeCSHWModel, attest.CodeCSDebug, attest.CodeCSSupport)
	other := l
	other.in.ReportData = newLab(t).in.ReportData
	want(t, other.check(attest.FormatCSPKI, token), attest.CodeDebug, attest.CodeCSHWModel, attest.CodeCSDebug, attest.CodeCSSupport, attest.CodeBindingMismatch)
	// The fake Google is no anchor for it, nor is the file's newline a part of a token.
	other.in.Trust = newLab(t).in.Trust
	if got := codes(other.check(attest.FormatCSPKI, token)); got[0] != attest.CodeChain || !slices.Contains(got, attest.CodeDebug) {
		t.Errorf("by another root: %q", got)
	}
	want(t, l.check(attest.FormatCSPKI, shared.File(t, "confidential-space/debug-image.pki.jwt")), attest.CodeCSEncoding)
	l.in.Now = time.Date(2025, 9, 1, 0, 0, 0, 0, time.UTC)
	if got := codes(l.check(attest.FormatCSPKI, token)); got[0] != attest.CodeCertExpired || got[1] != attest.CodeCSExpired {
		t.Errorf("in September: %q", got)
	}
}

// TestRow56 is row 56 of the table of negative cases: tokens that are no Confidential Space token of the moment.
func TestRow56(t *testing.T) {
	l := newLab(t)
	good := l.pki.Token(l.claims(nil))
	header := func(set google.Object) []byte { return l.pki.Sign(google.Merge(l.pki.Header(), set), l.claims(nil)) }
	chain := func(at ...int) []byte {
		x5c := []string{}
		for _, i := range at {
			x5c = append(x5c, base64.StdEncoding.EncodeToString(l.pki.Chain[i].Raw))
		}
		return header(google.Object{"x5c": x5c})
	}
	certs := func(change func(at int, c *x509.Certificate)) []byte {
		return google.New(change).Token(l.claims(nil))
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak := &rsa.PublicKey{N: l.pki.Key.Primes[0], E: l.pki.Key.E} // 1024 bits
	stranger := google.Stranger()
	// splice takes header and claims of one token and the signature of another.
	splice := func(a, b []byte) []byte {
		return slices.Concat(a[:bytes.LastIndexByte(a, '.')], b[bytes.LastIndexByte(b, '.'):])
	}
	unsigned := splice(header(google.Object{"alg": "none"}), []byte("."))
	edited := l.claims(google.Object{"submods.gce.instance_name": "another"})
	claims, err := json.Marshal(l.claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	head, err := json.Marshal(l.pki.Header())
	if err != nil {
		t.Fatal(err)
	}
	raw := func(claims string) []byte { return l.pki.SignBytes(head, []byte(claims)) }
	with := func(set google.Object) []byte { return l.pki.Token(l.claims(set)) }

	for name, tc := range map[string]struct {
		token []byte
		codes []string
	}{
		"alg none":                  {header(google.Object{"alg": "none"}), []string{attest.CodeCSAlg}},
		"alg none and no signature": {unsigned, []string{attest.CodeCSAlg}},
		"alg HS256":                 {header(google.Object{"alg": "HS256"}), []string{attest.CodeCSAlg}},
		"alg ES256":                 {header(google.Object{"alg": "ES256"}), []string{attest.CodeCSAlg}},
		"alg PS256":                 {header(google.Object{"alg": "PS256"}), []string{attest.CodeCSAlg}},
		"alg RS512":                 {header(google.Object{"alg": "RS512"}), []string{attest.CodeCSAlg}},
		"alg in lower case":         {header(google.Object{"alg": "rs256"}), []string{attest.CodeCSAlg}},
		"alg absent":                {header(google.Object{"alg": nil}), []string{attest.CodeCSAlg}},
		"alg of another type":       {header(google.Object{"alg": []string{"RS256"}}), []string{attest.CodeCSAlg}},
		"typ":                       {header(google.Object{"typ": "at+jwt"}), []string{attest.CodeCSHeader}},
		"a field that is critical":  {header(google.Object{"crit": []string{"b64"}, "b64": false}), []string{attest.CodeCSHeader, attest.CodeCSHeader}},
		"a key in the header":       {header(google.Object{"jwk": google.Object{}}), []string{attest.CodeCSHeader}},
		"a key's address":           {header(google.Object{"jku": "https://evil.example"}), []string{attest.CodeCSHeader}},

		"x5c absent":          {header(google.Object{"x5c": nil}), []string{attest.CodeCSX5C}},
		"x5c of another type": {header(google.Object{"x5c": "MII"}), []string{attest.CodeCSX5C}},
		"x5c of numbers":      {header(google.Object{"x5c": []int{1, 2, 3}}), []string{attest.CodeCSX5C}},
		"x5c of 0":            {chain(), []string{attest.CodeCSX5C}},
		"x5c of 1":            {chain(0), []string{attest.CodeCSX5C}},
		"x5c of 2":            {chain(0, 1), []string{attest.CodeCSX5C}},
		"x5c of 4":            {chain(0, 1, 2, 2), []string{attest.CodeCSX5C}},
		"leaf is the root":    {chain(2, 1, 2), []string{attest.CodeCSX5C}},
		"two roots":           {chain(0, 2, 2), []string{attest.CodeChain}},
		"order turned":        {chain(2, 1, 0), []string{attest.CodeCSX5C}},
		"x5c with a newline": {header(google.Object{"x5c": []string{
			base64.StdEncoding.EncodeToString(l.pki.Chain[0].Raw) + "\n",
			base64.StdEncoding.EncodeToString(l.pki.Chain[1].Raw), base64.StdEncoding.EncodeToString(l.pki.Chain[2].Raw),
		}}), []string{attest.CodeCSX5C}},
		"x5c with bytes after a certificate": {header(google.Object{"x5c": []string{
			base64.StdEncoding.EncodeToString(append(bytes.Clone(l.pki.Chain[0].Raw), 0)),
			base64.StdEncoding.EncodeToString(l.pki.Chain[1].Raw), base64.StdEncoding.EncodeToString(l.pki.Chain[2].Raw),
		}}), []string{attest.CodeCSX5C}},
		"x5c of garbage": {header(google.Object{"x5c": []string{"AAAA", "AAAA", "AAAA"}}), []string{attest.CodeCSX5C}},

		"another root under the name": {stranger.Token(l.claims(nil)), []string{attest.CodeChain}},
		"another's leaf under the root": {l.pki.Sign(google.Merge(l.pki.Header(), google.Object{"x5c": []string{
			base64.StdEncoding.EncodeToString(stranger.Chain[0].Raw),
			base64.StdEncoding.EncodeToString(l.pki.Chain[1].Raw), base64.StdEncoding.EncodeToString(l.pki.Chain[2].Raw),
		}}), l.claims(nil)), []string{attest.CodeChain}},
		"another's chain with the root added": {stranger.Sign(google.Merge(stranger.Header(), google.Object{"x5c": []string{
			base64.StdEncoding.EncodeToString(stranger.Chain[0].Raw),
			base64.StdEncoding.EncodeToString(stranger.Chain[1].Raw), base64.StdEncoding.EncodeToString(l.pki.Chain[2].Raw),
		}}), l.claims(nil)), []string{attest.CodeChain}},
		"leaf that is an authority": {certs(func(at int, c *x509.Certificate) { c.IsCA = c.IsCA || at == 0 }), []string{attest.CodeCSX5C}},
		"leaf by the root itself":   {l.pki.WithLeafByRoot().Token(l.claims(nil)), []string{attest.CodeChain}},
		"leaf of an elliptic curve": {l.pki.WithLeafKey(ec.Public()).Token(l.claims(nil)), []string{attest.CodeCSX5C}},
		"leaf of 1024 bits":         {l.pki.WithLeafKey(weak).Token(l.claims(nil)), []string{attest.CodeCSX5C}},
		"leaf signed with SHA-512": {certs(func(at int, c *x509.Certificate) {
			if at == 0 {
				c.SignatureAlgorithm = x509.SHA512WithRSA
			}
		}), []string{attest.CodeCSX5C}},
		"intermediate that is none": {certs(func(at int, c *x509.Certificate) {
			if at == 1 {
				c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
			}
		}), []string{attest.CodeCSX5C}},
		"expired leaf": {certs(func(at int, c *x509.Certificate) {
			if at == 0 {
				c.NotAfter = google.Now()
			}
		}), []string{attest.CodeCertExpired}},
		"leaf of tomorrow": {certs(func(at int, c *x509.Certificate) {
			if at == 0 {
				c.NotBefore = google.Now().Add(24 * time.Hour)
			}
		}), []string{attest.CodeCertTime}},
		"expired intermediate": {certs(func(at int, c *x509.Certificate) {
			if at == 1 {
				c.NotAfter = google.Now()
			}
		}), []string{attest.CodeCertExpired}},

		"edited":           {splice(l.pki.Token(edited), good), []string{attest.CodeSignature}},
		"signed by others": {splice(good, stranger.Token(l.claims(nil))), []string{attest.CodeSignature}},
		"not signed":       {splice(good, []byte(".")), []string{attest.CodeSignature}},
		"expired":          {with(google.Object{"exp": google.Now().Unix()}), []string{attest.CodeCSExpired}},
		"exp absent":       {with(google.Object{"exp": nil}), []string{attest.CodeCSClaims, attest.CodeCSExpired}},
		"exp a text":       {with(google.Object{"exp": "1799999999"}), []string{attest.CodeCSClaims, attest.CodeCSExpired}},
		"exp a fraction":   {with(google.Object{"exp": 1799999999.5}), []string{attest.CodeCSClaims, attest.CodeCSExpired}},
		"exp beyond time":  {with(google.Object{"exp": uint64(1) << 62}), []string{attest.CodeCSClaims, attest.CodeCSExpired}},
		"of tomorrow":      {with(google.Object{"nbf": google.Now().Add(24 * time.Hour).Unix()}), []string{attest.CodeCSNotBefore}},
		"iss wrong":        {with(google.Object{"iss": "https://portal.trustauthority.intel.com"}), []string{attest.CodeCSIssuer}},
		"iss absent":       {with(google.Object{"iss": nil}), []string{attest.CodeCSClaims, attest.CodeCSIssuer}},
		"aud wrong":        {with(google.Object{"aud": "https://sts.googleapis.com"}), []string{attest.CodeCSAudience}},

		"nonce missing":             {with(google.Object{"eat_nonce": nil}), []string{attest.CodeFreshness}},
		"nonces none":               {with(google.Object{"eat_nonce": []string{}}), []string{attest.CodeFreshness}},
		"nonces seven":              {with(google.Object{"eat_nonce": slices.Repeat([]string{l.nonce()}, 7)}), []string{attest.CodeCSClaims}},
		"nonce of another type":     {with(google.Object{"eat_nonce": 7}), []string{attest.CodeCSClaims, attest.CodeFreshness}},
		"trailing newline":          {append(bytes.Clone(good), '\n'), []string{attest.CodeCSEncoding}},
		"newline inside":            {slices.Insert(bytes.Clone(good), 100, '\n'), []string{attest.CodeCSEncoding}},
		"another spelling":          {slices.Concat(good[:len(good)-1], []byte{respelt(good[len(good)-1])}), []string{attest.CodeCSEncoding}},
		"padded base64":             {append(bytes.Clone(good), "=="...), []string{attest.CodeCSEncoding}},
		"base64 that is not of URL": {bytes.ReplaceAll(good, []byte("_"), []byte("/")), []string{attest.CodeCSEncoding}},
		"four parts":                {append(bytes.Clone(good), '.'), []string{attest.CodeCSEncoding}},
		"two parts":                 {good[:bytes.LastIndexByte(good, '.')], []string{attest.CodeCSEncoding}},
		"nothing":                   {nil, []string{attest.CodeCSEncoding}},
		"duplicate claims":          {raw(`{"dbgstat":"enabled",` + string(claims[1:])), []string{attest.CodeCSJSON}},
		"duplicate claims inside":   {raw(strings.Replace(string(claims), `"gce":{`, `"gce":{"zone":"x",`, 1)), []string{attest.CodeCSJSON}},
		"bytes after the claims":    {raw(string(claims) + " {}"), []string{attest.CodeCSJSON}},
		"claims in no UTF-8":        {raw(strings.Replace(string(claims), "hospital", "\xff", 1)), []string{attest.CodeCSJSON}},
		"claims that are a list":    {raw("[]"), []string{attest.CodeCSJSON}},
		"claims nested too deep":    {raw(`{"a":` + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + "}"), []string{attest.CodeCSJSON}},
		"duplicate header fields":   {l.pki.SignBytes([]byte(`{"alg":"none",`+string(head[1:])), claims), []string{attest.CodeCSJSON}},
		"64 KiB and a byte":         {bytes.Repeat([]byte("a"), maxToken+1), []string{attest.CodeCSSize}},
		"1 MiB":                     {bytes.Repeat([]byte("a"), 1<<20), []string{attest.CodeParseLength}},
	} {
		t.Run("row 56 "+name, func(t *testing.T) { want(t, l.check(attest.FormatCSPKI, tc.token), tc.codes...) })
	}

	for name, nonces := range map[string]any{
		"string": l.nonce(), "array of one": []string{l.nonce()}, "2 of 6": []string{"another of the six", l.nonce(), "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"},
	} {
		t.Run("row 56 nonce "+name, func(t *testing.T) {
			if r := l.check(attest.FormatCSPKI, with(google.Object{"eat_nonce": nonces})); r.Status != attest.Affirming {
				t.Errorf("%s for %v", r.Status, r.Reasons)
			}
		})
	}
	for name, nonces := range map[string]any{
		"in upper case": strings.ToUpper(l.nonce()), "with a digit more": l.nonce() + "0", "of others": []string{"another of the six", "aaaaaaaa"}, "as it is, and not in hex": string(l.in.ReportData[:8]),
	} {
		t.Run("row 56 nonce "+name, func(t *testing.T) {
			if got := codes(l.check(attest.FormatCSPKI, with(google.Object{"eat_nonce": nonces}))); len(got) == 0 || got[len(got)-1] != attest.CodeBindingMismatch {
				t.Errorf("refused for %q", got)
			}
		})
	}
}

// respelt returns another digit of base64 that stands for the same bits at the end of a signature of 256 bytes, which
// leaves four bits of the last digit unused.
func respelt(c byte) byte {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return digits[strings.IndexByte(digits, c)^1]
}

// TestUntil: claims hold until the token ends, or the first certificate; and Google's clock may be ahead a little.
func TestUntil(t *testing.T) {
	l := newLab(t)
	for at := range 3 {
		pki := google.New(func(i int, c *x509.Certificate) {
			if i == at {
				c.NotAfter = google.Now().Add(10 * time.Minute)
			}
		})
		m := l
		m.in.Trust = snapshot(t, pki.Trust())
		if r := m.check(attest.FormatCSPKI, pki.Token(l.claims(nil))); !r.OK() || !r.Until.Equal(google.Now().Add(10*time.Minute)) {
			t.Errorf("certificate %d ends first: until %s, %v", at, r.Until, r.Reasons)
		}
	}
	token := l.pki.Token(l.claims(nil))
	l.in.Now = google.Now().Add(-skew)
	if r := l.check(attest.FormatCSPKI, token); !r.OK() {
		t.Errorf("a minute behind: %v", r.Reasons)
	}
	l.in.Now = google.Now().Add(-skew - time.Second)
	want(t, l.check(attest.FormatCSPKI, token), attest.CodeCSNotBefore)
}

// TestRow57 is row 57: tokens that Google signs of machines and containers nobody should take.
func TestRow57(t *testing.T) {
	l := newLab(t)
	for name, tc := range map[string]struct {
		set   google.Object
		codes []string
	}{
		"dbgstat enabled":           {google.Object{"dbgstat": "enabled"}, []string{attest.CodeDebug, attest.CodeCSDebug}},
		"dbgstat absent":            {google.Object{"dbgstat": nil}, []string{attest.CodeCSClaims, attest.CodeDebug, attest.CodeCSDebug}},
		"dbgstat of another type":   {google.Object{"dbgstat": true}, []string{attest.CodeCSClaims, attest.CodeDebug, attest.CodeCSDebug}},
		"GCP_SHIELDED_VM":           {google.Object{"hwmodel": "GCP_SHIELDED_VM"}, []string{attest.CodeTEEType, attest.CodeCSHWModel}},
		"GCP_AMD_SEV":               {google.Object{"hwmodel": "GCP_AMD_SEV"}, []string{attest.CodeCSHWModel}},
		"swname GCE":                {google.Object{"swname": "GCE"}, []string{attest.CodeCSSWName}},
		"swversion old":             {google.Object{"swversion": []string{"250300"}}, []string{attest.CodeCSSWVersion}},
		"swversion absent":          {google.Object{"swversion": nil}, []string{attest.CodeCSSWVersion}},
		"swversion not a number":    {google.Object{"swversion": "latest"}, []string{attest.CodeCSSWVersion}},
		"support_attributes absent": {google.Object{"submods.confidential_space.support_attributes": nil}, []string{attest.CodeCSSupport}},
		"support_attributes others": {google.Object{"submods.confidential_space.support_attributes": []string{"USABLE"}}, []string{attest.CodeCSSupport}},
		"monitored":                 {google.Object{"submods.confidential_space.monitoring_enabled.memory": true}, []string{attest.CodeCSMonitoring}},
		"image_digest other":        {google.Object{"submods.container.image_digest": "sha256:" + strings.Repeat("0", 64)}, []string{attest.CodeMeasurementUnlisted}},
		"image_digest absent":       {google.Object{"submods.container.image_digest": nil}, []string{attest.CodeCSClaims, attest.CodeMeasurementUnlisted}},
		"no container":              {google.Object{"submods.container": nil}, []string{attest.CodeCSClaims, attest.CodeMeasurementUnlisted, attest.CodeCSArgs, attest.CodeCSRestart}},
		"env_override set":          {google.Object{"submods.container.env_override": google.Object{"LD_PRELOAD": "x"}}, []string{attest.CodeCSEnvOverride}},
		"env set":                   {google.Object{"submods.container.env.LD_PRELOAD": "x"}, []string{attest.CodeCSEnv}},
		"env of another value":      {google.Object{"submods.container.env.PATH": "/tmp"}, []string{attest.CodeCSEnv}},
		"cmd_override set":          {google.Object{"submods.container.cmd_override": []string{"sh"}}, []string{attest.CodeCSCmd}},
		"args other":                {google.Object{"submods.container.args": []string{"serve", "/consilium-coordinator"}}, []string{attest.CodeCSArgs}},
		"restart_policy other":      {google.Object{"submods.container.restart_policy": "Always"}, []string{attest.CodeCSRestart}},
		"secboot off":               {google.Object{"secboot": false}, []string{attest.CodeCSSecureBoot}},
		"account other":             {google.Object{"google_service_accounts": []string{"coordinator@hospital.iam.gserviceaccount.com", "x@y"}}, []string{attest.CodeCSAccount}},
		"account absent":            {google.Object{"google_service_accounts": nil}, []string{attest.CodeCSAccount}},
		"project other":             {google.Object{"submods.gce.project_id": "evil"}, []string{attest.CodeMachineUnlisted, attest.CodeCSProject}},
		"zone other":                {google.Object{"submods.gce.zone": "us-east1-b"}, []string{attest.CodeMachineUnlisted, attest.CodeCSZone}},
		"instance other":            {google.Object{"submods.gce.instance_id": "7"}, []string{attest.CodeMachineUnlisted, attest.CodeCSInstance}},
		"no machine":                {google.Object{"submods.gce": nil}, []string{attest.CodeMachineUnlisted, attest.CodeCSProject, attest.CodeCSZone, attest.CodeCSInstance}},
	} {
		t.Run("row 57 "+name, func(t *testing.T) { want(t, l.check(attest.FormatCSPKI, l.pki.Token(l.claims(tc.set))), tc.codes...) })
	}
	t.Run("row 57 image signed by another", func(t *testing.T) {
		p := *l.policy.Workload
		p.SignedBy = attest.SetOf("aa")
		m := l
		m.policy.Workload = &p
		want(t, m.check(attest.FormatCSPKI, l.pki.Token(l.claims(nil))), attest.CodeCSSigned)
	})
	t.Run("row 57 a secret in a variable", func(t *testing.T) {
		r := l.check(attest.FormatCSPKI, l.pki.Token(l.claims(google.Object{"submods.container.env.PASSWORD": "hunter2"})))
		if strings.Contains(fmt.Sprint(r.Reasons), "hunter2") {
			t.Errorf("%v quotes it", r.Reasons)
		}
	})
}

// TestRow59 is row 59 for a token: it answers one nonce, once.
func TestRow59(t *testing.T) {
	l := newLab(t)
	token := l.pki.Token(l.claims(nil))
	t.Run("row 59 the default token", func(t *testing.T) {
		want(t, l.check(attest.FormatCSPKI, l.pki.Token(google.Claims(audience))), attest.CodeFreshness)
	})
	for name, change := range map[string]func(*attest.Binding){
		"replay to the next challenge":  func(b *attest.Binding) { b.Nonce[31] ^= 1 },
		"two sessions at the same time": func(b *attest.Binding) { b.Exporter[31] ^= 1 },
	} {
		t.Run("row 59 "+name, func(t *testing.T) {
			b := l.binding
			change(&b)
			m := l
			m.in.ReportData = reportDataOf(t, b)
			m.in.Now = l.in.Now.Add(2 * time.Minute)
			want(t, m.check(attest.FormatCSPKI, token), attest.CodeBindingMismatch)
		})
	}
	t.Run("row 59 after its hour", func(t *testing.T) {
		m := l
		m.in.Now = google.Now().Add(time.Hour)
		want(t, m.check(attest.FormatCSPKI, token), attest.CodeCSExpired)
	})
}

// TestRow60 is row 60 for a token: it is a bearer's, and bound to one conversation by its nonce alone.
func TestRow60(t *testing.T) {
	l := newLab(t)
	token := l.pki.Token(l.claims(nil))
	for name, change := range map[string]func(*attest.Binding){
		"relay to another session":      func(b *attest.Binding) { b.Exporter[0] ^= 1 },
		"diversion to another leaf key": func(b *attest.Binding) { b.OwnKey[0] ^= 1 },
		"reflection": func(b *attest.Binding) {
			b.Role, b.OwnKey, b.PeerKey = attest.RoleNode, b.PeerKey, b.OwnKey
		},
		"another study": func(b *attest.Binding) { b.Study[0] ^= 1 },
	} {
		t.Run("row 60 "+name, func(t *testing.T) {
			b := l.binding
			change(&b)
			m := l
			m.in.ReportData = reportDataOf(t, b)
			want(t, m.check(attest.FormatCSPKI, token), attest.CodeBindingMismatch)
		})
	}
}

func TestOIDC(t *testing.T) {
	l := newLab(t)
	header := func(set google.Object) []byte {
		h := google.Merge(l.pki.Header(), google.Object{"x5c": nil})
		return l.pki.Sign(google.Merge(h, set), l.claims(nil))
	}
	for name, tc := range map[string]struct {
		token []byte
		codes []string
	}{
		"a PKI token":             {l.pki.Token(l.claims(nil)), []string{attest.CodeCSHeader}},
		"no kid":                  {header(google.Object{"kid": nil}), []string{attest.CodeCSKid}},
		"kid of another type":     {header(google.Object{"kid": 1}), []string{attest.CodeCSKid, attest.CodeCSClaims}},
		"an unknown kid":          {header(google.Object{"kid": "x"}), []string{attest.CodeCSKid}},
		"a known kid, not by it":  {google.Stranger().OIDC(l.claims(nil)), []string{attest.CodeSignature}},
		"HS256 by the public key": {header(google.Object{"alg": "HS256"}), []string{attest.CodeCSAlg}},
	} {
		t.Run(name, func(t *testing.T) { want(t, l.check(attest.FormatCSOIDC, tc.token), tc.codes...) })
	}
	t.Run("an OIDC token as PKI", func(t *testing.T) {
		want(t, l.check(attest.FormatCSPKI, l.pki.OIDC(l.claims(nil))), attest.CodeCSX5C)
	})
	for name, key := range map[string]string{
		"no set": `{"keys":[]}`, "another kind": strings.Replace(string(l.pki.JWKS()), `"RSA"`, `"EC"`, 1), "another algorithm": strings.Replace(string(l.pki.JWKS()), "RS256", "PS256", 1),
		"for encryption": strings.Replace(string(l.pki.JWKS()), `"sig"`, `"enc"`, 1), "an even longer exponent": strings.Replace(string(l.pki.JWKS()), "AQAB", "AQABAQAB", 1), "garbage": `{"keys":7}`,
	} {
		t.Run(name, func(t *testing.T) {
			m := l
			m.in.Trust = snapshot(t, map[string][]byte{"jwks.json": []byte(key)})
			want(t, m.check(attest.FormatCSOIDC, l.pki.OIDC(l.claims(nil))), attest.CodeCSKid)
		})
	}
}

// TestTrust: which snapshot makes the same token good.
func TestTrust(t *testing.T) {
	l := newLab(t)
	token := l.pki.Token(l.claims(nil))
	twin := google.New(func(at int, c *x509.Certificate) { // the same keys, another certificate of the root's
		if at == 2 {
			c.SerialNumber = big.NewInt(7)
		}
	})
	renamed := google.New(func(at int, c *x509.Certificate) {
		if at == 2 {
			c.Subject.CommonName = "ARK-Milan"
		}
	})
	pemOf := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	check := func(files map[string][]byte, token []byte) attest.Result {
		m := l
		m.in.Trust = snapshot(t, files)
		return m.check(attest.FormatCSPKI, token)
	}
	want(t, check(nil, token), attest.CodeChain)
	want(t, check(map[string][]byte{"i.pem": pemOf(l.pki.Chain[1]), "l.pem": pemOf(l.pki.Chain[0])}, token), attest.CodeChain)
	want(t, check(map[string][]byte{"r.pem": pemOf(renamed.Chain[2])}, renamed.Token(l.claims(nil))), attest.CodeChain)
	want(t, check(twin.Trust(), token), attest.CodeChain)

	withCRL := func(b []byte) map[string][]byte { return withFile(l.pki.Trust(), "root.crl", b) }
	want(t, check(withCRL(l.pki.CRL(l.pki.Chain[1])), token), attest.CodeRevoked)
	r := check(withCRL(l.pki.CRL()), token)
	if !r.OK() || len(r.Claims.Dated) != 1 || slices.Contains(r.NotChecked, "crl:confidential-space-root") {
		t.Errorf("%s for %v, by the lists %+v", r.Status, r.Reasons, r.Claims.Dated)
	}
	m := l
	m.policy.Revocation = true
	want(t, m.check(attest.FormatCSPKI, token), attest.CodeCRLMissing)
	m.in.Trust = snapshot(t, withCRL(l.pki.CRL()))
	if r := m.check(attest.FormatCSPKI, token); r.Status != attest.Affirming {
		t.Errorf("%s for %v", r.Status, r.Reasons)
	}
	// A list that someone else signed under the root's name is none.
	m.in.Trust = snapshot(t, withCRL(google.Stranger().CRL(l.pki.Chain[1])))
	want(t, m.check(attest.FormatCSPKI, token), attest.CodeCRLMissing)
}

func TestEndorsementsAreRefused(t *testing.T) {
	l := newLab(t)
	e := attest.Evidence{Format: attest.FormatCSPKI, Statement: l.pki.Token(l.claims(nil)), Endorsements: map[string][]byte{"vcek": nil}}
	want(t, attest.NewVerifiers(NewVerifier()).Check(e, l.in, l.policy), attest.CodeCSEncoding)
}

// TestUnboundIsShown: without report data the claims are there to be looked at, and the result is never affirming.
func TestUnboundIsShown(t *testing.T) {
	l := newLab(t)
	token := l.pki.Token(l.claims(nil))
	l.in.ReportData = nil
	if r := l.check(attest.FormatCSPKI, token); r.OK() || r.Status != attest.Warning || r.Claims.Workload == nil || !slices.Contains(r.NotChecked, attest.NotCheckedBinding) {
		t.Errorf("%s for %v", r.Status, r.Reasons)
	}
}

// TestEveryBit: no bit of what is signed can be turned, and none of the signature.
func TestEveryBit(t *testing.T) {
	l := newLab(t)
	bits := 8
	if testing.Short() {
		bits = 1
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for format, token := range map[attest.Format][]byte{attest.FormatCSPKI: l.pki.Token(l.claims(nil)), attest.FormatCSOIDC: l.pki.OIDC(l.claims(nil))} {
		wg.Go(func() {
			for i := range token {
				for bit := range bits {
					flipped := bytes.Clone(token)
					flipped[i] ^= 1 << bit
					if r := l.check(format, flipped); r.Status == attest.Affirming || r.OK() {
						t.Errorf("%s: byte %d, bit %d turned: %s", format, i, bit, r.Status)
					}
				}
			}
		})
	}
}

// TestVerdictIsAFunction: a hundred at once agree, on a good token and on a bad one.
func TestVerdictIsAFunction(t *testing.T) {
	l := newLab(t)
	for _, token := range [][]byte{l.pki.Token(l.claims(nil)), l.pki.Token(l.claims(google.Object{"dbgstat": "enabled", "submods.gce": nil, "exp": 1}))} {
		first := l.check(attest.FormatCSPKI, token)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := l.check(attest.FormatCSPKI, token); !reflect.DeepEqual(got, first) {
					t.Errorf("got %+v, want %+v", got, first)
				}
			})
		}
		wg.Wait()
	}
}

func FuzzToken(f *testing.F) {
	l := newLab(f)
	good := l.pki.Token(l.claims(nil))
	f.Add(good)
	f.Add(l.pki.OIDC(l.claims(nil)))
	f.Add([]byte("e30.e30.AA"))
	for _, b := range shared.Seeds(f, "confidential-space/*.jwt") {
		f.Add(bytes.TrimSpace(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, format := range []attest.Format{attest.FormatCSPKI, attest.FormatCSOIDC} {
			r := l.check(format, b)
			if slices.Contains(codes(r), attest.CodeVerifierPanic) {
				t.Fatalf("a panic: %v", r.Reasons)
			}
			if r.OK() && !bytes.Equal(b, good) && format == attest.FormatCSPKI {
				t.Fatalf("%q passes", b)
			}
		}
	})
}

// FuzzClaims signs whatever claims the fuzzer thinks of: past the signature, the parser of claims meets them all.
func FuzzClaims(f *testing.F) {
	l := newLab(f)
	for _, c := range []google.Object{l.claims(nil), google.Claims(audience), {}, {"submods": google.Object{"container": 1}}} {
		b, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseObject(b)
		if err != nil {
			return
		}
		tok := token{claims: fields{"claims.", o, new([]attest.Reason)}, wrong: new([]attest.Reason)}
		w := tok.workload()
		if c := common(w, l.in); c.Workload != w || c.Debug != w.Debug() {
			t.Fatalf("%+v", c)
		}
	})
}

// BenchmarkCheck verifies and appraises a token; BenchmarkFloor is what of that the standard library takes for the
// chain and the signature alone, for Google has no verifier in Go to stand beside.
func BenchmarkCheck(b *testing.B) {
	l := newLab(b)
	vs := attest.NewVerifiers(NewVerifier())
	e := attest.Evidence{Format: attest.FormatCSPKI, Statement: l.pki.Token(l.claims(nil))}
	b.ReportAllocs()
	for b.Loop() {
		if !vs.Check(e, l.in, l.policy).OK() {
			b.Fatal("refused")
		}
	}
}

func BenchmarkFloor(b *testing.B) {
	l := newLab(b)
	tok, err := parse(l.pki.Token(l.claims(nil)))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		certs, rs := tok.certificates()
		if len(rs) > 0 || len(anchored(certs, l.in)) > 0 || !tok.signedBy(&l.pki.Key.PublicKey) {
			b.Fatal("refused")
		}
	}
}

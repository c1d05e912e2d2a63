package aggregate

import (
	"bytes"
	"crypto/aes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestThresholds(t *testing.T) {
	for _, c := range []struct{ members, committee, minimum, colluding, threshold int }{
		{3, 3, 3, 1, 2},
		{4, 4, 3, 1, 3},
		{4, 3, 3, 1, 2},
		{5, 5, 4, 1, 4},
		{6, 6, 4, 1, 4},
		{6, 5, 4, 1, 4},
		{8, 8, 5, 2, 6},
		{10, 10, 7, 2, 7},
		{12, 9, 8, 3, 7},
		{100, 100, 63, 25, 63},
	} {
		colluding, threshold, err := Thresholds(c.members, c.committee, c.minimum)
		if err != nil || colluding != c.colluding || threshold != c.threshold {
			t.Errorf("%+v: got %d, %d, %v", c, colluding, threshold, err)
		}
	}
	for members := 3; members <= maxMembers; members++ {
		for minimum := range members + 2 {
			for committee := range members + 2 {
				c, threshold, err := Thresholds(members, committee, minimum)
				if err != nil {
					continue
				}
				switch {
				case minimum < c+2 || minimum < 3 || committee < minimum || committee > members:
					t.Errorf("%d, %d, %d: no error", members, committee, minimum)
				case committee > minimum && 2*threshold <= committee+c:
					t.Errorf("%d, %d, %d: two certificates without an honest voter in common", members, committee, minimum)
				case threshold <= c || threshold > committee:
					t.Errorf("%d, %d, %d: threshold %d", members, committee, minimum, threshold)
				}
			}
		}
	}
}

// TestDerivations pins names, order and encoding: another implementation has to make the same keys.
func TestDerivations(t *testing.T) {
	secret, salt := bytes.Repeat([]byte{1}, 32), [32]byte{2}
	p := &terms{Plan: Plan{Model: [32]byte{3}, Round: RoundID{Study: [32]byte{5}, Number: 300}}, digest: [32]byte{4}}
	// The CBOR arrays, by hand: 0x8n array, 0x6n text, 0x58 0x20 bytes of 32, 0x19 a number of two bytes.
	digest := func(first byte) string { return "\x58\x20" + string(rune(first)) + string(make([]byte, 31)) }
	for name, c := range map[string]struct {
		got  []byte
		info string
	}{
		"self":  {ptr(selfMask(secret, salt)), "\x81\x64self"},
		"mask":  {ptr(pairMask(secret, salt, "va", "basel", p)), "\x86\x64mask\x65basel\x62va" + digest(3) + digest(4) + "\x19\x01\x2c"},
		"seal":  {ptr32(boxKey(secret, salt, "va", "basel")), "\x83\x64seal\x62va\x65basel"},
		"noise": {ptr32(centralNoiseKey(secret[:16], [][32]byte{{7}, {8}}, salt, p.Round)), "\x83\x65noise" + digest(5) + "\x19\x01\x2c"},
	} {
		in := secret
		if name == "noise" {
			in = slices.Concat(secret[:16], append([]byte{7}, make([]byte, 31)...), append([]byte{8}, make([]byte, 31)...))
		}
		want, err := hkdf.Key(sha256.New, in, salt[:], c.info, len(c.got))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s: %x, want %x", name, c.got, want)
		}
	}
}

func ptr(k [16]byte) []byte   { return k[:] }
func ptr32(k [32]byte) []byte { return k[:] }

// TestMaskByDefinition masks one vector in every way of cutting it and compares with the definition,
// word by word: AES of the block number, the lane within it, sign, noise, modulo.
func TestMaskByDefinition(t *testing.T) {
	const dim = 41
	r := rand.New(rand.NewPCG(1, 2))
	for _, wordBits := range []uint8{24, 32, 64} {
		x := make([]int64, dim)
		for i := range x {
			x[i] = r.Int64N(1<<20) - 1<<19
		}
		streams := benchStreams(5)
		key := [32]byte{9}
		samples := make([]int64, dim)
		if err := keyedNoise(30)(key).Fill(samples); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, dim*int(wordBits)/8)
		for i := range x {
			v := uint64(x[i]) + uint64(samples[i])
			for _, s := range streams {
				if l := lane(t, s.key, i, wordBits); s.minus {
					v -= l
				} else {
					v += l
				}
			}
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], v)
			copy(want[i*int(wordBits)/8:], b[:wordBits/8])
		}
		for cut := 1; cut <= dim; cut++ {
			k := masker{dim: dim, wordBits: wordBits, streams: streams, noise: keyedNoise(30)(key)}
			got := make([]byte, len(want))
			for o := 0; o < dim; o += cut {
				end := min(o+cut, dim)
				if err := k.mask(got[o*int(wordBits)/8:end*int(wordBits)/8], o, x[o:end]); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bits in cuts of %d differ from the definition", wordBits, cut)
			}
		}
	}
}

func lane(t *testing.T, key [16]byte, word int, wordBits uint8) uint64 {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	size := 4
	if wordBits == 64 {
		size = 8
	}
	var in, out [16]byte
	binary.BigEndian.PutUint64(in[8:], uint64(word*size/16))
	block.Encrypt(out[:], in[:])
	at := out[word*size%16:]
	if size == 8 {
		return binary.LittleEndian.Uint64(at)
	}
	return uint64(binary.LittleEndian.Uint32(at))
}

func TestMaskRefuses(t *testing.T) {
	fresh := func() *masker { return &masker{dim: 8, wordBits: 32, streams: benchStreams(2)} }
	for name, c := range map[string]struct {
		dst, offset, x int
	}{
		"ahead": {4, 1, 1}, "negative": {4, -1, 1}, "too long": {36, 0, 9}, "short destination": {4, 0, 2}, "long destination": {12, 0, 2},
	} {
		if err := fresh().mask(make([]byte, c.dst), c.offset, make([]int64, c.x)); err == nil {
			t.Errorf("%s: masked", name)
		}
	}
	k := fresh()
	if err := k.mask(make([]byte, 16), 0, make([]int64, 4)); err != nil {
		t.Fatal(err)
	}
	if err := k.mask(make([]byte, 16), 0, make([]int64, 4)); err == nil {
		t.Error("an offset was masked twice")
	}
	if k.whole() {
		t.Error("half a vector is whole")
	}
	k.erase()
	if err := k.mask(make([]byte, 4), 4, make([]int64, 1)); err == nil {
		t.Error("an erased masker masks")
	}
	broken := fresh()
	broken.noise = failing{}
	if err := broken.mask(make([]byte, 4), 0, make([]int64, 1)); err == nil {
		t.Error("masked without the noise")
	}
	broken.noise = keyedNoise(0)([32]byte{})
	if err := broken.mask(make([]byte, 4), 0, make([]int64, 1)); err == nil {
		t.Error("masked after the noise failed")
	}
}

type failing struct{}

func (failing) Fill([]int64) error { return errors.New("no noise") }

func TestShamir(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, c := range [][2]int{{2, 3}, {3, 4}, {7, 10}, {13, 20}} {
		for range 20 {
			var secret [32]byte
			for i := range secret {
				secret[i] = byte(r.Uint32())
			}
			shares, err := split(secret, c[0], c[1], drbg(fmt.Sprint(secret)))
			if err != nil {
				t.Fatal(err)
			}
			order := r.Perm(c[1])[:c[0]]
			points, some := make([]uint64, c[0]), make([]share, c[0])
			for i, k := range order {
				points[i], some[i] = uint64(k+1), shares[k]
			}
			if got, err := join(weights(points), some); err != nil || got != secret {
				t.Fatalf("%d of %d: %x, %v, want %x", c[0], c[1], got, err, secret)
			}
			// One share less restores something else.
			if got, err := join(weights(points[1:]), some[1:]); err == nil && got == secret {
				t.Fatalf("%d of %d: t-1 shares restore the secret", c[0], c[1])
			}
		}
	}
	all := [32]byte(bytes.Repeat([]byte{0xff}, 32))
	if got, err := fromLimbs(toLimbs(all)); err != nil || got != all {
		t.Errorf("limbs: %x, %v", got, err)
	}
	if _, err := fromLimbs(share{0, 0, 0, 0, 1 << 32}); err == nil {
		t.Error("33 bytes are a secret")
	}
	if _, err := fromLimbs(share{1 << 56}); err == nil {
		t.Error("a limb of 57 bits is a secret")
	}
}

// TestShamirHides counts, over a small-threshold sharing of two secrets with the same coefficients, that one
// share takes every value alike: the share of one secret is the share of another under another coefficient.
func TestShamirHides(t *testing.T) {
	// f(x) = s + a·x: for any s' there is a' with the same share, a' = a + (s - s')/x.
	s, s2, a, x := uint64(12345), uint64(54321), uint64(987654321), uint64(3)
	a2 := addField(a, mulField(subField(s, s2), inverse(x)))
	if addField(s, mulField(a, x)) != addField(s2, mulField(a2, x)) {
		t.Error("a share tells two secrets apart")
	}
}

func TestField(t *testing.T) {
	p, r := big.NewInt(fieldPrime), rand.New(rand.NewPCG(5, 6))
	edge := []uint64{0, 1, 2, 7, 8, 9, fieldPrime - 1, fieldPrime - 2, fieldPrime / 2, 1 << 56}
	draw := func() uint64 {
		if r.IntN(3) == 0 {
			return edge[r.IntN(len(edge))]
		}
		return r.Uint64N(fieldPrime)
	}
	for range 20000 {
		a, b := draw(), draw()
		x, y := new(big.Int).SetUint64(a), new(big.Int).SetUint64(b)
		for name, c := range map[string][2]*big.Int{
			"add": {new(big.Int).SetUint64(addField(a, b)), new(big.Int).Add(x, y)},
			"sub": {new(big.Int).SetUint64(subField(a, b)), new(big.Int).Sub(x, y)},
			"mul": {new(big.Int).SetUint64(mulField(a, b)), new(big.Int).Mul(x, y)},
		} {
			if want := c[1].Mod(c[1], p); c[0].Cmp(want) != 0 {
				t.Fatalf("%s of %d and %d: %d, want %d", name, a, b, c[0], want)
			}
		}
		if a != 0 && mulField(a, inverse(a)) != 1 {
			t.Fatalf("inverse of %d", a)
		}
	}
}

func TestSumTypes(t *testing.T) {
	w := newWorld(t, names(3), 32, Members)
	w.run()
	central := w.plan
	central.Noise = Noise{Source: Aggregator, Shares: 1, Mechanism: []byte("test"), Bound: 10}
	sum, err := NewMaskedSum(central)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sum.NoisedByMembers(w.plan.Noise); err == nil {
		t.Error("a sum under central noise passed as noised by members")
	}
	for _, c := range []struct{ offset, size int }{{-1, 4}, {14, 4}, {0, 3}, {13, 8}, {1 << 62, 4}} {
		if err := sum.Add(c.offset, make([]byte, c.size)); err == nil {
			t.Errorf("added %d bytes at %d", c.size, c.offset)
		}
	}
	noised, err := sum.Noise(keyedNoise(3)([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	if err := sum.Add(0, make([]byte, 4)); !errors.Is(err, errConsumed) {
		t.Errorf("a consumed sum: %v", err)
	}
	if _, err := sum.Noise(keyedNoise(3)([32]byte{1})); !errors.Is(err, errConsumed) {
		t.Errorf("a consumed sum: %v", err)
	}
	if _, err := noised.Unmask(UnmaskKey{}); err == nil {
		t.Error("an empty key unmasks")
	}
	key := UnmaskKey{&unmaskKey{plan: [32]byte{1}, streams: benchStreams(1)}}
	if _, err := noised.Unmask(key); err == nil {
		t.Error("a key of another plan unmasks")
	}
	members, err := NewMaskedSum(w.plan)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := members.Noise(keyedNoise(3)([32]byte{1})); err == nil {
		t.Error("central noise where members add it")
	}
}

func TestBound(t *testing.T) {
	p := Plan{SumBound: 100, Noise: Noise{Bound: 5}}
	for _, c := range []struct {
		bits uint8
		word uint64
		want int64
		ok   bool
	}{
		{32, 105, 105, true},
		{32, 106, 0, false},
		{32, 1<<32 - 105, -105, true},
		{32, 1<<32 - 106, 0, false},
		{32, 1 << 31, 0, false},
		{64, 1 << 63, 0, false},
		{64, 1<<64 - 105, -105, true},
		{24, 0xff00000000000069, 105, true},
		{24, 1<<24 - 1, -1, true},
		{24, 1 << 23, 0, false},
	} {
		p.WordBits = c.bits
		sum, err := readSum([]uint64{c.word}, p)
		if (err == nil) != c.ok || c.ok && sum[0] != c.want || !c.ok && !errors.Is(err, ErrBound) {
			t.Errorf("%d bits, %#x: %v, %v, want %d", c.bits, c.word, sum, err, c.want)
		}
	}
}

func TestNoWrap(t *testing.T) {
	w := newWorld(t, names(3), 24, Members)
	p := w.plan
	p.SumBound, p.Noise.Bound = 1<<23-10, 9
	if err := p.check(); err != nil {
		t.Errorf("just below the limit: %v", err)
	}
	for _, b := range [][2]uint64{{1<<23 - 10, 10}, {1 << 23, 0}, {5, 1<<64 - 1}, {1<<64 - 1, 5}, {1 << 63, 1 << 63}} {
		p.SumBound, p.Noise.Bound = b[0], b[1]
		if err := p.check(); err == nil {
			t.Errorf("bounds %v may wrap", b)
		}
	}
}

func TestDigests(t *testing.T) {
	vector := bytes.Repeat([]byte("consilium"), 100_000)
	got, err := VectorDigest(bytes.NewReader(vector))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for chunk := range slices.Chunk(vector, ChunkBytes) {
		d := sha256.Sum256(chunk)
		all = append(all, d[:]...)
	}
	if want := sha256.Sum256(all); got != want {
		t.Errorf("vector digest %x, want %x", got, want)
	}
	sum := make([]int64, 1100)
	h := sha256.New()
	for i := range sum {
		sum[i] = int64(i) * -7
		if err := binary.Write(h, binary.LittleEndian, sum[i]); err != nil {
			t.Fatal(err)
		}
	}
	if got := SumDigest(sum); !bytes.Equal(got[:], h.Sum(nil)) {
		t.Errorf("sum digest %s", hex.EncodeToString(got[:]))
	}
}

func TestNewMachinesCheckTheirKeys(t *testing.T) {
	w := newWorld(t, names(3), 32, Members)
	if _, err := NewRound(w.plan, w.keys, w.node["basel"], drbg("x")); err == nil {
		t.Error("a round signs with another key than the keyring's")
	}
	plan := w.sign("", w.plan)
	for name, change := range map[string]func(c *MemberConfig){
		"no noise":        func(c *MemberConfig) { c.Noise = nil },
		"another signer":  func(c *MemberConfig) { c.Signer = w.node["hungarian"] },
		"another's paper": func(c *MemberConfig) { c.Enrolment = enrol("hungarian", w.node["hungarian"], 1, false) },
		"no member": func(c *MemberConfig) {
			c.Self = "nobody"
			w.keys.governance["nobody"] = w.keys.governance["basel"]
		},
	} {
		c := w.config("basel")
		change(&c)
		if _, err := NewMember(c, plan); err == nil {
			t.Errorf("%s: a member started", name)
		}
	}
}

// TestEntropyThatFails ends machines, and never with a key of zeros.
func TestEntropyThatFails(t *testing.T) {
	for size := range 12 {
		w := newWorld(t, names(3), 32, Aggregator)
		w.start()
		limit := drbgOf(size * 40)
		w.round.entropy = limit
		w.drain()
		if res, ok := w.results[""]; !ok {
			t.Errorf("%d bytes: the round did not end", size*40)
		} else if size == 0 && res.Outcome != Aborted {
			t.Errorf("no entropy: %q, want %q", res.Outcome, Aborted)
		}
		m, err := NewMember(w.config("basel"), w.sentKind("plan"))
		if err != nil {
			t.Fatal(err)
		}
		m.cfg.Entropy = drbgOf(size)
		m.Step(Begin{})
		effects := m.Step(Trained{})
		if e, ok := effects[0].(End); !ok || e.Result.Outcome != Aborted {
			t.Errorf("%d bytes: effects %+v, want the end", size, effects)
		}
	}
}

func drbgOf(size int) *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{5}, size)) }

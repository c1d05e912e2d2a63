package refresh

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
)

const fetchHere = "REFRESH_TEST_FETCH" // the folder in which the test binary fetches until it is killed

func TestMain(m *testing.M) {
	if dir := os.Getenv(fetchHere); dir != "" {
		fetchUntilKilled(dir)
	}
	os.Exit(m.Run())
}

// signerFile hands the fake Intel on to the child.
const signerFile = "signer.pem"

func writeSigner(t *testing.T, dir string, v *vendors) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(v.tcbSigning.key)
	if err != nil {
		t.Fatal(err)
	}
	b := append(v.intelRoot.pem(), v.tcbSigning.pem()...)
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(filepath.Join(dir, signerFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readSigner(dir string) *vendors {
	b, err := os.ReadFile(filepath.Join(dir, signerFile))
	if err != nil {
		log.Fatal(err)
	}
	v := &vendors{}
	for _, to := range []*authorityKey{&v.intelRoot, &v.tcbSigning} {
		var block *pem.Block
		block, b = pem.Decode(b)
		if to.Certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
			log.Fatal(err)
		}
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		log.Fatal(err)
	}
	v.tcbSigning.key = key.(*ecdsa.PrivateKey)
	return v
}

func openFor(dir string, v *vendors) (*Refresher, error) {
	return New(Config{
		Dir: filepath.Join(dir, "cache"), Now: at(start), After: time.After, Random: rand.Reader, Sources: []Source{&fakeSource{name: "tcb"}},
		Base: func() (*endorse.Snapshot, error) { return endorse.New(map[string][]byte{"root": v.intelRoot.Raw}) },
	})
}

// takeEvaluation is what follows a fetch.
func (r *Refresher) takeEvaluation(v *vendors, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.take(r.entries["tcb"], [][]byte{v.info(n, start), v.tcbSigning.pem()}, start); err != nil {
		return err
	}
	r.rebuild()
	return nil
}

func (r *Refresher) evaluation() int {
	if ds := r.Snapshot().Index().TCBInfos; len(ds) == 1 {
		return int(ds[0].Head.Evaluation)
	}
	return 0
}

func fetchUntilKilled(dir string) {
	v := readSigner(dir)
	r, err := openFor(dir, v)
	if err != nil {
		log.Fatal(err)
	}
	for n := r.evaluation() + 1; ; n++ {
		if err := r.takeEvaluation(v, n); err != nil {
			log.Fatal(err)
		}
		fmt.Println(n)
	}
}

// TestKill: wherever a process dies, the cache opens, holds at least what was in a snapshot, and takes nothing older.
func TestKill(t *testing.T) {
	v := fake()
	dir := t.TempDir()
	writeSigner(t, dir, v)
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		last := runAndKill(t, dir, 1+round%4, time.Duration(round*137%1000)*time.Microsecond)
		r, err := openFor(dir, v)
		if err != nil {
			t.Fatal(err)
		}
		if n := r.evaluation(); n < last || n > last+1 {
			t.Fatalf("evaluation %d is there, %d was acknowledged", n, last)
		}
		if err := r.takeEvaluation(v, last-1); !errors.Is(err, ErrOlder) {
			t.Fatalf("an older one: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if round%3 == 2 { // the record is lost, the memory is not
			if err := os.Remove(filepath.Join(dir, "cache", "tcb"+recordSuffix)); err != nil {
				t.Fatal(err)
			}
			if r, err = openFor(dir, v); err != nil {
				t.Fatal(err)
			}
			if err := r.takeEvaluation(v, last-1); !errors.Is(err, ErrOlder) {
				t.Fatalf("an older one without the record: %v", err)
			}
			if err := r.takeEvaluation(v, last+1); err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// runAndKill kills a child a while after its n-th acknowledgement, and returns its last.
func runAndKill(t *testing.T, dir string, n int, after time.Duration) (last int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), fetchHere+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewScanner(out)
	for i := 0; r.Scan(); i++ {
		if last, err = strconv.Atoi(r.Text()); err != nil {
			t.Fatal(err)
		}
		if i+1 == n {
			time.Sleep(after) // somewhere in the next
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = child.Wait()
	if last == 0 {
		t.Fatal("the child ended")
	}
	return last
}

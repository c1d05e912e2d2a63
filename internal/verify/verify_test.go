package verify

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
)

func verified(t testing.TB, dir string, o Options) *Report {
	t.Helper()
	r, err := Folder(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGoodFolder(t *testing.T) {
	s := theStory(t)
	dir := s.write(t)
	r := verified(t, dir, Options{Consortium: &s.consortium.Digest})
	if !r.OK || !r.Simulated || !r.Pinned || len(r.Failures()) != 0 {
		t.Errorf("ok %v, simulated %v, pinned %v:\n%s", r.OK, r.Simulated, r.Pinned, r)
	}
	for _, l := range r.Lines {
		if l.Status != Checked || l.Text == "" {
			t.Errorf("line %q is %q: %q", l.Name, l.Status, l.Text)
		}
	}
	text := r.String()
	for _, want := range []string{"pinned", "SIMULATED", "3 closed, 1 burnt, 1 aborted", "report.html", "summary.json", "no patient is in two members", "OK: "} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(b, &again); err != nil || again.String() != text {
		t.Errorf("JSON loses something: %v\n%s", err, b)
	}
}

// TestUnpinned says first of all that the folder's own consortium is trusted.
func TestUnpinned(t *testing.T) {
	r := verified(t, theStory(t).write(t), Options{})
	first, _, _ := strings.Cut(r.String(), "\n")
	if !r.OK || r.Pinned || !strings.Contains(first, "in the folder itself") || !strings.Contains(first, "--consortium") {
		t.Errorf("ok %v, pinned %v, first line %q", r.OK, r.Pinned, first)
	}
}

func TestPinnedToAnother(t *testing.T) {
	other := sha256.Sum256([]byte("another"))
	r := verified(t, theStory(t).write(t), Options{Consortium: &other})
	refused(t, r, consortiumFile, "want the pinned "+signed.DigestText(other))
	for _, l := range r.Lines {
		if l.Name == "log" && l.Status != NotChecked {
			t.Errorf("the log was %s against a consortium that is not the pinned one", l.Status)
		}
	}
}

// refused wants a report to fail, with a problem of that object that says so.
func refused(t testing.TB, r *Report, object, reason string) {
	t.Helper()
	if r.OK || !strings.Contains(r.String(), "\nFAILED: ") {
		t.Errorf("it passed:\n%s", r)
	}
	if !slices.ContainsFunc(r.Failures(), func(p Problem) bool {
		return (object == "" || p.Object == object) && strings.Contains(p.Reason, reason)
	}) {
		t.Errorf("nothing says of %q that %q:\n%s", object, reason, r)
	}
}

// TestRemarks tells what has ended since the run, and fails nothing for it.
func TestRemarks(t *testing.T) {
	s := theStory(t)
	dir := s.write(t)
	r := verified(t, dir, Options{Now: s.start.AddDate(50, 0, 0)})
	text := r.String()
	if !r.OK || !strings.Contains(text, "that of va ended on") || !strings.Contains(text, "the study ended on 2046-01-01") {
		t.Errorf("ok %v:\n%s", r.OK, text)
	}
}

// TestAFlippedByte alters each file of a good folder, the views excepted, in several places.
func TestAFlippedByte(t *testing.T) {
	s := theStory(t)
	dir := s.write(t)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		flipIn(t, s, dir, filepath.ToSlash(name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := verified(t, dir, Options{Consortium: &s.consortium.Digest}); !r.OK {
		t.Errorf("the folder was not put back:\n%s", r)
	}
}

func flipIn(t *testing.T, s *story, dir, name string) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	places := []int{len(good) / 2, len(good) - 1}
	if name == receiptFile { // nothing but itself covers it
		for i := range 12 {
			places = append(places, i*len(good)/12)
		}
	}
	for _, at := range places {
		bad := slices.Clone(good)
		bad[at] ^= 1 << (at % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		r := verified(t, dir, Options{Consortium: &s.consortium.Digest})
		if slices.Contains(views, name) {
			if !r.OK {
				t.Errorf("%s at %d: a view failed:\n%s", name, at, r)
			}
			continue
		}
		named := slices.ContainsFunc(r.Failures(), func(p Problem) bool { return p.Object == name })
		if r.OK || !named {
			t.Errorf("%s at %d: ok %v, and the file is not named:\n%s", name, at, r.OK, r)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFilesMoreOrLess: nothing may be missing, added, or be something else than a file.
func TestFilesMoreOrLess(t *testing.T) {
	s := theStory(t)
	for _, name := range []string{
		modelFile, studyFile, consortiumFile, signaturesFile, "approvals/va.json", "enrolments/va.json", "evidence/va.cbor", "evidence/coordinator.cbor",
		s.trustFile("sim-root.pem"), checkpointFile, "rounds/0001/roster.cbor", "rounds/0003/plan.cbor", "rounds/0005/sum.bin", "rounds/0005/result.cbor",
	} {
		dir := s.write(t)
		if err := os.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			t.Fatal(err)
		}
		refused(t, verified(t, dir, Options{}), name, "is missing")
	}
	for _, name := range []string{"notes.txt", "approvals/basel.json", "rounds/0006/plan.cbor", "trust/extra.pem", "log/tile/0/001", "sub/report.html"} {
		dir := s.write(t)
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		refused(t, verified(t, dir, Options{}), name, "is not in the receipt")
	}
}

// TestLinks: a link is not followed, to a good copy of the file either.
func TestLinks(t *testing.T) {
	s := theStory(t)
	dir := s.write(t)
	inside, outside := filepath.Join(dir, "report.html"), filepath.Join(t.TempDir(), modelFile)
	if err := os.WriteFile(outside, s.model, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inside, s.model, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"report.html", outside} {
		path := filepath.Join(dir, modelFile)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Skip("no symbolic links here: ", err)
		}
		refused(t, verified(t, dir, Options{}), modelFile, "is no regular file")
	}
}

func TestNoFolder(t *testing.T) {
	if _, err := Folder(t.Context(), filepath.Join(t.TempDir(), "absent"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Folder(ctx, theStory(t).write(t), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's end", err)
	}
	r := verified(t, t.TempDir(), Options{Now: time.Now()})
	refused(t, r, receiptFile, "is missing")
}

// TestTerminal: a file's name cannot act on the terminal.
func TestTerminal(t *testing.T) {
	s := theStory(t)
	s.after = func(files map[string][]byte) { files["x\x1b[2Jy"] = nil }
	r := verified(t, s.write(t), Options{})
	if text := r.String(); r.OK || strings.ContainsRune(text, '\x1b') {
		t.Errorf("ok %v:\n%q", r.OK, text)
	}
}

func TestShow(t *testing.T) {
	s := theStory(t)
	dir := s.write(t)
	x, err := Show(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if x.Title != s.study.Title || x.Rounds["closed"] != 3 || x.Planned != 3 || x.Log.Size != uint64(len(s.leaves)) || !x.Simulated {
		t.Errorf("got %+v", x)
	}
	for _, want := range []string{"SIMULATED", "Coronary disease", "r.lead", "va: 3 rounds", "3 of 3 closed, 1 burnt, 1 aborted", "ε = ", "audit verify"} {
		if !strings.Contains(x.String(), want) {
			t.Errorf("the overview does not say %q:\n%s", want, x)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, receiptFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Show(t.Context(), dir); err == nil || !strings.Contains(err.Error(), receiptFile) {
		t.Errorf("a broken receipt is shown: %v", err)
	}
}

// TestConsortia: what makes a consortium file the root of trust, or not.
func TestConsortia(t *testing.T) {
	later := func(c *study.Consortium) { c.Serial, c.Previous = 2, c.Digest }
	for _, x := range []struct {
		name           string
		change         func(c *study.Consortium)
		signers        []string
		pinned         bool
		object, reason string // empty where the line holds
	}{
		{"a hospital called coordinator", func(c *study.Consortium) {
			c.Amend = 4
			c.Hospitals[coordinatorSubject] = study.Hospital{Governance: public("governance coordinator"), Registries: []string{"cardiology"}}
		}, hospitals, true, consortiumFile, "the coordinator's own acts"},
		{"a file that cannot be read", func(c *study.Consortium) { c.Name = "Not A Name" }, hospitals, true, consortiumFile, "name"},
		{"too few signatures", func(c *study.Consortium) { c.Name = "other.example" }, members, true, signaturesFile, "not signed by basel"},
		{"a later serial, not pinned", later, members, false, consortiumFile, "pin the digest"},
		{"a later serial, signed by nobody", later, nil, true, signaturesFile, "no signature of a hospital"},
		{"a later serial", later, members[:3], true, "", "3 of its 5 hospitals signed it"},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := theStory(t)
			c := *s.consortium
			c.Hospitals = maps.Clone(c.Hospitals)
			x.change(&c)
			c.Raw = study.RenderConsortium(&c)
			var sigs []byte
			for _, h := range x.signers {
				var err error
				if sigs, err = c.Sign(sigs, key("governance "+h)); err != nil {
					t.Fatal(err)
				}
			}
			s.files[consortiumFile], s.files[signaturesFile] = c.Raw, sigs
			digest, o := signed.Digest(c.Raw), Options{}
			if x.pinned {
				o.Consortium = &digest
			}
			r := verified(t, s.write(t), o)
			if x.object != "" {
				refused(t, r, x.object, x.reason)
			} else if l := r.Lines[0]; l.Status != Checked || !strings.Contains(l.Text, x.reason) {
				t.Errorf("got %q: %q", l.Status, l.Text)
			}
		})
	}
}

package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// crashEnv, when set, makes the test binary append to the journal it names until it is killed.
const crashEnv = "CONSILIUM_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		appendUntilKilled(path)
	}
	os.Exit(m.Run())
}

// appendUntilKilled prints the number of each record once Append has returned.
func appendUntilKilled(path string) {
	j, err := OpenJournal(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	n := 0
	for _, err := range j.Entries() {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		n++
	}
	for ; ; n++ {
		if err := j.Append(record(n)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

// record n differs from every other and is up to three pages long.
func record(n int) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(n))
	return append(b, bytes.Repeat([]byte{byte(n)}, n*997%12000)...)
}

func open(t testing.TB, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func entries(t testing.TB, j *Journal) [][]byte {
	t.Helper()
	var all [][]byte
	for b, err := range j.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// journalOf writes n records and returns the file's path and the offset at which each begins.
func journalOf(t testing.TB, n int) (path string, starts []int64) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	for i := range n {
		starts = append(starts, j.size)
		if err := j.Append(record(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return path, starts
}

func records(n int) [][]byte {
	var all [][]byte
	for i := range n {
		all = append(all, record(i))
	}
	return all
}

func TestJournalKeepsWhatWasAppended(t *testing.T) {
	path, _ := journalOf(t, 5)
	j := open(t, path)
	for _, b := range [][]byte{record(5), {}} {
		if err := j.Append(b); err != nil {
			t.Fatal(err)
		}
	}
	want := append(records(6), []byte{})
	if diff := cmp.Diff(want, entries(t, j)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if err := j.Append(make([]byte, MaxRecord+1)); err == nil {
		t.Error("a record over MaxRecord was taken")
	}
	if err := j.Append([]byte("after a refusal")); err != nil {
		t.Errorf("a refused record broke the journal: %v", err)
	}
}

// Every prefix of a journal is what some crash leaves: all whole records are kept, the rest is cut
// off for good, and the next record takes its place.
func TestTornTailIsDroppedAtEveryByte(t *testing.T) {
	path, starts := journalOf(t, 3)
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ends := append(starts[1:], int64(len(full)))
	kept := 0
	for size := starts[0]; size <= int64(len(full)); size++ {
		if size == ends[kept] {
			kept++
		}
		want := append(starts[:1:1], ends...)[kept]
		if whole, _, err := scan(bytes.NewReader(full[:size])); err != nil || whole != want {
			t.Fatalf("%d of %d bytes: whole up to %d (%v), want %d", size, len(full), whole, err, want)
		}
		kept = min(kept, len(ends)-1)
	}
	for _, c := range []struct {
		size int64
		kept int
	}{{0, 0}, {5, 0}, {starts[0], 0}, {starts[1] - 1, 0}, {starts[1], 1}, {starts[2] + 3, 2}, {starts[2] + headerSize, 2}, {ends[2] - 1, 2}} {
		torn := filepath.Join(t.TempDir(), "torn")
		if err := os.WriteFile(torn, full[:c.size], 0o600); err != nil {
			t.Fatal(err)
		}
		checkKept(t, torn, c.kept)
	}
}

func checkKept(t *testing.T, path string, kept int) {
	t.Helper()
	j := open(t, path)
	if diff := cmp.Diff(records(kept), entries(t, j)); diff != "" {
		t.Fatalf("after a crash (-want +got):\n%s", diff)
	}
	if err := j.Append(record(kept)); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if diff := cmp.Diff(records(kept+1), entries(t, again)); diff != "" {
		t.Fatalf("appended after a crash (-want +got):\n%s", diff)
	}
	_ = again.Close()
}

// A file system may write the pages of one record in any order, and leave zeros for the rest.
func TestTornTailWithHoles(t *testing.T) {
	path, starts := journalOf(t, 4)
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, hole := range map[string][2]int64{
		"header":  {starts[3], starts[3] + headerSize},
		"length":  {starts[3], starts[3] + 4},
		"payload": {starts[3] + headerSize, starts[3] + headerSize + 8},
		"all":     {starts[3], int64(len(full))},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(full)
			clear(b[hole[0]:hole[1]])
			torn := filepath.Join(t.TempDir(), "torn")
			if err := os.WriteFile(torn, b, 0o600); err != nil {
				t.Fatal(err)
			}
			checkKept(t, torn, 3)
		})
	}
}

// A flipped bit in any byte before the last record is an error, at open, and changes nothing.
func TestDamagedMiddleIsRefused(t *testing.T) {
	path, starts := journalOf(t, 4)
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range starts[3] {
		b := bytes.Clone(full)
		b[at] ^= 0x40
		if _, _, err := scan(bytes.NewReader(b)); err == nil {
			t.Fatalf("byte %d flipped, and the journal is whole", at)
		} else if at >= int64(len(journalMagic)) && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d flipped: %v, want ErrCorrupt", at, err)
		}
	}
	full[starts[2]] ^= 1
	if err := os.WriteFile(path, full, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(path); !errors.Is(err, ErrCorrupt) {
		t.Errorf("opening: %v, want ErrCorrupt", err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(after, full) {
		t.Errorf("a damaged journal of %d bytes was cut to %d", len(full), len(after))
	}
}

func TestRecordsCannotBeMovedOrTakenOut(t *testing.T) {
	path, starts := journalOf(t, 4)
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := append(bytes.Clone(full[:starts[1]]), full[starts[2]:]...)
	if err := os.WriteFile(path, cut, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournal(path)
	if err == nil {
		// What follows the gap is at the wrong offset, so it may be cut, but never read as the next.
		if got := entries(t, j); len(got) != 1 {
			t.Errorf("with record 1 taken out: %d records, want only the one before it", len(got))
		}
		_ = j.Close()
	}
}

func TestForeignFileIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	for _, text := range []string{"dear diary, this is not a journal at all", "short"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenJournal(path); err == nil {
			t.Errorf("%q opens as a journal", text)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("the file is now %q (%v), want %q", b, err, text)
		}
	}
}

func TestDamageAfterOpenIsSeen(t *testing.T) {
	path, starts := journalOf(t, 3)
	j := open(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, starts[1]+headerSize); err != nil {
		t.Fatal(err)
	}
	var got []error
	for _, err := range j.Entries() {
		got = append(got, err)
	}
	if len(got) != 2 || got[0] != nil || !errors.Is(got[1], ErrCorrupt) {
		t.Errorf("entries after a flip in the second of three: %v, want one record, then ErrCorrupt", got)
	}
}

func TestFailedAppendBreaksTheJournal(t *testing.T) {
	path, _ := journalOf(t, 1)
	j := open(t, path)
	good := j.file
	ro, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	j.file = ro // a write that fails
	if err := j.Append([]byte("x")); err == nil {
		t.Fatal("a failed write was acknowledged")
	}
	j.file = good
	if err := j.Append([]byte("y")); err == nil {
		t.Error("the journal goes on after a failed write")
	}
	_ = ro.Close()
}

// The crash test: a process that appends is killed with -9 again and again; every record that it
// had acknowledged is there, in order.
func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	acked := -1
	for round := range 5 {
		acked = runAndKill(t, path, acked+20+round*7)
		j := open(t, path)
		got := entries(t, j)
		if len(got) <= acked {
			t.Fatalf("round %d: %d records after the kill, %d were acknowledged", round, len(got), acked+1)
		}
		if !slices.EqualFunc(got, records(len(got)), bytes.Equal) {
			t.Fatalf("round %d: the records are not those appended", round)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		acked = len(got) - 1
	}
}

// runAndKill lets a child append until it has acknowledged record `until`, and kills it in the
// middle of whatever it does then.
func runAndKill(t *testing.T, path string, until int) (acked int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("child: %s", lines.Text())
		}
		if acked = n; n == until {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
	return acked
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	open(t, path)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	out, err := cmd.Output()
	if err == nil || !bytes.Contains(out, []byte(ErrLocked.Error())) {
		t.Errorf("second process: %v, %q; want %q", err, out, ErrLocked)
	}
	if _, err := OpenJournal(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second opening: %v, want ErrLocked", err)
	}
}

// FuzzJournal reads arbitrary bytes as OpenJournal does. Whatever it takes can be appended to, and
// then has all that it had and that record, and nothing torn.
func FuzzJournal(f *testing.F) {
	path, starts := journalOf(f, 3)
	full, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add(full[:starts[2]+10])
	f.Add([]byte{})
	f.Add([]byte(journalMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, _, err := scan(bytes.NewReader(b))
		if err != nil {
			return
		}
		kept := bytes.Clone(b[:whole])
		if whole == 0 {
			kept = []byte(journalMagic)
		}
		kept = append(kept, encodeRecord([]byte("more"), int64(len(kept)))...)
		if again, size, err := scan(bytes.NewReader(kept)); err != nil || again != size {
			t.Errorf("appended to: whole up to %d of %d, %v", again, size, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	j := open(b, filepath.Join(b.TempDir(), "journal"))
	rec := make([]byte, 300)
	for b.Loop() {
		if err := j.Append(rec); err != nil {
			b.Fatal(err)
		}
	}
}

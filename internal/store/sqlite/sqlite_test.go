package sqlite

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/store/storetest"
)

// crashEnv, when set, makes the test binary swap in the store it names until it is killed.
const crashEnv = "CONSILIUM_TEST_STORE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		fmt.Println(swapUntilKilled(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Test(t, func(t *testing.T, dir string) storetest.Store { return open(t, filepath.Join(dir, "state.db")) })
}

// What a path may hold is not read as a part of the data source's name.
func TestPathsAreTakenAsTheyAre(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?mode=memory&x#%41")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "state.db")
	s := open(t, path)
	defer func() { _ = s.Close() }()
	if _, err := storetest.Swap(t.Context(), s, "k", 0, []byte("v")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if m := fi.Mode().Perm(); m != 0o600 {
			t.Errorf("%s has mode %#o, want 0600", filepath.Base(p), m)
		}
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := open(t, "state.db").Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("state.db"); err != nil {
		t.Error(err)
	}
}

func TestSecondOpeningIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	if _, err := Open(path); !errors.Is(err, store.ErrLocked) {
		t.Errorf("second opening: %v, want ErrLocked", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	for name, fill := range map[string]func(t *testing.T, path string){
		"text": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("dear diary, no database am I, however long you look at me for one"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"another database": func(t *testing.T, path string) { exec1(t, path, "CREATE TABLE t (x)") },
		"later version": func(t *testing.T, path string) {
			if err := open(t, path).Close(); err != nil {
				t.Fatal(err)
			}
			exec1(t, path, "PRAGMA user_version = 2")
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			fill(t, path)
			if s, err := Open(path); err == nil {
				_ = s.Close()
				t.Error("it opens")
			}
		})
	}
}

func exec1(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// swapUntilKilled counts up in one key and prints each count once Swap has returned.
func swapUntilKilled(path string) error {
	s, err := Open(path)
	if err != nil {
		return err
	}
	ctx, n := context.Background(), 0
	v, rev, err := s.Load(ctx, "n")
	if err == nil {
		n, err = strconv.Atoi(string(v))
	} else if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	for err == nil {
		n++
		if rev, err = storetest.Swap(ctx, s, "n", rev, []byte(strconv.Itoa(n))); err == nil {
			fmt.Println(n)
		}
	}
	return err
}

// Killed with -9 again and again, the store has at least what was acknowledged, and at most the one
// swap more that was under way.
func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	acked := 0
	for range 4 {
		acked = runAndKill(t, path, acked+25)
		s := open(t, path)
		v, _, err := s.Load(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		got, err := strconv.Atoi(string(v))
		if err != nil || got < acked || got > acked+1 {
			t.Fatalf("stored %q after %d was acknowledged", v, acked)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		acked = got
	}
}

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

func BenchmarkSwap(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "state.db"))
	defer func() { _ = s.Close() }()
	value := make([]byte, 4<<10)
	var rev int64
	for b.Loop() {
		var err error
		if rev, err = storetest.Swap(b.Context(), s, "k", rev, value); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "state.db"))
	defer func() { _ = s.Close() }()
	if _, err := storetest.Swap(b.Context(), s, "k", 0, make([]byte, 4<<10)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := s.Load(b.Context(), "k"); err != nil {
			b.Fatal(err)
		}
	}
}

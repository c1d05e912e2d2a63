package tpm

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if _, err := Lock(context.Background(), path); err == nil {
		t.Fatal("locked a file that is not there")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			unlock, err := Lock(context.Background(), path)
			if err != nil {
				t.Error(err)
				return
			}
			if inside.Add(1) != 1 {
				t.Error("two hold the lock")
			}
			time.Sleep(time.Millisecond)
			inside.Add(-1)
			unlock()
		})
	}
	wg.Wait()
	unlock, err := Lock(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path); err == nil {
		t.Error("locked what another holds")
	}
}

func TestReadEventLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if b, err := ReadEventLog(path); len(b) != 0 || err != nil {
		t.Errorf("an absent log: %x, %v", b, err)
	}
	if err := os.WriteFile(path, []byte("log"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadEventLog(path); string(b) != "log" || err != nil {
		t.Errorf("%x, %v", b, err)
	}
	if err := os.Truncate(path, attest.MaxEventLog+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadEventLog(path); err == nil {
		t.Error("a large log was read")
	}
	if _, err := ReadEventLog(filepath.Dir(path)); err == nil {
		t.Error("a folder was read")
	}
}

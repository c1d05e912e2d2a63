package simulation

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogThatCannotBe starts a coordinator whose log is to wait longer for a batch than for a checkpoint.
func TestLogThatCannotBe(t *testing.T) {
	o := clinics(t, 3, 2, 2)
	o.Out = filepath.Join(t.TempDir(), "out")
	_, err := simulate(t.Context(), o, wiring{built: func(f *federation) error {
		path := f.path("coordinator", "coordinator.yaml")
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, bytes.Replace(b, []byte("batch: 100ms"), []byte("batch: 300ms"), 1), 0o600)
	}})
	if err == nil || !strings.Contains(err.Error(), "log: batch 300ms") {
		t.Errorf("got %v, want the log's batch refused", err)
	}
}

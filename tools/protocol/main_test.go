package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestProtocolDocIsCurrent(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := replace(doc, render())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(doc, want) {
		t.Error("docs/protocol.md is not what the tables say: run go generate ./aggregate")
	}
}

func TestReplace(t *testing.T) {
	got, err := replace([]byte("a\n"+begin+"old\n"+end+"b\n"), "new\n")
	if err != nil || string(got) != "a\n"+begin+"new\n"+end+"b\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, doc := range []string{"", begin, end, end + begin} {
		if _, err := replace([]byte(doc), "new\n"); err == nil || !strings.Contains(err.Error(), "no line") {
			t.Errorf("%q: %v, want a missing marker", doc, err)
		}
	}
}

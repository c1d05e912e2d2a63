package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	in := `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: no chromium\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    a_test.go:3: $CONSILIUM_SHARED is absent\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    quiet\n"}
{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Test":"TestD","Output":"    loud\n"}
{"Action":"fail","Package":"p","Test":"TestD"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.01s\n"}
`
	var out strings.Builder
	skipped, err := report(strings.NewReader(in), &out)
	if err != nil || skipped != 1 {
		t.Fatalf("got %d skips, %v; want 1", skipped, err)
	}
	want := "skip\tp TestA: a_test.go:3: no chromium\nskip\tp TestB: a_test.go:3: $CONSILIUM_SHARED is absent\n    loud\nok  \tp\t0.01s\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

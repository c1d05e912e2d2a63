package main

import (
	"io"
	"strings"
	"testing"
)

func TestBars(t *testing.T) {
	summary := func(auc, accuracy string) string {
		return `{"version":"consilium.summary/v1","federated":{"auc":` + auc + `,"accuracy":` + accuracy +
			`},"pooled":{"auc":0.99,"accuracy":0.97},"mean_of_hospitals":{"auc":null,"accuracy":` + accuracy +
			`},"privacy":{"epsilon":0.95,"epsilon_budget":1,"charges":1},"rounds":[{"outcome":"closed"}]}`
	}
	for _, x := range []struct {
		job, auc, accuracy string
		want               bool
	}{
		{"wdbc", "0.98", "0.95", true},
		{"wdbc", "0.94", "0.95", false},
		{"wdbc", "0.98", "0.87", false},
		{"wdbc", "null", "0.95", false},
		{"hearts", "0.98", "0.79", true},
		{"hearts", "0.95", "0.79", false},
		{"hearts", "0.98", "0.71", false},
		{"hearts", "0.98", "null", false},
	} {
		ok, err := run(x.job, strings.NewReader(summary(x.auc, x.accuracy)), io.Discard)
		if err != nil || ok != x.want {
			t.Errorf("%s with AUC %s, accuracy %s: got %v, %v", x.job, x.auc, x.accuracy, ok, err)
		}
	}
	if _, err := run("wdbc", strings.NewReader(`{"version":"x"}`), io.Discard); err == nil {
		t.Error("another version was taken")
	}
}

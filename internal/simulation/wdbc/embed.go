// Package wdbc carries the default study of the simulation: the public Wisconsin Diagnostic Breast Cancer data (CC BY 4.0, see
// ATTRIBUTION.md) and a study over it, whose ranges say where they come from.
//
//	yaml := wdbc.Study(consortium.Digest, "r.lead", []string{"alder", "birch", "cedar"}, from, until)
//	s, err := study.Parse(yaml)
package wdbc

import (
	"bytes"
	_ "embed" // the data and the template
	"fmt"
	"strings"
	"time"
)

// CSV is the data: a header, 30 feature columns and `diagnosis`, 1 for malignant; 569 rows.
//
//go:embed breast_cancer.csv
var CSV []byte

//go:embed study.yaml
var template []byte

// Registry is the name of the data set that the study asks each member for.
const Registry = "pathology"

// Hospitals are five names for the default federation. They are trees, not hospitals: the data are of one place.
var Hospitals = []string{"alder", "birch", "cedar", "hazel", "rowan"}

// Study returns the text of the default study for these members (every one of which has to approve), led by and released to
// lead, valid from `from` until `until`, both in UTC and cut to seconds.
func Study(consortium [32]byte, lead string, members []string, from, until time.Time) []byte {
	from, until = from.UTC().Truncate(time.Second), until.UTC().Truncate(time.Second)
	lines := map[string]string{
		"consortium": fmt.Sprintf("sha256:%x", consortium),
		"lead":       lead,
		"members":    "[" + strings.Join(members, ", ") + "]",
		"approvals":  fmt.Sprint(len(members)),
		"valid":      fmt.Sprintf("{from: %s, until: %s}", from.Format(time.RFC3339), until.Format(time.RFC3339)),
		"ethics":     fmt.Sprintf("{board: None needed for public data, reference: UCI 10.24432/C5DW2B, until: %s}", until.AddDate(0, 0, 1).Format(time.DateOnly)),
		"release":    fmt.Sprintf("{to: [%s], hospitals: true}", lead),
	}
	var out bytes.Buffer
	for line := range bytes.Lines(template) {
		key, _, _ := strings.Cut(string(line), ":")
		if value, ok := lines[key]; ok {
			fmt.Fprintf(&out, "%s: %s\n", key, value)
			continue
		}
		out.Write(line)
	}
	return out.Bytes()
}

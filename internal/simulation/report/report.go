// Package report renders report.html: what a simulated study did, on one page that opens from disk and asks
// for nothing. It has no script; its plots are SVG made here, each with its text alternative and its numbers.
//
//	page, err := report.HTML(report.Data{Title: "Coronary disease", Summary: s, Saw: saw})
//	if err == nil {
//		err = os.WriteFile("report.html", page, 0o644)
//	}
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"

	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

// Data is all that the page shows.
type Data struct {
	Title    string // of the study
	Summary  summary.Summary
	Saw      summary.Saw
	Curve    []summary.Curve
	Attested []summary.Attested
	Checked  []string // what the verifier checked, in words
	Not      []string // what it did not
}

//go:embed style.css
var style string

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// HTML renders the page: one file, no request. Every text of d is shown as text, whatever it holds, and the
// page's own policy lets nothing load or run but its style sheet.
func HTML(d Data) ([]byte, error) {
	v := newView(d)
	v.Style = template.CSS(style) //nolint:gosec // our own embedded file
	digest := sha256.Sum256([]byte(style))
	v.Policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'; base-uri 'none'; form-action 'none'"
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return nil, fmt.Errorf("rendering the report: %w", err)
	}
	return b.Bytes(), nil
}

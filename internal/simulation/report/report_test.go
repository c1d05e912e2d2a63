package report_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/internal/simulation/report"
	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

// TestSize keeps a usual page small enough to send by mail.
func TestSize(t *testing.T) {
	const most = 300_000
	if n := len(render(t, wdbc())); n > most {
		t.Errorf("a page of five hospitals and thirty rounds is %d bytes, want at most %d", n, most)
	}
}

// TestOneFile: nothing in the page names anything outside it.
func TestOneFile(t *testing.T) {
	for name, d := range map[string]report.Data{"wdbc": wdbc(), "hearts": hearts(), "empty": {}} {
		page := render(t, d)
		for _, outside := range []string{"<script", "http:", "https:", "src=", "url(", "@import", "<link", " style="} {
			if bytes.Contains(page, []byte(outside)) {
				t.Errorf("%s: the page holds %q", name, outside)
			}
		}
		if handler := regexp.MustCompile(`<[^>]*\son[a-z]+=`).Find(page); handler != nil {
			t.Errorf("%s: the page has a handler: %q", name, handler)
		}
	}
}

// TestSame: a page depends on its data alone.
func TestSame(t *testing.T) {
	first := render(t, wdbc())
	for range 5 {
		if !bytes.Equal(first, render(t, wdbc())) {
			t.Fatal("the same data give two pages")
		}
	}
}

// TestMarkIsLoud: whatever is simulated is said at the head of the page and on the card of each process.
func TestMarkIsLoud(t *testing.T) {
	d := wdbc()
	for _, c := range []struct {
		name      string
		change    func()
		head      string
		processes int
	}{
		{"all simulated", func() {}, "every trusted machine was simulated", 6},
		{"one real", func() { d.Attested[2].Simulated = false }, "5 of 6 trusted machines were simulated", 5},
		{"the summary says nothing", func() { d.Summary.Simulated = false }, "5 of 6 trusted machines were simulated", 5},
	} {
		c.change()
		page := string(render(t, d))
		head, _, _ := strings.Cut(page, "</header>")
		if !strings.Contains(head, c.head) || !strings.Contains(head, `class="simulated"`) {
			t.Errorf("%s: the header does not say %q", c.name, c.head)
		}
		if n := strings.Count(page, "no hardware stands behind it"); n != c.processes {
			t.Errorf("%s: %d cards are marked, want %d", c.name, n, c.processes)
		}
	}
}

// TestBiasShows: bytes that give an update away leave the band, and the page says so.
func TestBiasShows(t *testing.T) {
	d := wdbc()
	if page := string(render(t, d)); !strings.Contains(page, "All sixteen bars end in the band") {
		t.Error("uniform bytes are not said to be in the band")
	}
	d.Saw.Histogram[0] += 400 // as zero bytes at the head of words without a mask do
	page := string(render(t, d))
	if strings.Contains(page, "All sixteen bars end in the band") || !strings.Contains(page, "1 bar ends outside the band") {
		t.Error("400 bytes too many in one bin are not said")
	}
}

// TestUndefined: what has no value reads n/a, and what has no bound is not drawn as one.
func TestUndefined(t *testing.T) {
	d := hearts()
	d.Summary.Hospitals[3].Federated = summary.Score{}
	page := string(render(t, d))
	for _, want := range []string{
		">n/a</td>", "n/a at va: its held-back patients are all of one class", "n/a at va: it has no held-back patient",
		"no bound", "the exact sum would be seen", "bar eps open", "The study ended before its last round",
		"2 hospitals were left, and 3 are needed",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page, "NaN") || strings.Contains(page, "Inf") {
		t.Error("the page shows a number that is none")
	}
}

// TestOddData renders what no sane simulation hands over: lengths that differ, words of no width.
func TestOddData(t *testing.T) {
	for name, change := range map[string]func(*report.Data){
		"no words":          func(d *report.Data) { d.Saw.Masked, d.Saw.WordBits = nil, 0 },
		"half a word":       func(d *report.Data) { d.Saw.Masked = d.Saw.Masked[:len(d.Saw.Masked)-3] },
		"words of 7 bits":   func(d *report.Data) { d.Saw.WordBits = 7 },
		"words of 255 bits": func(d *report.Data) { d.Saw.WordBits = 255 },
		"fewer columns":     func(d *report.Data) { d.Saw.Columns = d.Saw.Columns[:3] },
		"no sum":            func(d *report.Data) { d.Saw.Sum = nil },
		"zero update":       func(d *report.Data) { clear(d.Saw.Plain) },
		"no hospitals":      func(d *report.Data) { d.Summary.Hospitals = nil },
		"no rounds":         func(d *report.Data) { d.Summary.Rounds, d.Curve = nil, nil },
		"no phases":         func(d *report.Data) { d.Summary.Rounds[0].Phases = nil },
		"one round":         func(d *report.Data) { d.Summary.Rounds, d.Curve = d.Summary.Rounds[:1], d.Curve[:1] },
		"no histogram":      func(d *report.Data) { d.Saw.Histogram = [16]uint64{} },
		"no budget":         func(d *report.Data) { d.Summary.Privacy = summary.Privacy{} },
	} {
		d := wdbc()
		change(&d)
		if page := render(t, d); bytes.Contains(page, []byte("NaN")) || !bytes.Contains(page, []byte("</html>")) {
			t.Errorf("%s: the page is not whole", name)
		}
	}
}

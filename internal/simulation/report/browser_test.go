package report_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/consilium-fl/consilium/internal/simulation/report"
)

// axePath is where tools/browser installs the accessibility rules.
const axePath = "../../../tools/browser/node_modules/axe-core/axe.min.js"

// patience bounds a browser that hangs; nothing is measured by it.
const patience = 3 * time.Minute

// tab is a browser's page, and all that it asked for and complained about.
type tab struct {
	ctx context.Context

	mu         sync.Mutex
	requests   []string
	complaints []string
}

// openTab starts headless Chromium, or skips the test where there is none.
func openTab(t *testing.T) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium: apt-get install --no-install-recommends chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true))
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{ctx: ctx}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatal(err)
	}
	return b
}

// hear notes every request and every complaint of the page.
func (b *tab) hear(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, ev.Request.URL)
	case *runtime.EventConsoleAPICalled:
		b.complaints = append(b.complaints, fmt.Sprintf("console.%s", ev.Type))
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, ev.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, fmt.Sprintf("%s %s: %s", ev.Entry.Level, ev.Entry.Source, ev.Entry.Text))
	}
}

// heard empties what was heard.
func (b *tab) heard() (requests, complaints []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	requests, complaints = b.requests, b.complaints
	b.requests, b.complaints = nil, nil
	return requests, complaints
}

// open shows a file at a size and in a theme.
func (b *tab) open(t *testing.T, url string, w window) {
	t.Helper()
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: w.theme}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, media); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(b.ctx, chromedp.EmulateViewport(w.width, 900), chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
}

// ask evaluates JavaScript, which the page's policy does not bind: it comes from the debugger.
func ask[T any](t *testing.T, b *tab, js string) T {
	t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// save writes a page where a browser finds it.
func save(t *testing.T, page []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(path, page, 0o644); err != nil {
		t.Fatal(err)
	}
	return "file://" + path
}

func render(t *testing.T, d report.Data) []byte {
	t.Helper()
	page, err := report.HTML(d)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// faults lists what is wrong with the layout: a sideways scroll, a box that leaves the window, a text of a
// plot that touches another or leaves its plot, or is too small to read.
const faults = `(() => {
	const out = [], root = document.documentElement;
	if (root.scrollWidth > root.clientWidth) out.push("sideways scroll: " + root.scrollWidth + " > " + root.clientWidth);
	const said = e => e.tagName + "." + (e.getAttribute("class") || "") + " " + JSON.stringify((e.textContent || "").trim().slice(0, 40));
	for (const e of document.querySelectorAll("body *:not(caption)")) {
		const r = e.getBoundingClientRect();
		if (r.width && (r.right > root.clientWidth + 1 || r.left < -1)) out.push("leaves the window: " + said(e));
		if (e instanceof HTMLElement && e.tagName != "CAPTION" && e.clientWidth && e.scrollWidth > e.clientWidth + 1) out.push("clipped or spilling: " + said(e));
	}
	for (const svg of document.querySelectorAll("svg.plot")) {
		const frame = svg.getBoundingClientRect();
		if (!frame.width) continue;
		const texts = [...svg.querySelectorAll("text")].map(e => [e, e.getBoundingClientRect()]);
		texts.forEach(([e, r], i) => {
			if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1 || r.bottom > frame.bottom + 1) out.push("leaves its plot: " + said(e));
			if (parseFloat(getComputedStyle(e).fontSize) * frame.width / svg.viewBox.baseVal.width < 10) out.push("too small: " + said(e));
			for (const [f, q] of texts.slice(i + 1)) {
				if (Math.min(r.right, q.right) - Math.max(r.left, q.left) > 1 && Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top) > 1) out.push("overlap: " + said(e) + " and " + said(f));
			}
		});
	}
	return out;
})()`

// window is a size and a theme that a reader has.
type window struct {
	width int64
	theme string
}

// The first page is opened in all windows, the others in those at the ends.
var (
	ends    = []window{{390, "dark"}, {1440, "light"}}
	windows = append([]window{{390, "light"}, {768, "dark"}, {1024, "light"}, {1440, "dark"}}, ends...)
)

// TestPageInBrowser opens pages as a reader does: nothing is asked for, nothing complained about, nothing
// overlaps, and the accessibility rules find nothing.
func TestPageInBrowser(t *testing.T) {
	b := openTab(t)
	axe, err := os.ReadFile(axePath)
	if err != nil {
		t.Skip("no axe-core: npm ci --prefix tools/browser --ignore-scripts")
	}
	for _, p := range []struct {
		name    string
		data    report.Data
		windows []window
	}{{"wdbc", wdbc(), windows}, {"hearts", hearts(), ends}, {"hostile", hostile(), ends}, {"large", large(), ends}, {"empty", report.Data{}, ends}} {
		url := save(t, render(t, p.data))
		for _, w := range p.windows {
			t.Run(fmt.Sprintf("%s/%d/%s", p.name, w.width, w.theme), func(t *testing.T) { b.inspect(t, url, w, string(axe)) })
		}
	}
}

// inspect opens a page, folded and unfolded, and reports all that is wrong with it.
func (b *tab) inspect(t *testing.T, url string, w window, axe string) {
	b.heard()
	b.open(t, url, w)
	for _, open := range []bool{false, true} {
		ask[chromedp.Void](t, b, fmt.Sprintf(`document.querySelectorAll("details").forEach(d => d.open = %t)`, open))
		for _, f := range ask[[]string](t, b, faults) {
			t.Errorf("tables open %t: %s", open, f)
		}
	}
	for _, v := range ask[[]string](t, b, axe+";"+violations) {
		t.Error(v)
	}
	requests, complaints := b.heard()
	if len(requests) != 1 || requests[0] != url {
		t.Errorf("requests %q, want %q alone", requests, url)
	}
	if len(complaints) > 0 {
		t.Errorf("the page complains: %q", complaints)
	}
}

const violations = `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.flatMap(v =>
	v.nodes.slice(0, 5).map(n => "axe " + v.id + ": " + n.target.join(" ") + ": " + (n.failureSummary || "").replace(/\s+/g, " "))))`

// TestBrowserSees is the control: what TestPageInBrowser looks for is found where it is.
func TestBrowserSees(t *testing.T) {
	b := openTab(t)
	bad := `<!doctype html><html lang=en><title>bad</title><script>console.error("x")</script><img alt="" src="other.png">
<div style="width:3000px">wide</div><svg class=plot viewBox="0 0 360 100" style="width:360px"><text x=10 y=20>one</text><text x=12 y=22>two</text><text x=340 y=90>leaves it</text></svg>`
	b.open(t, save(t, []byte(bad)), window{390, "light"})
	found := strings.Join(ask[[]string](t, b, faults), "\n")
	for _, want := range []string{"sideways scroll", "leaves the window", "overlap", "leaves its plot"} {
		if !strings.Contains(found, want) {
			t.Errorf("the layout test does not see: %s; it sees %s", want, found)
		}
	}
	requests, complaints := b.heard()
	if len(requests) != 2 || len(complaints) < 2 {
		t.Errorf("requests %q, want two; complaints %q, want the console's and the missing file's", requests, complaints)
	}
}

// TestThemes: the style sheet passes the page's own policy, and each theme is another.
func TestThemes(t *testing.T) {
	b := openTab(t)
	url := save(t, render(t, wdbc()))
	colours := map[string]bool{"rgba(0, 0, 0, 0)": true, "rgb(255, 255, 255)": true}
	for _, theme := range []string{"light", "dark"} {
		b.open(t, url, window{390, theme})
		c := ask[string](t, b, `getComputedStyle(document.body).backgroundColor`)
		if colours[c] {
			t.Errorf("%s: the body is %s, want a colour of this theme's own", theme, c)
		}
		colours[c] = true
	}
}

// TestNamesStayText opens a page whose names are markup, and looks for what they would have made.
func TestNamesStayText(t *testing.T) {
	b := openTab(t)
	d := hostile()
	b.open(t, save(t, render(t, d)), window{390, "light"})
	if got := ask[string](t, b, `document.querySelector("h1").textContent`); got != d.Title {
		t.Errorf("the heading reads %q, want %q", got, d.Title)
	}
	if got := ask[string](t, b, `document.title`); !strings.HasPrefix(got, d.Title) {
		t.Errorf("the title reads %q, want %q first", got, d.Title)
	}
	if got := ask[string](t, b, `[...document.querySelectorAll("tbody th")].map(e => e.textContent).join("\n")`); !strings.Contains(got, d.Summary.Hospitals[0].Name) {
		t.Errorf("no row is named %q", d.Summary.Hospitals[0].Name)
	}
	made := `[...document.querySelectorAll("script, iframe, img, [onload], [onerror], a[href^=javascript]")].map(e => e.outerHTML)`
	if got := ask[[]string](t, b, made); len(got) > 0 {
		t.Errorf("names made elements: %q", got)
	}
}

package verify

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
)

// Summary is what `consilium audit show` prints: what a folder is about, in its receipt's words. Only the
// receipt's signature was checked.
type Summary struct {
	Version     string                   `json:"version"`
	Folder      string                   `json:"folder"`
	Study       string                   `json:"study"`
	Title       string                   `json:"title"`
	Lead        string                   `json:"lead"`
	Consortium  string                   `json:"consortium"`
	Name        string                   `json:"name"` // of the consortium
	Simulated   bool                     `json:"simulated"`
	From        time.Time                `json:"from"`
	Until       time.Time                `json:"until"`
	Members     []string                 `json:"members"`
	Coordinator audit.ReceiptCoordinator `json:"coordinator"`
	Hospitals   []audit.ReceiptHospital  `json:"hospitals"` // that were in a set
	Hidden      int                      `json:"hidden_among"`
	Rounds      map[string]int           `json:"rounds"` // by outcome
	Planned     int                      `json:"planned"`
	Privacy     audit.ReceiptPrivacy     `json:"privacy"`
	Log         audit.ReceiptLog         `json:"log"`
	Files       int                      `json:"files"` // that the receipt lists
}

// SummaryVersion is the version of a Summary in JSON.
const SummaryVersion = "consilium.overview/v1"

// Show sums up an output folder. It verifies nothing but the receipt's signature.
func Show(ctx context.Context, dir string) (*Summary, error) {
	f, err := openFolder(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("showing folder %q: %w", dir, err)
	}
	defer f.close()
	x, err := f.summary(ctx)
	if err != nil {
		return nil, fmt.Errorf("showing folder %q: %w", dir, err)
	}
	x.Folder = dir
	return x, nil
}

func (f *folder) summary(ctx context.Context) (*Summary, error) {
	c := &checker{ctx: ctx, folder: f, report: &Report{}}
	s := &section{}
	c.checkReceipt(s)
	if c.receipt == nil {
		return nil, fmt.Errorf("%s: %s", s.line.Problems[0].Object, s.line.Problems[0].Reason)
	}
	b, err := f.read(studyFile, maxText)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", studyFile, err)
	}
	x, err := study.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", studyFile, err)
	}
	if b, err = f.read(consortiumFile, maxText); err != nil {
		return nil, fmt.Errorf("%s: %w", consortiumFile, err)
	}
	k, err := study.ParseConsortium(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", consortiumFile, err)
	}
	p := c.receipt.Predicate
	out := &Summary{
		Version: SummaryVersion, Study: signed.DigestText(x.Digest), Title: x.Title, Lead: x.Lead,
		Consortium: signed.DigestText(k.Digest), Name: k.Name, Simulated: p.Simulated, From: x.From, Until: x.Until,
		Members: x.Members, Coordinator: p.Coordinator, Hospitals: p.Hospitals, Hidden: p.HiddenAmong, Rounds: map[string]int{}, Planned: x.Strategy.Rounds,
		Privacy: p.Privacy, Log: p.Log, Files: len(c.receipt.Subject),
	}
	for _, r := range p.Rounds {
		out.Rounds[r.Outcome]++
	}
	return out, nil
}

// String is the summary for a terminal.
func (x *Summary) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", name, plain(fmt.Sprintf(format, args...)))
	}
	if x.Simulated {
		b.WriteString("SIMULATED: the TEEs of this run were simulated.\n")
	}
	row("study", "%s", x.Title)
	row("", "%s", x.Study)
	row("lead", "%s", x.Lead)
	row("consortium", "%s, %s", x.Name, x.Consortium)
	row("valid", "%s to %s", x.From.Format(time.DateOnly), x.Until.Format(time.DateOnly))
	row("members", "%s", strings.Join(x.Members, ", "))
	for _, h := range x.Hospitals {
		row("", "%s: %s, attested with status %q", h.Name, count(len(h.Rounds), "round"), h.Status)
	}
	row("rounds", "%d of %d closed, %d burnt, %d aborted; each hospital hidden among %d", x.Rounds["closed"], x.Planned, x.Rounds["burnt"], x.Rounds["aborted"], x.Hidden)
	row("privacy", "ε = %.4g of %g, δ = %g, %s noise, per %s", x.Privacy.Epsilon, x.Privacy.EpsilonBudget, x.Privacy.Delta, x.Privacy.Noise, x.Privacy.Unit)
	if x.Privacy.EpsilonIfTEEBroken != nil && x.Privacy.EpsilonOwnNoise != nil {
		row("", "%.4g if a TEE is broken, %.4g with every other hospital colluding", *x.Privacy.EpsilonIfTEEBroken, *x.Privacy.EpsilonOwnNoise)
	}
	row("log", "%s, %d leaves, co-signed by %s", x.Log.Origin, x.Log.Size, strings.Join(x.Log.Cosigned, ", "))
	row("files", "%d listed", x.Files)
	b.WriteString("This is what the receipt says. `consilium audit verify` checks it.\n")
	return b.String()
}

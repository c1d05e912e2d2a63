package node

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/grounds/fetch"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/node/dataset"
)

// A Finding is one thing that Check has to say.
type Finding struct {
	Object string // what was looked at
	Text   string // what is wrong with it, never a value of a cell
	Show   string // the same with the value, for a terminal inside the hospital
	Hint   bool   // worth a look; nothing is refused because of it
}

// Check looks, before anything runs, at all that a node needs: the approvals, the studies it stopped in
// and, where a study file is given, that the study fits this hospital's consortium, budget and data. After
// approval no row can stop this node any more, so this is the time to look.
func Check(c Config, d Deps, file []byte) ([]Finding, error) {
	n := &Node{config: c, deps: d, log: d.Logger, complaints: map[string]string{}}
	if _, err := checkDeps(c, d); err != nil {
		return nil, fmt.Errorf("checking node %s/%s: %w", c.Hospital, c.Node, err)
	}
	as, err := n.approvals()
	if err != nil {
		return nil, fmt.Errorf("checking node %s/%s: %w", c.Hospital, c.Node, err)
	}
	fs := checkGrounds(c, d)
	for _, f := range slices.Sorted(maps.Keys(n.complaints)) {
		fs = append(fs, Finding{Object: "approval " + f, Text: n.complaints[f], Show: n.complaints[f]})
	}
	for digest := range as {
		if b, err := os.ReadFile(filepath.Join(n.studyDir(digest), stoppedFile)); err == nil {
			fs = append(fs, problem("study "+study.Short(digest), fmt.Errorf("%w: %s", ErrStopped, b)))
		}
	}
	if file == nil {
		return fs, nil
	}
	return append(fs, checkStudy(c, d, file)...), nil
}

// checkGrounds says what is wrong with that by which the coordinator is appraised. Files that cannot be read are an error
// before it comes to this.
func checkGrounds(c Config, d Deps) (fs []Finding) {
	g, _ := d.Grounds.Current()
	ps, err := g.Policies(d.Consortium, attest.RoleCoordinator, c.Insecure.SimulatedTEE, d.Now())
	if err != nil {
		fs = append(fs, problem("references", err))
	}
	for _, p := range ps {
		if err := p.Validate(); err != nil {
			fs = append(fs, problem("policy of the coordinator", err))
		}
	}
	if without, err := d.Grounds.Rooted(d.Consortium, attest.RoleCoordinator, d.Now()); err == nil && len(without) > 0 {
		fs = append(fs, hint("trust", fmt.Sprintf("%q are accepted of a coordinator, and %v: %s", without, grounds.ErrNoRoot, grounds.RootsFrom)))
	}
	return append(fs, checkFetched(c, d)...)
}

// checkFetched says what of the fetched endorsements is there, and what is wrong with the rest. A vendor that does not
// answer stops no node, so that none of it is a problem.
func checkFetched(c Config, d Deps) (fs []Finding) {
	all, err := fetch.Cached(c.Fetch, d.Grounds.Base())
	if err != nil {
		return []Finding{problem("endorsements", err)}
	}
	for _, s := range all {
		fs = append(fs, hint("endorsements "+s.Source, s.Text))
	}
	if len(all) == 0 && len(c.Fetch.From) > 0 {
		fs = append(fs, hint("endorsements", "none was fetched yet"))
	}
	return fs
}

func hint(object, text string) Finding {
	return Finding{Object: object, Text: text, Show: text, Hint: true}
}

func checkStudy(c Config, d Deps, file []byte) (fs []Finding) {
	s, err := study.Parse(file)
	if err != nil {
		return []Finding{problem("study", err)}
	}
	if err := s.Check(d.Consortium, d.Now()); err != nil {
		fs = append(fs, problem("study", err))
	} else if _, err := terms.New(d.Consortium, s); err != nil {
		fs = append(fs, problem("study", err))
	}
	if !slices.Contains(s.Members, c.Hospital) {
		fs = append(fs, problem("study", fmt.Errorf("hospital %q is not among its members", c.Hospital)))
	}
	reg, ok := c.Registries[s.Data.Registry]
	if !ok {
		return append(fs, problem("registry "+s.Data.Registry, errors.New("the configuration does not name it")))
	}
	if s.Privacy.Epsilon > reg.Budget.Epsilon || s.Privacy.Delta > reg.Budget.Delta {
		fs = append(fs, problem("budget of registry "+s.Data.Registry, fmt.Errorf("the study takes ε %v, δ %v; the lifetime budget is ε %v, δ %v", s.Privacy.Epsilon, s.Privacy.Delta, reg.Budget.Epsilon, reg.Budget.Delta)))
	}
	exclude, err := dataset.ReadExclusionFile(reg.Exclude.File, reg.Exclude.Column)
	if err != nil {
		return append(fs, problem("exclusions of registry "+s.Data.Registry, err))
	}
	cells, err := dataset.CheckFile(reg.File, s.Data, s.MaxPatients, exclude)
	if err != nil {
		return append(fs, problem("data of registry "+s.Data.Registry, err))
	}
	for _, f := range cells {
		fs = append(fs, Finding{Object: "data of registry " + s.Data.Registry, Text: f.String(), Show: f.Show(), Hint: f.Hint})
	}
	return fs
}

func problem(object string, err error) Finding {
	return Finding{Object: object, Text: err.Error(), Show: err.Error()}
}

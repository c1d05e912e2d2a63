package simulation

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/internal/keyfile"
	"github.com/consilium-fl/consilium/internal/pinned"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/simulation/wdbc"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/node"
	"github.com/consilium-fl/consilium/node/dataset"
)

// BadInput is what a person has to mend in a file or an option.
type BadInput struct{ Err error }

func (b BadInput) Error() string { return b.Err.Error() }

func (b BadInput) Unwrap() error { return b.Err }

func badInput(format string, args ...any) error { return BadInput{fmt.Errorf(format, args...)} }

// lead is who leads the embedded study.
const lead = "r.lead"

// federation is a folder with all the files of a coordinator, its hospitals and a lead, made afresh: the
// same files that separate daemons start from.
type federation struct {
	dir        string
	consortium *study.Consortium
	study      *study.Study
	sites      []site
	approvals  map[string][]byte
	lead       string
}

func (f *federation) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

// prepare reads data and study and splits the data; nothing is written yet.
func prepare(o Options) (text []byte, sites []site, err error) {
	rng := rand.New(rand.NewPCG(o.Seed, 0x636f6e73696c6975)) //nolint:gosec // split and order alone: no secret comes from it
	if o.Study == nil {
		return embedded(o, rng)
	}
	text = o.Study
	s, err := study.Parse(text)
	if err != nil {
		return nil, nil, BadInput{named(o.StudyName, err)}
	}
	files, err := dataFiles(o.Data, s.Members)
	if err == nil {
		err = checkFiles(o.Data, s)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, name := range s.Members {
		st, err := holdBack(name, files[name], s.Data, rng)
		if err != nil {
			return nil, nil, BadInput{err}
		}
		sites = append(sites, st)
	}
	text, err = override(text, o)
	return text, sites, err
}

func named(name string, err error) error {
	var ps study.Problems
	if errors.As(err, &ps) && name != "" {
		return ps.WithFile(name)
	}
	return err
}

func embedded(o Options, rng *rand.Rand) ([]byte, []site, error) {
	n := o.Hospitals
	if n == 0 {
		n = len(wdbc.Hospitals)
	}
	if n < 3 {
		return nil, nil, badInput("simulating %d hospitals: want at least three: with two, each sees the other's update by subtracting its own", n)
	}
	if n > 100 {
		return nil, nil, badInput("simulating %d hospitals: the embedded data serve at most 100", n)
	}
	names := slices.Clone(wdbc.Hospitals[:min(n, len(wdbc.Hospitals))])
	for len(names) < n {
		names = append(names, fmt.Sprintf("hospital-%02d", len(names)+1))
	}
	from := time.Now().Add(-time.Hour)
	text, err := override(wdbc.Study([32]byte{}, lead, names, from, from.AddDate(1, 0, 0)), o)
	if err != nil {
		return nil, nil, err
	}
	s, err := study.Parse(text)
	if err != nil {
		return nil, nil, BadInput{named("study.yaml", err)}
	}
	sites, err := divide(wdbc.CSV, s.Data, names, rng)
	return text, sites, err
}

// override writes other rounds or another ε into the text of a study.
func override(text []byte, o Options) ([]byte, error) {
	set := func(field, value string) error {
		out, err := study.Override(text, field, value)
		if err != nil {
			return BadInput{err}
		}
		text = out
		return nil
	}
	if o.Rounds != 0 {
		if o.Rounds < 1 {
			return nil, badInput("simulating %d rounds: want at least one", o.Rounds)
		}
		s, err := study.Parse(text)
		if err != nil {
			return nil, BadInput{err}
		}
		if s.Strategy.AverageLast > o.Rounds {
			if err := set("strategy.average_last", fmt.Sprint(o.Rounds)); err != nil {
				return nil, err
			}
		}
		if err := set("strategy.rounds", fmt.Sprint(o.Rounds)); err != nil {
			return nil, err
		}
	}
	if o.Epsilon != 0 {
		if err := set("privacy.epsilon", fmt.Sprint(o.Epsilon)); err != nil {
			return nil, err
		}
	}
	return text, nil
}

// dataFiles reads one <hospital>.csv a member, and refuses a file of anybody else.
func dataFiles(dir string, members []string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, badInput("reading the data folder: %w", err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".csv")
		if !ok {
			continue
		}
		if !slices.Contains(members, name) {
			return nil, badInput("reading the data folder: %s is of a hospital that is not a member of the study; its members are %s", filepath.Join(dir, e.Name()), strings.Join(members, ", "))
		}
		if files[name], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, badInput("reading the data folder: %w", err)
		}
	}
	for _, m := range members {
		if files[m] == nil {
			return nil, badInput("reading the data folder: %s is missing: one CSV file for each member of the study", filepath.Join(dir, m+".csv"))
		}
	}
	return files, nil
}

// checkFiles checks each hospital's file as it is: after the split its lines have other numbers.
func checkFiles(dir string, s *study.Study) error {
	var errs []error
	for _, m := range s.Members {
		path := filepath.Join(dir, m+".csv")
		cells, err := dataset.CheckFile(path, s.Data, s.MaxPatients, dataset.Exclusion{})
		if err != nil {
			errs = append(errs, err)
		}
		for _, f := range cells {
			if !f.Hint {
				errs = append(errs, errors.New(f.String()))
			}
		}
	}
	if more := len(errs) - mostProblems; more > 0 {
		errs = append(errs[:mostProblems], fmt.Errorf("and %d more", more))
	}
	if len(errs) == 0 {
		return nil
	}
	return badInput("checking the data before anybody approves:\n%w", errors.Join(errs...))
}

// build writes a federation into dir, which must not exist. change alters its consortium, where it is not nil.
func build(dir string, text []byte, sites []site, o Options, change func(*study.Consortium)) (*federation, error) {
	f := &federation{dir: dir, sites: sites, approvals: map[string][]byte{}}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil, badInput("writing the federation: %s exists already, and nothing is overwritten", dir)
	}
	if err := store.PrivateDir(dir); err != nil {
		return nil, fmt.Errorf("writing the federation: %w", err)
	}
	steps := []func(Options) error{
		f.writeTrust,
		func(Options) error { return f.writeConsortium(text, change) },
		func(Options) error { return f.writeStudy(text) },
		f.writeHospitals, f.writeConfigs,
	}
	for _, step := range steps {
		if err := step(o); err != nil {
			return nil, fmt.Errorf("writing the federation: %w", err)
		}
	}
	return f, nil
}

func (f *federation) writeTrust(Options) error {
	root, err := simtee.NewRoot()
	if err != nil {
		return err
	}
	for _, d := range []string{"keys", "trust", "references"} {
		if err := store.PrivateDir(f.path(d)); err != nil {
			return err
		}
	}
	if err := store.WriteFile(f.path("keys", "sim-root.key"), simtee.MarshalRoot(root), 0o600); err != nil {
		return err
	}
	return store.WriteFile(f.path("trust", simtee.AnchorFile), simtee.MarshalAnchor(&root.PublicKey), 0o600)
}

func (f *federation) governance(hospital string) string {
	return f.path("keys", hospital+".governance.key")
}

func (f *federation) writeConsortium(text []byte, change func(*study.Consortium)) error {
	s, err := study.Parse(text)
	if err != nil {
		return BadInput{err}
	}
	f.lead = s.Lead
	logText, err := coordinator.Init(f.path("coordinator", "state"))
	if err != nil {
		return err
	}
	logKey, err := signed.ParseKey(logText)
	if err != nil {
		return err
	}
	c := &study.Consortium{
		Name: "simulation.example", Serial: 1, Amend: len(s.Members)/2 + 1, Log: logKey,
		Hospitals: map[string]study.Hospital{}, People: map[string]study.Person{},
		Attestation: study.Attestation{Node: simulated(attest.RoleNode), Coordinator: simulated(attest.RoleCoordinator)},
	}
	for _, m := range s.Members {
		pub, err := keyfile.Make(f.governance(m))
		if err != nil {
			return err
		}
		c.Hospitals[m] = study.Hospital{Governance: pub, Registries: []string{s.Data.Registry}, Contact: "nobody@" + m + ".example"}
	}
	for _, p := range append([]string{s.Lead}, s.Release.To...) {
		if _, known := c.People[p]; known {
			continue
		}
		pub, err := keyfile.Make(f.path("keys", p+".key"))
		if err != nil {
			return err
		}
		role := study.RoleAuditor
		if p == s.Lead {
			role = study.RoleLead
		}
		c.People[p] = study.Person{Role: role, Key: pub}
	}
	if change != nil {
		change(c)
	}
	return f.signConsortium(study.RenderConsortium(c), s.Members)
}

func simulated(role attest.Role) study.Accept {
	return study.Accept{Formats: []string{string(simtee.Format)}, AllowSimulated: true, Measurements: [][32]byte{simtee.Measurement(role)}}
}

func (f *federation) signConsortium(file []byte, members []string) error {
	c, err := study.ParseConsortium(file)
	if err != nil {
		return err
	}
	var sigs []byte
	for _, m := range members {
		key, err := keyfile.Read(f.governance(m))
		if err != nil {
			return err
		}
		if sigs, err = c.Sign(sigs, key); err != nil {
			return err
		}
	}
	f.consortium = c
	if err := store.WriteFile(f.path("consortium.yaml"), file, 0o600); err != nil {
		return err
	}
	return store.WriteFile(f.path(pinned.SignaturesFile), sigs, 0o600)
}

func (f *federation) writeStudy(text []byte) error {
	text, err := study.WithConsortium(text, f.consortium.Digest)
	if err != nil {
		return BadInput{err}
	}
	if f.study, err = study.Parse(text); err != nil {
		return BadInput{err}
	}
	if err := f.study.Check(f.consortium, time.Now()); err != nil {
		return BadInput{named("study.yaml", err)}
	}
	return store.WriteFile(f.path("study.yaml"), text, 0o600)
}

func (f *federation) writeHospitals(Options) error {
	for _, s := range f.sites {
		if err := f.writeHospital(s); err != nil {
			return fmt.Errorf("hospital %q: %w", s.name, err)
		}
	}
	return nil
}

func (f *federation) writeHospital(s site) error {
	for _, d := range []string{s.name, filepath.Join(s.name, "approvals"), "held-back"} {
		if err := store.PrivateDir(f.path(d)); err != nil {
			return err
		}
	}
	governance, err := keyfile.Read(f.governance(s.name))
	if err != nil {
		return err
	}
	keys, err := node.Init(f.path(s.name, "state"))
	if err != nil {
		return err
	}
	until := f.study.Until
	enrolment, err := study.Enrolment{
		Consortium: f.consortium.Name, Hospital: s.name, Node: "1",
		NodeKey: keys.Public().Node, WitnessKey: keys.Public().Witness, Serial: 1, Until: until,
	}.Sign(governance)
	if err != nil {
		return err
	}
	approval, err := f.approve(s.name, governance, until)
	if err != nil {
		return err
	}
	f.approvals[s.name] = approval
	for path, b := range map[string][]byte{
		f.path(s.name, "enrolment.json"):                                 enrolment,
		f.path(s.name, "approvals", study.Short(f.study.Digest)+".json"): approval,
		f.path(s.name, "data.csv"):                                       s.train,
		f.path("held-back", s.name+".csv"):                               s.held,
	} {
		if err := store.WriteFile(path, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *federation) approve(hospital string, governance ed25519.PrivateKey, until time.Time) ([]byte, error) {
	return study.Approval{
		Study: f.study.Digest, Hospital: hospital, Dataset: f.study.Data.Registry,
		Name: "Simulated Steward", Role: "data steward", Meaning: "approved in a simulation; no patient is in two members", Until: until,
	}.Sign(governance)
}

// writeConfigs writes what each daemon and the lead read first.
func (f *federation) writeConfigs(o Options) error {
	listen, err := address(o.Listen)
	if err != nil {
		return err
	}
	at := o.Coordinator
	if at == "" {
		at = listen
	}
	pin := signed.DigestText(f.consortium.Digest)
	p := f.study.Privacy
	files := map[string]string{
		f.path("coordinator", "coordinator.yaml"): fmt.Sprintf(`# Simulated: its TEE proves nothing about the machine.
version: consilium.coordinator/v1
listen: %q
consortia: [{file: ../consortium.yaml, digest: %q}]
state: state
log: {batch: 100ms, checkpoint: 250ms, merge_delay: 1s}
trust: ../trust
references: ../references
tee: sim
sim_root: ../keys/sim-root.key
insecure: {simulated_tee: true}
`, listen, pin),
		f.path("consilium.yaml"): fmt.Sprintf(`# For people: consilium --config consilium.yaml
version: consilium.cli/v1
coordinator: %q
consortia: [{file: consortium.yaml, digest: %q}]
trust: trust
references: references
person: %s
key: keys/%s.key
`, at, pin, f.lead, f.lead),
	}
	for _, s := range f.sites {
		files[f.path(s.name, "node.yaml")] = fmt.Sprintf(`# Simulated: its TEE proves nothing about the machine.
version: consilium.node/v1
hospital: %s
node: "1"
coordinator: %q
consortia: [{file: ../consortium.yaml, digest: %q}]
state: state
enrolment: enrolment.json
trust: ../trust
references: ../references
approvals: approvals
registries: {%s: {file: data.csv, budget: {epsilon: %v, delta: %v}}}
tee: sim
sim_root: ../keys/sim-root.key
insecure: {simulated_tee: true}
`, s.name, at, pin, f.study.Data.Registry, 8*max(p.Epsilon, 1), 10*p.Delta)
	}
	for path, text := range files {
		if err := store.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// address is where the coordinator listens: what was asked for, or a port that is free now.
func address(listen string) (string, error) {
	want := listen
	if want == "" {
		want = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", want)
	if err != nil {
		return "", badInput("listening on %s: %w: choose another address with --listen", want, err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", err
	}
	if listen != "" && !strings.HasSuffix(listen, ":0") {
		return listen, nil
	}
	return at, nil
}

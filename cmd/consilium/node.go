package main

import (
	"crypto/ed25519"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
)

type enrolFlags struct {
	consortium, hospital, node, nodeKey, witnessKey, predecessor, key, out string
	serial                                                                 uint64
	until                                                                  instant
}

type enrolResult struct {
	File     string `json:"file"`
	Hospital string `json:"hospital"`
	Node     string `json:"node"`
	Serial   uint64 `json:"serial"`
	Until    string `json:"until"`
}

func (a *app) nodeEnrol() *cobra.Command {
	var f enrolFlags
	c := &cobra.Command{
		Use:   "enrol --hospital H --node N --node-key K --witness-key K --key FILE --out FILE",
		Short: "Enrol a node with its hospital's governance key",
		Long: `Signs, offline, that a node speaks for its hospital. consilium-node init prints the node's keys. One node a hospital lives: the highest serial
wins. --predecessor takes the signed stop of the node before; without it every study that the hospital has charged is closed for it.`,
		Example: `  consilium node enrol --hospital cleveland --node 1 --node-key ed25519:… --witness-key ed25519:… --key governance.key --out enrolment.json`,
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "hospital", "node", "node-key", "witness-key", "key", "out"); err != nil {
				return err
			}
			return a.enrol(f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.consortium, "consortium", "consortium.yaml", "consortium `FILE`")
	fl.StringVar(&f.hospital, "hospital", "", "`NAME` of the hospital")
	fl.StringVar(&f.node, "node", "", "`NAME` of the node")
	fl.StringVar(&f.nodeKey, "node-key", "", "node `KEY`, ed25519:…")
	fl.StringVar(&f.witnessKey, "witness-key", "", "witness `KEY`, ed25519:…")
	fl.Uint64Var(&f.serial, "serial", 1, "`NUMBER` above that of every node before")
	fl.Var(&f.until, "until", "end of the enrolment; a year from now by default")
	fl.StringVar(&f.predecessor, "predecessor", "", "signed stop `FILE` of the node before")
	fl.StringVar(&f.key, "key", "", "governance key `FILE`")
	fl.StringVar(&f.out, "out", "", "new enrolment `FILE`")
	return c
}

func (a *app) enrol(f enrolFlags) error {
	c, err := readConsortium(f.consortium)
	if err != nil {
		return err
	}
	key, err := governanceKey(c, f.hospital, f.key)
	if err != nil {
		return err
	}
	if f.until.IsZero() {
		f.until.Time = a.now().AddDate(1, 0, 0)
	}
	e := study.Enrolment{Consortium: c.Name, Hospital: f.hospital, Node: f.node, Serial: f.serial, Until: f.until.Time}
	if e.NodeKey, err = signed.ParseKey(f.nodeKey); err != nil {
		return bad("--node-key: %w", err)
	}
	if e.WitnessKey, err = signed.ParseKey(f.witnessKey); err != nil {
		return bad("--witness-key: %w", err)
	}
	if f.predecessor != "" {
		b, err := readFile("stop", f.predecessor)
		if err != nil {
			return err
		}
		s, err := study.ParseStop(b)
		if err != nil {
			return place(f.predecessor, err)
		}
		e.Predecessor = &s
	}
	file, err := e.Sign(key)
	if err != nil {
		return badInput{err}
	}
	if _, err := c.ParseEnrolment(file, a.now()); err != nil { // as everybody will read it
		return badInput{err}
	}
	if err := writeNew(f.out, file); err != nil {
		return err
	}
	if f.predecessor == "" && f.serial > 1 {
		a.tell("without the predecessor's stop every study that %s has charged is closed for it", f.hospital)
	}
	r := enrolResult{f.out, f.hospital, f.node, f.serial, f.until.String()}
	return a.print(r, fmt.Sprintf("%s: node %s of %s, serial %d, until %s\n", f.out, f.node, f.hospital, f.serial, r.Until))
}

// governanceKey reads a key, which has to be the one that the consortium lists for the hospital.
func governanceKey(c *study.Consortium, hospital, file string) (ed25519.PrivateKey, error) {
	h, known := c.Hospitals[hospital]
	if !known {
		return nil, bad("%s lists no hospital %q", c.Name, hospital)
	}
	key, err := readKey(file)
	if err != nil {
		return nil, err
	}
	if !h.Governance.Equal(key.Public()) {
		return nil, bad("the key in %s is %s, %s lists %s for %q", file, signed.KeyText(key.Public().(ed25519.PublicKey)), c.Name, signed.KeyText(h.Governance), hospital)
	}
	return key, nil
}

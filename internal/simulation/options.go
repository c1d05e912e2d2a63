package simulation

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Options say what to simulate. The zero value is the default study: WDBC, five hospitals.
type Options struct {
	Study       []byte  // text of study.yaml; nil is the embedded study
	StudyName   string  // what errors call it
	Data        string  // folder with one <hospital>.csv a member; with Study alone
	Hospitals   int     // of the embedded study; 0 is five
	Rounds      int     // 0: the study's
	Epsilon     float64 // 0: the study's
	Seed        uint64  // of split and order alone
	Drops       []Drop  // hospitals that go away for good
	Out         string  // "": consilium-out/<study>-<time>
	Keep        string  // folder for the files from which it starts; "": none kept
	Listen      string  // of the coordinator; "": a free port on loopback
	Coordinator string  // where nodes and people find it; "": where it listens
	Logger      *slog.Logger
	Progress    func(Progress) // nil: nobody looks
}

// Drop says that a hospital goes away for good, before it sends a certain message of a certain round.
type Drop struct {
	Hospital string
	Round    uint64
	Phase    string // ready, deal, upload, vote or release
}

// ParseDrop reads HOSPITAL@ROUND[:PHASE]; without a phase it is ready.
func ParseDrop(s string) (Drop, error) {
	wrong := fmt.Errorf("reading drop %q: want HOSPITAL@ROUND or HOSPITAL@ROUND:PHASE, PHASE one of ready, deal, upload, vote, release", s)
	hospital, rest, ok := strings.Cut(s, "@")
	round, phase, named := strings.Cut(rest, ":")
	n, err := strconv.ParseUint(round, 10, 32)
	if !ok || hospital == "" || err != nil || n == 0 {
		return Drop{}, wrong
	}
	if !named {
		phase = "ready"
	}
	switch phase {
	case "ready", "deal", "upload", "vote", "release":
		return Drop{Hospital: hospital, Round: n, Phase: phase}, nil
	}
	return Drop{}, wrong
}

// String is the form that ParseDrop reads.
func (d Drop) String() string { return fmt.Sprintf("%s@%d:%s", d.Hospital, d.Round, d.Phase) }

// Progress is one thing that happened, as the lead who watches the study hears it. Nothing in it is
// computed from patients.
type Progress struct {
	Time     time.Time
	Kind     string // step (of the simulation itself), state, round, phase, arrived, missing, refused, closed, aborted, burnt, log
	Round    uint64
	Rounds   int // of the study
	Phase    string
	Hospital string
	Bytes    uint64
	Text     string
}

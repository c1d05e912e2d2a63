package aggregate

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf8"
)

// maxMembers keeps a Roster, which grows with the square of the committee, under the size of one message.
const maxMembers = 128

// maxDim is far below the 2^34 AES blocks of one key at which blocks would start to collide.
const maxDim = 1 << 36

// Thresholds returns how many members may collude and how many votes, and how many shares, open a
// round of a committee out of a study's members.
//
// colluding is max(1, ⌊members/4⌋). threshold is ⌊(committee+colluding)/2⌋+1, so that two
// certificates share an honest voter; where the committee is as small as the minimum one set alone
// can be signed, and colluding+1 is enough. It is an error if minimum < max(3, colluding+2) or the
// committee is not between minimum and members.
func Thresholds(members, committee, minimum int) (colluding, threshold int, err error) {
	if members < 3 || members > maxMembers {
		return 0, 0, fmt.Errorf("computing thresholds: %d members, want 3 to %d", members, maxMembers)
	}
	colluding = max(1, members/4)
	if floor := max(3, colluding+2); minimum < floor || minimum > members {
		return 0, 0, fmt.Errorf("computing thresholds: minimum %d of %d members, want %d to %d", minimum, members, floor, members)
	}
	if committee < minimum || committee > members {
		return 0, 0, fmt.Errorf("computing thresholds: committee of %d, want %d to %d", committee, minimum, members)
	}
	if committee == minimum {
		return colluding, colluding + 1, nil
	}
	return colluding, (committee+colluding)/2 + 1, nil
}

// check refuses a plan that no honest study has: what it checks is the compiled floor under
// whatever the parties agree on.
func (p Plan) check() error {
	if err := sortedMembers(p.Members); err != nil {
		return fmt.Errorf("members: %w", err)
	}
	c, _, err := Thresholds(len(p.Members), len(p.Members), p.Minimum)
	if err != nil {
		return err
	}
	switch {
	case p.Colluding != c:
		return fmt.Errorf("colluding %d, want %d of %d members", p.Colluding, c, len(p.Members))
	case p.Round.Number == 0:
		return fmt.Errorf("round number 0, want at least 1")
	case p.Dim < 1 || p.Dim > maxDim:
		return fmt.Errorf("dimension %d, want 1 to %d", p.Dim, maxDim)
	case p.WordBits != 24 && p.WordBits != 32 && p.WordBits != 64:
		return fmt.Errorf("words of %d bits, want 24, 32 or 64", p.WordBits)
	case p.SumBound == 0:
		return fmt.Errorf("sum bound 0, want a bound")
	}
	// No wrap: every honest sum with its noise has one reading as a signed word.
	if limit := uint64(1) << (p.WordBits - 1); p.SumBound >= limit || p.Noise.Bound >= limit-p.SumBound {
		return fmt.Errorf("sum bound %d and noise bound %d, want together less than %d", p.SumBound, p.Noise.Bound, limit)
	}
	return p.Noise.check(p.Minimum - p.Colluding)
}

func (n Noise) check(honest int) error {
	want := map[Source]int{Members: honest, Aggregator: 1}[n.Source]
	switch {
	case want == 0:
		return fmt.Errorf("noise source %d, want %d or %d", n.Source, Members, Aggregator)
	case n.Shares != want:
		return fmt.Errorf("noise of %d shares, want %d", n.Shares, want)
	case len(n.Mechanism) > maxMechanism:
		return fmt.Errorf("noise mechanism of %d bytes, want at most %d", len(n.Mechanism), maxMechanism)
	}
	return nil
}

// agrees compares with the plan that a hospital computed from its own study, in all but what only
// the coordinator can know.
func (p Plan) agrees(want Plan) error {
	differs := func(field string, got, want any) error {
		return fmt.Errorf("%s %v, want %v as the study says", field, got, want)
	}
	switch {
	case p.Round.Study != want.Round.Study:
		return differs("study", fmt.Sprintf("%x", p.Round.Study), fmt.Sprintf("%x", want.Round.Study))
	case p.Dim != want.Dim:
		return differs("dimension", p.Dim, want.Dim)
	case p.WordBits != want.WordBits:
		return differs("word bits", p.WordBits, want.WordBits)
	case !slices.Equal(p.Members, want.Members):
		return differs("members", p.Members, want.Members)
	case p.Minimum != want.Minimum:
		return differs("minimum", p.Minimum, want.Minimum)
	case p.Colluding != want.Colluding:
		return differs("colluding", p.Colluding, want.Colluding)
	case p.SumBound != want.SumBound:
		return differs("sum bound", p.SumBound, want.SumBound)
	case !p.Noise.equal(want.Noise):
		return differs("noise", p.Noise, want.Noise)
	}
	// A field added to Plan and forgotten above is still compared.
	want.Round.Number, want.Model, want.Ledger, want.Deadlines = p.Round.Number, p.Model, p.Ledger, p.Deadlines
	if !bytes.Equal(encode(p), encode(want)) {
		return fmt.Errorf("plan differs from what the study says")
	}
	return nil
}

// WordBytes is how many bytes a word takes in a masked vector: 3, 4 or 8.
func (p Plan) WordBytes() int { return int(p.WordBits) / 8 }

func (n Noise) equal(m Noise) bool {
	return n.Source == m.Source && n.Shares == m.Shares && n.Bound == m.Bound && bytes.Equal(n.Mechanism, m.Mechanism)
}

// After refuses a round number that a member must not take, given the last that it saw: an old
// number would be a second answer, and one far ahead would mute the member for good.
func (id RoundID) After(last uint64) error {
	if id.Number <= last || id.Number-last > 1024 {
		return fmt.Errorf("round number %d, want after %d and at most 1024 further", id.Number, last)
	}
	return nil
}

func sortedMembers(ids []MemberID) error {
	for i, id := range ids {
		switch {
		case id == "" || len(id) > maxName || !utf8.ValidString(string(id)):
			return fmt.Errorf("name %d of %d bytes, want 1 to %d of UTF-8", i, len(id), maxName)
		case i > 0 && ids[i-1] >= id:
			return fmt.Errorf("%q after %q, want them sorted and each once", id, ids[i-1])
		}
	}
	return nil
}

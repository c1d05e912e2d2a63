package simulation

import "github.com/consilium-fl/consilium/internal/simulation/summary"

// The types of summary.json.
type (
	Summary         = summary.Summary
	HospitalSummary = summary.Hospital
	PrivacySummary  = summary.Privacy
	RoundSummary    = summary.Round
	Score           = summary.Score
	Saw             = summary.Saw
)

// SummaryVersion names the format of summary.json.
const SummaryVersion = summary.Version

// Result is a finished simulation.
type Result struct {
	Summary Summary
	Out     string // folder, verified
	Keep    string
	Saw     Saw // for the report: what the coordinator saw, beside what it did not
	Checked int // lines that the verifier checked
}

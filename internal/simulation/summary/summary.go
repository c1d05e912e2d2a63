// Package summary holds what a finished simulation has to show: summary.json, and the data of the
// report's plots. All of it is computed from released models and by the one process that owns all data.
package summary

// Version names the format of summary.json, which docs/summary.md documents.
const Version = "consilium.summary/v1"

// Summary is what --json prints. The simulation computes it from released models and from data that it
// alone holds together; nothing of it travelled.
type Summary struct {
	Version         string     `json:"version"`
	Simulated       bool       `json:"simulated"`
	Study           string     `json:"study"`
	State           string     `json:"state"` // ended or short
	Why             string     `json:"why,omitempty"`
	Out             string     `json:"out"`
	Seconds         float64    `json:"seconds"`
	PeakBytes       uint64     `json:"peak_bytes"`
	Federated       Score      `json:"federated"`
	Pooled          Score      `json:"pooled"`
	MeanOfHospitals Score      `json:"mean_of_hospitals"`
	Hospitals       []Hospital `json:"hospitals"`
	Privacy         Privacy    `json:"privacy"`
	Rounds          []Round    `json:"rounds"`
}

// Hospital is one hospital's row.
type Hospital struct {
	Name       string `json:"name"`
	Train      int    `json:"train"`
	HeldBack   int    `json:"held_back"`
	Federated  Score  `json:"federated"`    // the released model on its held-back patients
	Alone      Score  `json:"alone"`        // its own converged model on its held-back patients
	AloneNoise Score  `json:"alone_noised"` // its own model at the study's ε, on its held-back patients
	AloneOnAll Score  `json:"alone_on_all"` // its own converged model on everybody's held-back patients
}

// Privacy holds the three ε.
type Privacy struct {
	Epsilon         float64  `json:"epsilon"`
	EpsilonBudget   float64  `json:"epsilon_budget"`
	EpsilonIfBroken *float64 `json:"epsilon_if_tee_broken"`
	EpsilonOwnNoise *float64 `json:"epsilon_own_noise"`
	Delta           float64  `json:"delta"`
	Charges         uint64   `json:"charges"`
}

// Round is one round as the lead saw it.
type Round struct {
	Number  uint64             `json:"number"`
	Outcome string             `json:"outcome"`
	Seconds float64            `json:"seconds"`
	Phases  map[string]float64 `json:"phases"` // seconds
	Bytes   uint64             `json:"bytes"`  // of masked vectors
	Set     []string           `json:"set"`
}

// Saw is the first panel of the report.
type Saw struct {
	Round     uint64
	Hospital  string
	Plain     []int64 // its update, known to the simulation alone
	Masked    []byte  // the words that the coordinator got for it
	WordBits  uint8
	Sum       []int64 // the noised sum of that round
	Columns   []string
	Histogram [16]uint64 // bytes of all masked words of all rounds, in 16 bins of 16 values
}

// Score is how a model does on held-back rows: nil where it is not defined, as an AUC with one class.
type Score struct {
	AUC      *float64 `json:"auc"`
	Accuracy *float64 `json:"accuracy"`
}

// Attested is how one process was appraised.
type Attested struct {
	Who         string // hospital, or "coordinator"
	Format      string
	Status      string
	Simulated   bool
	Measurement string
	Machine     string
}

// Curve is the released model's history: what the running average of the iterates scored after each
// closed round, and the privacy spent by then.
type Curve struct {
	Round         uint64
	Accuracy, AUC *float64
	Epsilon       float64
}

package report_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/consilium-fl/consilium/internal/simulation/report"
	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

func at[T any](v T) *T { return &v }

// wdbc is what a study of five hospitals and 31 columns has to show: one round of thirty-one aborted after
// three seconds of waiting for a hospital.
func wdbc() report.Data {
	r := rand.New(rand.NewPCG(1, 2))
	hospitals := []string{"alder", "birch", "cedar", "hazel", "rowan"}
	var columns []string
	for _, kind := range []string{"mean", "se", "worst"} {
		for _, f := range []string{"radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave_points", "symmetry", "fractal_dimension"} {
			columns = append(columns, f+"_"+kind)
		}
	}
	d := report.Data{
		Title: "Breast mass, malignant or benign, from cell nuclei",
		Summary: summary.Summary{
			Version: summary.Version, Simulated: true, State: "ended", Out: "consilium-out/5f0c", Seconds: 3.91, PeakBytes: 171_200_000,
			Study:     "sha256:5f0c0a6ddd4b1f27f2dd07dc1bd0dd3b2a4f2dc52b5d1b8ea3a0b2f9de8e6c11",
			Federated: sc(.953, .989), Pooled: sc(.962, .9925), MeanOfHospitals: sc(.9493, .9861),
			Privacy: summary.Privacy{Epsilon: .9493, EpsilonBudget: 1, EpsilonIfBroken: at(.9493), EpsilonOwnNoise: at(1.3907), Delta: 1e-5, Charges: 30},
		},
		Saw: saw(r, append(columns, "intercept"), 32, 151),
		Checked: []string{
			"152 files hold what the receipt says of them, byte for byte",
			"the consortium file is signed by 5 of 5 hospitals, the study by its lead, and 5 of 5 approvals are of this study",
			"31 rounds: plans, sets, votes and results answer one another; 30 sums give the released model, word for word",
			"the log has 412 leaves, none was rewritten, and 5 of 5 witnesses signed its last checkpoint",
			"ε was computed anew from the receipt's events",
		},
		Not: []string{
			"whether the hospitals' rows are true",
			"on which machines it ran: the evidence is of simulated machines",
			"report.html and summary.json, which are views",
		},
	}
	for i, h := range hospitals {
		n := []int{152, 95, 57, 46, 30}[i]
		d.Summary.Hospitals = append(d.Summary.Hospitals, summary.Hospital{
			Name: h, Train: n, HeldBack: n / 2,
			Federated: sc(.93+.012*float64(i), .985), Alone: sc(.97-.02*float64(i), .98-.02*float64(i)),
			AloneNoise: sc(.9-.06*float64(i), .93-.08*float64(i)), AloneOnAll: sc(.95-.03*float64(i), .97-.01*float64(i)),
		})
	}
	last := &d.Summary.Hospitals[4]
	last.Federated.AUC, last.Alone.AUC, last.AloneNoise.AUC = nil, nil, nil
	rounds(r, &d, hospitals, 31, 12)
	attest(&d, hospitals)
	return d
}

func sc(accuracy, auc float64) summary.Score { return summary.Score{Accuracy: &accuracy, AUC: &auc} }

func saw(r *rand.Rand, columns []string, bits uint8, patients int) summary.Saw {
	s := summary.Saw{Round: 1, Hospital: "alder", WordBits: bits, Columns: columns}
	scale := 16384 / math.Sqrt(float64(len(columns))) * float64(patients) / 3
	var word [8]byte
	for range columns {
		x := int64(r.NormFloat64() * scale)
		s.Plain = append(s.Plain, x)
		s.Sum = append(s.Sum, 2*x+int64(r.NormFloat64()*scale))
		binary.LittleEndian.PutUint64(word[:], r.Uint64())
		s.Masked = append(s.Masked, word[:bits/8]...)
	}
	for range 30 * 5 * len(columns) * int(bits) / 8 {
		s.Histogram[r.IntN(16)]++
	}
	return s
}

func rounds(r *rand.Rand, d *report.Data, hospitals []string, n, aborted int) {
	for i := 1; i <= n; i++ {
		p := map[string]float64{}
		var total float64
		for k, name := range []string{"gathering", "dealing", "collecting", "voting", "releasing", "opening"} {
			p[name] = (.003 + .004*float64(k%3)) * (1 + r.Float64())
			if i == aborted && k > 2 {
				delete(p, name)
			} else if i == aborted && k == 2 {
				p[name] = 3.02
			}
			total += p[name]
		}
		round := summary.Round{Number: uint64(i), Outcome: "closed", Seconds: total, Phases: p, Bytes: uint64(4 * len(d.Saw.Columns) * len(hospitals)), Set: hospitals}
		switch {
		case i == aborted:
			round.Outcome, round.Set, round.Bytes = "aborted", nil, round.Bytes*3/5
		case i > aborted && i < aborted+6:
			round.Set, round.Bytes = append(append([]string{}, hospitals[:2]...), hospitals[3:]...), round.Bytes*4/5
		}
		d.Summary.Rounds = append(d.Summary.Rounds, round)
		if i != aborted {
			a := .955 - .35*math.Exp(-float64(i)/3) + .008*r.NormFloat64()/math.Sqrt(float64(i))
			u := .99 - .3*math.Exp(-float64(i)/3)
			d.Curve = append(d.Curve, summary.Curve{Round: uint64(i), Accuracy: &a, AUC: &u, Epsilon: .9493 * math.Sqrt(float64(i)/float64(n))})
		}
	}
}

func attest(d *report.Data, hospitals []string) {
	for i, who := range append([]string{"coordinator"}, hospitals...) {
		d.Attested = append(d.Attested, summary.Attested{
			Who: who, Format: "sim/1", Status: "warning", Simulated: true,
			Measurement: fmt.Sprintf("sha256:%064x", i+0xabcdef0123456), Machine: fmt.Sprintf("chip:%032x", 0x1234567890+i),
		})
	}
}

// hearts is a smaller study that ended short: thirteen columns and an intercept, words of 24 bits, four
// hospitals, a burnt round, no bound with the machine broken.
func hearts() report.Data {
	r := rand.New(rand.NewPCG(3, 4))
	hospitals := []string{"cleveland", "hungarian", "switzerland", "va"}
	columns := []string{"age", "sex=1", "cp=2", "cp=3", "cp=4", "trestbps", "chol", "fbs=1", "restecg=1", "restecg=2", "thalach", "exang=1", "oldpeak", "intercept"}
	d := report.Data{
		Title: "Coronary disease from ten clinical features",
		Summary: summary.Summary{
			Simulated: true, State: "short", Why: "switzerland and va were away: 2 hospitals were left, and 3 are needed", Seconds: 131.2, PeakBytes: 98_000_000,
			Study:     "sha256:aa0c0a6ddd4b1f27f2dd07dc1bd0dd3b2a4f2dc52b5d1b8ea3a0b2f9de8e6c11",
			Federated: sc(.801, .878), Pooled: sc(.81, .88), MeanOfHospitals: summary.Score{Accuracy: at(.79)},
			Privacy: summary.Privacy{Epsilon: .61, EpsilonBudget: 1, EpsilonOwnNoise: at(2.2), Delta: 2.5e-6, Charges: 13},
		},
		Saw: saw(r, columns, 24, 200),
	}
	for i, h := range hospitals {
		d.Summary.Hospitals = append(d.Summary.Hospitals, summary.Hospital{
			Name: h, Train: 200 - 40*i, HeldBack: 100 - 20*i, Federated: sc(.8-.02*float64(i), .87-.2*float64(i)), Alone: sc(.79, .85), AloneNoise: sc(.6, .41), AloneOnAll: sc(.7, .8),
		})
	}
	rounds(r, &d, hospitals, 13, 13)
	d.Summary.Rounds[6].Outcome = "burnt"
	attest(&d, hospitals)
	d.Attested[1].Simulated, d.Attested[1].Status, d.Attested[1].Format, d.Attested[1].Machine = false, "affirming", "snp/1", ""
	return d
}

// hostile has names that would be markup, were they not text, and long ones.
func hostile() report.Data {
	d := wdbc()
	d.Title = `</title></style><script>document.title="owned"</script><img src=x onerror=alert(1)> "study"`
	d.Summary.Hospitals[0].Name = `alder" onload="document.title='owned'`
	d.Summary.Hospitals[1].Name = `<svg onload=alert(1)>`
	d.Summary.Hospitals[2].Name = "The-Very-Long-Name-Of-A-University-Hospital-Without-A-Single-Space"
	d.Saw.Hospital = `</text></svg><script>document.title="owned"</script>`
	d.Saw.Columns[0] = `"><script>document.title="owned"</script>`
	d.Saw.Columns[1] = "Каждое имя столбца — это текст"
	d.Summary.Why, d.Summary.State = `<a href="javascript:alert(1)">why</a>`, "short"
	d.Attested[0].Who = `<script>document.title="owned"</script>`
	d.Checked = append(d.Checked, `<iframe src="data:text/html,x"></iframe> {{.Title}}`)
	for i := range d.Summary.Rounds {
		d.Summary.Rounds[i].Set = []string{d.Summary.Hospitals[0].Name, d.Summary.Hospitals[1].Name}
	}
	return d
}

// large is a study at the edge of what is drawn: eighty hospitals, 400 columns, 64-bit words, 200 rounds.
func large() report.Data {
	r := rand.New(rand.NewPCG(5, 6))
	var hospitals, columns []string
	for i := range 80 {
		hospitals = append(hospitals, fmt.Sprintf("hospital-%02d", i))
	}
	for i := range 400 {
		columns = append(columns, fmt.Sprintf("gene_%d=%d", i, i%7))
	}
	d := report.Data{
		Title: "Eighty hospitals",
		Summary: summary.Summary{
			Simulated: true, State: "ended", Seconds: 59.4, PeakBytes: 1_200_000_000, Study: "sha256:" + fmt.Sprintf("%064x", 7),
			Federated: sc(.7, .75), Pooled: sc(.71, .76), MeanOfHospitals: sc(.69, .74),
			Privacy: summary.Privacy{Epsilon: 7.99, EpsilonBudget: 8, EpsilonIfBroken: at(7.99), EpsilonOwnNoise: at(61.5), Delta: 1e-6, Charges: 199},
		},
		Saw: saw(r, columns, 64, 1_000_000),
	}
	for _, h := range hospitals {
		d.Summary.Hospitals = append(d.Summary.Hospitals, summary.Hospital{
			Name: h, Train: 123_456, HeldBack: 61_728, Federated: sc(.7, .75), Alone: sc(.69, .7), AloneNoise: sc(.5, .5), AloneOnAll: sc(.6, .65),
		})
	}
	rounds(r, &d, hospitals, 200, 77)
	attest(&d, hospitals)
	return d
}

package simulation

import (
	"bytes"
	"fmt"
	"sort"

	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/node/dataset"
	"github.com/consilium-fl/consilium/node/train"
)

// table is rows and labels in memory, as only the simulation may hold them together.
type table struct {
	rows   [][]float64
	labels []float64
}

func readTable(name string, file []byte, s *study.Study) (table, error) {
	set, _, err := dataset.Load(bytes.NewReader(file), name, s.Data, dataset.Exclusion{})
	if err != nil {
		return table{}, fmt.Errorf("reading held-back rows: %w", err)
	}
	var t table
	for i := range set.Patients() {
		rows, labels := set.Patient(i)
		for j := range rows {
			t.rows = append(t.rows, rows[j][:s.Dim()])
			t.labels = append(t.labels, labels[j])
		}
	}
	return t, nil
}

func join(ts []table) table {
	var all table
	for _, t := range ts {
		all.rows = append(all.rows, t.rows...)
		all.labels = append(all.labels, t.labels...)
	}
	return all
}

// score evaluates a logistic model: accuracy at one half, and the area under the ROC curve with ties
// counted half (Mann and Whitney's U).
func (t table) score(model []float64) Score {
	if len(t.rows) == 0 || model == nil {
		return Score{}
	}
	p := make([]float64, len(t.rows))
	right := 0
	for i, x := range t.rows {
		p[i] = train.Predict(model, x)
		if (p[i] >= 0.5) == (t.labels[i] == 1) {
			right++
		}
	}
	accuracy := float64(right) / float64(len(p))
	return Score{AUC: auc(p, t.labels), Accuracy: &accuracy}
}

func auc(p, labels []float64) *float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return p[order[a]] < p[order[b]] })
	var rankSum, positives float64
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && p[order[j]] == p[order[i]] {
			j++
		}
		rank := float64(i+j+1) / 2 // mean of the ranks i+1 … j
		for ; i < j; i++ {
			if labels[order[i]] == 1 {
				rankSum += rank
				positives++
			}
		}
	}
	negatives := float64(len(p)) - positives
	if positives == 0 || negatives == 0 {
		return nil
	}
	a := (rankSum - positives*(positives+1)/2) / (positives * negatives)
	return &a
}

// mean of the scores that are defined.
func mean(ss []Score) Score {
	var out Score
	out.AUC = meanOf(ss, func(s Score) *float64 { return s.AUC })
	out.Accuracy = meanOf(ss, func(s Score) *float64 { return s.Accuracy })
	return out
}

func meanOf(ss []Score, of func(Score) *float64) *float64 {
	sum, n := 0.0, 0
	for _, s := range ss {
		if v := of(s); v != nil {
			sum, n = sum+*v, n+1
		}
	}
	if n == 0 {
		return nil
	}
	sum /= float64(n)
	return &sum
}

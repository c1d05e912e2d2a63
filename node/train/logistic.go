// Package train holds the trainers that are built into the node. Each yields one unclipped gradient a patient; clipping,
// noise and masks are the node's.
//
//	t := train.New(data, s.Model)
//	for g, err := range t.Gradients(ctx, weights) {
//		if err != nil {
//			continue // this patient counts as zero
//		}
//		grid.AddClipped(sum, g)
//	}
//	if ctx.Err() != nil { … } // cut short: the sum is of some patients only
//
// A gradient depends on that patient's rows and on the model alone: no batch statistics, no count, no loss.
package train

import (
	"context"
	"fmt"
	"iter"
	"math"

	"gonum.org/v1/gonum/floats"

	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/node/dataset"
)

// Logistic is logistic regression: for a patient the sum over its rows of (p − y)·x, the gradient of the log-loss.
// The study's l2 is the server's and not in it.
type Logistic struct {
	data *dataset.Dataset
	dim  int
}

// New trains on d. A model without an intercept does not see the last value of the rows, which is 1.
func New(d *dataset.Dataset, m study.Model) *Logistic {
	dim := d.Dim()
	if !m.Intercept {
		dim--
	}
	return &Logistic{data: d, dim: dim}
}

// Dim is the length of models and gradients.
func (l *Logistic) Dim() int { return l.dim }

// Gradients yields one gradient a patient, in the order of the file. The slice is reused: it is good until the next one.
// An error is that patient's own and the iteration goes on, but for a model of another length, where every patient is
// one. When ctx ends so does the iteration, without a further value.
func (l *Logistic) Gradients(ctx context.Context, model []float64) iter.Seq2[[]float64, error] {
	return func(yield func([]float64, error) bool) {
		sum := make([]float64, l.dim)
		for i := range l.data.Patients() {
			if ctx.Err() != nil {
				return
			}
			if len(model) != l.dim {
				if !yield(nil, fmt.Errorf("computing a gradient: model of %d weights, want %d", len(model), l.dim)) {
					return
				}
				continue
			}
			clear(sum)
			rows, labels := l.data.Patient(i)
			for j, x := range rows {
				x = x[:l.dim]
				floats.AddScaled(sum, Predict(model, x)-labels[j], x)
			}
			if !yield(sum, nil) {
				return
			}
		}
	}
}

// Predict is the probability of the positive class for a row as long as the model.
func Predict(model, x []float64) float64 {
	z := floats.Dot(model, x)
	if z >= 0 {
		return 1 / (1 + math.Exp(-z))
	}
	e := math.Exp(z) // of a large −z it would overflow
	return e / (1 + e)
}

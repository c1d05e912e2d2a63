package node

import (
	"context"
	"fmt"
	"math"

	"github.com/consilium-fl/consilium/dp"
)

// gradientSum is this hospital's contribution to a round: each patient's gradient clipped on the
// integer grid, summed in int64, and the sum clamped to the box of max_patients. A patient whose
// gradient fails counts as zero; failed is for the local log only. A sum that was cut short is an error:
// it would be of some patients, by chance.
func gradientSum(ctx context.Context, tr Trainer, g dp.Grid, maxPatients int, model []float64) (sum []int64, failed int, err error) {
	if tr.Dim() != len(model) {
		return nil, 0, fmt.Errorf("training: the model has %d parameters, want %d", len(model), tr.Dim())
	}
	for i, w := range model {
		if math.IsNaN(w) || math.IsInf(w, 0) {
			return nil, 0, fmt.Errorf("training: parameter %d of the model is not finite", i)
		}
	}
	sum = make([]int64, len(model))
	for grad, err := range tr.Gradients(ctx, model) {
		if ctx.Err() != nil {
			break
		}
		if err != nil || len(grad) != len(sum) {
			failed++
			continue
		}
		g.AddClipped(sum, grad)
	}
	if err := ctx.Err(); err != nil { // a trainer may just end when it is told to
		clear(sum)
		return nil, 0, fmt.Errorf("training: %w", err)
	}
	g.Clamp(sum, maxPatients)
	return sum, failed, nil
}

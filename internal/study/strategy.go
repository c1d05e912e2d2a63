package study

import "math"

// Next is one step of FedSGD from the iterate w and the opened integer sum of clipped gradients:
//
//	w − learning_rate·(clip/2^grid_bits · sum/cohort + l2·w)
//
// without l2 for the intercept. It returns a new slice. Every operation is rounded to float64 by itself
// (a conversion forbids fused operations), so that coordinator and verifier agree bit for bit on every machine.
// It panics when the lengths differ: sums are made to the model's length.
func (s *Study) Next(w []float64, sum []int64) []float64 {
	if len(w) != len(sum) {
		panic("study: a sum is as long as the model")
	}
	scale := math.Ldexp(s.Privacy.Clip, -int(s.Privacy.GridBits))
	cohort := float64(s.Privacy.Cohort)
	penalised := len(w)
	if s.Model.Intercept {
		penalised--
	}
	next := make([]float64, len(w))
	for i := range w {
		g := float64(float64(scale*float64(sum[i])) / cohort)
		if i < penalised {
			g = float64(g + float64(s.Model.L2*w[i]))
		}
		next[i] = float64(w[i] - float64(s.Strategy.LearningRate*g))
	}
	return next
}

// Released is the model that leaves: the mean of the last average_last iterates, or of all while there are
// fewer. iterates does not hold the initial model; without any the result is the initial model, zero.
func (s *Study) Released(iterates [][]float64) []float64 {
	mean := make([]float64, s.Dim())
	last := iterates[max(0, len(iterates)-s.Strategy.AverageLast):]
	if len(last) == 0 {
		return mean
	}
	for _, w := range last {
		for i := range mean {
			mean[i] = float64(mean[i] + w[i])
		}
	}
	for i := range mean {
		mean[i] = float64(mean[i] / float64(len(last)))
	}
	return mean
}
